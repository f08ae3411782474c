"""How good an image-text scorer is itself: how often it finds the caption of a real picture of a set, and the
picture of a caption, among some hundreds."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from impasto.config import ConfigError
from impasto.data.opening import resolve
from impasto.data.options import DatasetOptions
from impasto.data.source import DataSource
from impasto.metrics.alignment import Scorer
from impasto.pictures import to_images
from impasto.vision.contrastive import statement_ids

PICTURES, SIDE = 300, 64
WITHIN = (1, 10)


def retrieval_of_set(
    scorer: Scorer, source: str, options: DatasetOptions, *, side: int, count: int = PICTURES, seed: int = 0
) -> dict[str, Any]:
    """The first `count` pictures, in an order drawn with the seed, whose captions all say different things
    (fewer, where the set has not so many). Returns `pictures`, and for image_to_text and text_to_image the
    share that has its own among the nearest 1 and 10, by their numbers as text. Raises ConfigError or
    DataError, in one line."""
    records, options = resolve(source, options)
    data = DataSource(records, side, options, seed=seed)
    try:
        positions = _different(data, count)
        images, captions = data.batch(positions)
    finally:
        data.close()
    if len(positions) < 2:
        raise ConfigError(f"{source}: retrieval needs two pictures with different captions at least")
    pictures, texts = scorer.embed_pictures(to_images(images)), scorer.embed_prompts(captions)
    return {"pictures": len(positions), **recalls(pictures, texts)}


def recalls(images: Tensor, texts: Tensor) -> dict[str, dict[str, float]]:
    """images [N, D] and texts [N, D] that belong together in this order, neither normalised. Returns
    {direction: {nearest, "1" or "10": share of the N that have their own among so many}}."""
    cosines = F.normalize(images.double(), dim=1) @ F.normalize(texts.double(), dim=1).T
    return {"image_to_text": _recall(cosines), "text_to_image": _recall(cosines.T)}


def _recall(cosines: Tensor) -> dict[str, float]:
    """A tie counts as found too late."""
    before = (cosines >= cosines.diagonal()[:, None]).sum(1) - 1
    return {str(among): float((before < among).double().mean()) for among in WITHIN}


def _different(data: DataSource, count: int) -> list[int]:
    """Positions of the first epoch."""
    found: list[int] = []
    seen: set[int] = set()
    for start in range(0, len(data), count):
        captions = data.captions(min(count, len(data) - start), start)
        for position, statement in enumerate(statement_ids(captions).tolist(), start):
            if statement not in seen:
                seen.add(statement)
                found.append(position)
            if len(found) == count:
                return found
    return found
