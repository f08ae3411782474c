"""Pictures to codes, with any image tokenizer."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from impasto.mars.vq import VQTokenizer


class Source(Protocol):
    """Endless pictures with captions: position n of the global order is the same in every run and rank."""

    def batch(self, positions: Sequence[int]) -> tuple[Tensor, list[str]]:
        """Pictures [len, 3, R, R] in [-1, 1] and one caption each."""
        ...


class ExtractedCodes(NamedTuple):
    """codes [n, h, w] uint16 and the n captions of the same positions; low: codes of the same pictures in low
    resolution, if they were asked for."""

    codes: np.ndarray
    captions: list[str]
    low: np.ndarray | None = None


@torch.no_grad()
def extract_codes(
    tokenizer: VQTokenizer,
    source: Source,
    positions: Sequence[int],
    *,
    batch: int = 64,
    low_ratio: int | None = None,
) -> ExtractedCodes:
    """Codes and captions of the source's pictures at `positions`. low_ratio: also the codes of the pictures
    in a side smaller by it, averages of squares of pixels. ValueError for no positions, or for a codebook
    whose ids do not fit into 16 bits."""
    if tokenizer.config.codes > 2**16:
        raise ValueError(f"{tokenizer.config.codes} codes do not fit into 16 bits")
    if not len(positions):
        raise ValueError("no positions to extract codes from")
    device = tokenizer.last_layer.device
    parts: dict[int, list[np.ndarray]] = {ratio: [] for ratio in (1, low_ratio) if ratio is not None}
    captions: list[str] = []
    for start in range(0, len(positions), batch):
        images, texts = source.batch(positions[start : start + batch])
        for ratio, found in parts.items():
            sized = images if ratio == 1 else F.avg_pool2d(images, ratio)
            found.append(tokenizer.encode(sized.to(device)).cpu().numpy().astype(np.uint16))
        captions += texts
    low = None if low_ratio is None else np.concatenate(parts[low_ratio])
    return ExtractedCodes(np.concatenate(parts[1]), captions, low)
