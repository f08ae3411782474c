"""How well a scorer tells pictures apart: retrieval among many and, of scenes, captions that are wrong in one
fact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from impasto.data.scene_source import SceneSource
from impasto.vision.contrastive import statement_ids
from impasto.vision.features import ImageTextModel
from impasto.vision.hard_negatives import KINDS, hard_negative


class Source(Protocol):
    """Pictures with captions."""

    def batch(self, positions: Sequence[int]) -> tuple[Tensor, list[str]]:
        """Pictures [len, 3, R, R] in [-1, 1] and one caption each."""
        ...


class Retrieval:
    """Pictures and captions of positions 0 to count - 1 of a source.

    Called with a scorer it returns, in [0,1]: image_to_text and text_to_image, the R@1 among all `count`
    (captions that say the same are all right).
    """

    def __init__(self, source: Source, count: int = 256, *, batch_size: int = 64) -> None:
        self.images, self.captions = source.batch(range(count))
        self.batch_size = batch_size
        self._ids = statement_ids(self.captions)

    def texts(self) -> list[str]:
        """Every text of the evaluation."""
        return self.captions

    @torch.no_grad()
    def __call__(self, model: ImageTextModel) -> dict[str, float]:
        batches = self.images.split(self.batch_size)
        images = torch.cat([model.embed_images(part.to(model.device)) for part in batches])
        return self.score(images, model.embed_texts(self.texts()))

    def score(self, images: Tensor, texts: Tensor) -> dict[str, float]:
        """From embeddings of the pictures [count,D] and of `texts` [N,D], in that order."""
        images, texts = F.normalize(images, dim=-1).cpu(), F.normalize(texts, dim=-1).cpu()
        cosines = images @ texts[: len(self.captions)].t()
        return {"image_to_text": self._recall(cosines), "text_to_image": self._recall(cosines.t())}

    def _recall(self, cosines: Tensor) -> float:
        return float((self._ids[cosines.argmax(1)] == self._ids).float().mean())


class SceneRetrieval(Retrieval):
    """Of scenes, with their hard negatives: for each kind of KINDS also the share of pictures nearer to a
    true caption than to the wrong one, over those that have one; and hard, the mean over the kinds found."""

    def __init__(self, source: SceneSource, count: int = 256, *, seed: int = 0, batch_size: int = 64) -> None:
        super().__init__(source, count, batch_size=batch_size)
        self.pairs: dict[str, list[tuple[int, str, str]]] = {kind: [] for kind in KINDS}
        for index, caption in enumerate(self.captions):
            for kind, found in self.pairs.items():
                pair = hard_negative(caption, kind, (seed << 44) + index, split=source.split)
                if pair is not None:
                    found.append((index, *pair))

    def texts(self) -> list[str]:
        """The captions, then each kind's true and wrong ones."""
        pairs = [pair for found in self.pairs.values() for _, *pair in found]
        return [*self.captions, *(text for pair in pairs for text in pair)]

    def score(self, images: Tensor, texts: Tensor) -> dict[str, float]:
        scores = super().score(images, texts)
        images, texts = F.normalize(images, dim=-1).cpu(), F.normalize(texts, dim=-1).cpu()
        start = len(self.captions)
        for kind, found in self.pairs.items():
            true, wrong = texts[start : start + 2 * len(found)].unflatten(0, (-1, 2)).unbind(1)
            start += 2 * len(found)
            own = images[[index for index, *_ in found]]
            if found:
                nearer = (own * true).sum(1) > (own * wrong).sum(1)
                scores[kind] = float(nearer.float().mean())
        kinds = [kind for kind in KINDS if kind in scores]
        if kinds:
            scores["hard"] = sum(scores[kind] for kind in kinds) / len(kinds)
        return scores
