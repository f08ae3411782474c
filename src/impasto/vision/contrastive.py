"""The losses of two towers, and which captions say the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from impasto.data.scenes import COLOURS, SHAPES, parse_prompt


def statement_ids(captions: Sequence[str]) -> Tensor:
    """[N] int64, equal where captions say the same: of scenes, the same facts in any words, order and
    language; other texts, equal up to case and white space."""
    return torch.tensor([_digest(_statement(caption)) for caption in captions], dtype=torch.int64)


def symmetric_loss(
    images: Tensor, texts: Tensor, scale: Tensor, ids: Tensor, samples: Tensor | None = None
) -> dict[str, Tensor]:
    """InfoNCE in both directions (CLIP), where captions that say the same are no negatives of each other, and
    neither are captions of the same picture, for a set that is seen again.

    images [B,D] and texts [N,D], neither normalised; text n < B belongs to image n, the other N - B are
    captions that no picture here is asked for, negatives of the images alone. scale: a scalar; ids [N]: equal
    where texts say the same (`statement_ids`); samples [B]: equal where pictures are the same, None: all
    differ. Returns the scalars [] loss/image_to_text, loss/text_to_image and their mean loss/contrastive.
    """
    count = len(images)
    logits = scale * (F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).t())
    own = torch.arange(count, device=logits.device)
    same = (ids[:count, None] == ids[None]).to(logits.device)
    if samples is not None:
        same[:, :count] |= samples[:, None] == samples[None]
    same[own, own] = False
    logits = logits.masked_fill(same, float("-inf"))
    to_text = F.cross_entropy(logits, own)
    to_image = F.cross_entropy(logits[:, :count].t(), own)
    return {
        "loss/image_to_text": to_text,
        "loss/text_to_image": to_image,
        "loss/contrastive": (to_text + to_image) / 2,
    }


def stated_pairs(captions: Sequence[str]) -> Tensor:
    """[N,64] int8 for captions of scenes: 1 where a (colour, shape) pair is stated, -1 where it is left open
    (an object without a colour, a text that is no such caption), else 0; shapes of the first colour first."""
    found = torch.zeros(len(captions), len(COLOURS), len(SHAPES), dtype=torch.int8)
    for row, text in zip(found, captions, strict=True):
        try:
            objects = parse_prompt(text).objects
        except ValueError:
            row.fill_(-1)
            continue
        for item in objects:
            shapes = slice(None) if item.shape is None else SHAPES.index(item.shape)
            if item.colour is None or item.shape is None:
                colours = slice(None) if item.colour is None else list(COLOURS).index(item.colour)
                row[colours, shapes] = -1
        for item in objects:
            if item.colour is not None and item.shape is not None:
                row[list(COLOURS).index(item.colour), SHAPES.index(item.shape)] = 1
    return found.flatten(1)


def pair_loss(logits: Tensor, pairs: Tensor) -> Tensor:
    """Mean over N of the summed cross-entropy of each pair, a scalar []; logits [N,64], pairs [N,64] as
    `stated_pairs` gives."""
    known = (pairs >= 0).to(logits.dtype)
    wanted = (pairs > 0).to(logits.dtype)
    terms = F.binary_cross_entropy_with_logits(logits, wanted, weight=known, reduction="none")
    return terms.sum(1).mean()


def _statement(caption: str) -> str:
    try:
        return repr(parse_prompt(caption).canonical())
    except ValueError:  # not a caption of a scene
        return " ".join(caption.split()).casefold()


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)
