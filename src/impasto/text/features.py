"""What a frozen text encoder hands to a generator, and the protocol every encoder follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class TextFeatures:
    """The features of B texts.

    tokens     [B,T,C] float: one vector a position
    mask       [B,T] bool: True = valid; valid positions come first
    eot_index  [B] int64: the position whose token stands for the whole text; it is valid
    pooled     [B,C'] float: one vector a text, as the encoder defines it

    A wrong shape or type raises ValueError in one line. Values are not read, which would wait for the GPU.
    """

    tokens: Tensor
    mask: Tensor
    eot_index: Tensor
    pooled: Tensor

    def __post_init__(self) -> None:
        _expect(self.tokens.dim() == 3, "tokens", "[B,T,C]", self.tokens)
        batch, positions, _ = self.tokens.shape
        _expect(self.mask.shape == (batch, positions), "mask", f"[{batch},{positions}]", self.mask)
        _expect(self.eot_index.shape == (batch,), "eot_index", f"[{batch}]", self.eot_index)
        _expect(self.pooled.dim() == 2 and len(self.pooled) == batch, "pooled", f"[{batch},C']", self.pooled)
        _expect(self.tokens.is_floating_point(), "tokens", "floating point", self.tokens)
        _expect(self.mask.dtype == torch.bool, "mask", "bool", self.mask)
        _expect(self.eot_index.dtype == torch.int64, "eot_index", "int64", self.eot_index)
        _expect(self.pooled.is_floating_point(), "pooled", "floating point", self.pooled)
        devices = {str(part.device) for part in (self.tokens, self.mask, self.eot_index, self.pooled)}
        if len(devices) > 1:
            raise ValueError(f"text features lie on several devices: {', '.join(sorted(devices))}")

    @property
    def width(self) -> int:
        """C, the width of a token."""
        return self.tokens.shape[2]

    @property
    def device(self) -> torch.device:
        return self.tokens.device

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __getitem__(self, index: slice | Tensor) -> TextFeatures:
        """The texts of a slice, or of an index tensor ([N] int64, or [B] bool); T stays as it is. ValueError
        for a tensor of other dimensions, TypeError for anything else."""
        if isinstance(index, Tensor):
            if index.dim() != 1:
                raise ValueError(f"an index tensor has one dimension, this one has {index.dim()}")
        elif not isinstance(index, slice):
            raise TypeError(f"index text features by a slice or a tensor, not {type(index).__name__}")
        return TextFeatures(self.tokens[index], self.mask[index], self.eot_index[index], self.pooled[index])

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> TextFeatures:
        """Moved to a device; tokens and pooled also cast to a floating-point dtype."""
        return TextFeatures(
            self.tokens.to(device=device, dtype=dtype),
            self.mask.to(device=device),
            self.eot_index.to(device=device),
            self.pooled.to(device=device, dtype=dtype),
        )

    @staticmethod
    def concatenate(parts: Sequence[TextFeatures]) -> TextFeatures:
        """All texts of all parts in order; T is padded with zeros and False to the longest part.

        Raises ValueError where there is nothing to join, or where widths, types or devices differ.
        """
        if not parts:
            raise ValueError("no text features to concatenate")
        if len(parts) == 1:
            return parts[0]
        kinds = {(p.width, p.pooled.shape[1], p.tokens.dtype, p.pooled.dtype, str(p.device)) for p in parts}
        if len(kinds) > 1:
            raise ValueError(f"text features of different width, type or device: {sorted(map(str, kinds))}")
        longest = max(part.tokens.shape[1] for part in parts)
        return TextFeatures(
            torch.cat([_lengthen(part.tokens, longest) for part in parts]),
            torch.cat([_lengthen(part.mask, longest) for part in parts]),
            torch.cat([part.eot_index for part in parts]),
            torch.cat([part.pooled for part in parts]),
        )


@runtime_checkable
class TextEncoder(Protocol):
    """A frozen text encoder: same text, same features, whatever its batch (float rounding apart)."""

    @property
    def width(self) -> int:
        """C of the tokens."""
        ...

    @property
    def fingerprint(self) -> str:
        """A hash in hexadecimal digits that changes with the weights and with every convention."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the features come out."""
        ...

    def encode(self, texts: list[str]) -> TextFeatures:
        """Features of the texts in float32, without gradient. Raises ValueError for an empty list, TypeError
        for a bare string."""
        ...

    def to(self, target: torch.device | torch.dtype | str) -> Self:
        """Moves or casts the weights in place and returns the encoder. Features are fp32 all the same."""
        ...


def check_texts(texts: Sequence[str]) -> None:
    """Raises TypeError for a bare string (it would encode letters), ValueError for an empty list."""
    if isinstance(texts, str):
        raise TypeError("encode takes a list of texts, not one text")
    if not texts:
        raise ValueError("no texts to encode")


def _lengthen(values: Tensor, positions: int) -> Tensor:
    """[B,T,...] -> [B,positions,...], zeros (False) at the end."""
    padded = values.new_zeros((values.shape[0], positions, *values.shape[2:]))
    padded[:, : values.shape[1]] = values
    return padded


def _expect(condition: bool, name: str, wanted: str, got: Tensor) -> None:
    if not condition:
        raise ValueError(f"{name} must be {wanted}, not {got.dtype} of shape {list(got.shape)}")
