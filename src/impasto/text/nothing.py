"""An encoder that reads nothing: every text gets the same features, so that a model of it knows no text. For
asking what text is worth ("text stabilises training", the paper's introduction)."""

from __future__ import annotations

import hashlib
from typing import Self

import torch

from impasto.text.features import TextFeatures, check_texts


class NothingEncoder:
    """tokens [B,2,width] and pooled [B,width]: the same unit vector everywhere; eot_index is 1.

    Methods as in `TextEncoder`. Raises ValueError for a width below 1.
    """

    def __init__(self, width: int) -> None:
        if width < 1:
            raise ValueError(f"'nothing:{width}': the width should be at least 1")
        self._width = width
        self._device = torch.device("cpu")

    @property
    def width(self) -> int:
        return self._width

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"nothing 1 {self._width}".encode()).hexdigest()

    def encode(self, texts: list[str]) -> TextFeatures:
        """Features of texts that are not read. Raises ValueError for an empty list."""
        check_texts(texts)
        count = len(texts)
        values = torch.full((count, 2, self._width), self._width**-0.5, device=self._device)
        return TextFeatures(
            tokens=values,
            mask=torch.ones(count, 2, dtype=torch.bool, device=self._device),
            eot_index=torch.ones(count, dtype=torch.int64, device=self._device),
            pooled=values[:, 0].clone(),
        )

    def to(self, target: torch.device | torch.dtype | str) -> Self:
        if not isinstance(target, torch.dtype):
            self._device = torch.device(target)
        return self
