"""What every upscaler can do, and the checks that they share."""

from __future__ import annotations

from typing import Protocol, Self

import torch
from torch import Tensor

LANCZOS_HINT = "use --upscaler lanczos"


class Upscaler(Protocol):
    """Makes pictures `scale` (s) times as high and as wide. `name` is what a picture's settings call it."""

    @property
    def name(self) -> str: ...

    @property
    def scale(self) -> int: ...

    def upscale(self, images: Tensor) -> Tensor:
        """[B,3,H,W] in about [-1,1] -> [B,3,sH,sW] float32 in [-1,1], on the device of the input.

        What becomes of a picture does not depend on the others. Raises ValueError for another shape.
        """
        ...

    def to(self, device: torch.device | str) -> Self:
        """Compute there."""
        ...


def checked(images: Tensor) -> Tensor:
    """[B,3,H,W] as float32 clipped to [-1,1]. Raises ValueError for another shape."""
    if images.dim() != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
        raise ValueError(f"pictures to upscale should be [B, 3, H, W], not {list(images.shape)}")
    return images.detach().float().clamp(-1, 1)


def check_scale(name: str, scale: int, native: int, reducible: bool = True) -> None:
    """Raises ValueError, with the way out, unless a network that enlarges by `native` can serve `scale`:
    `native` itself or, where `reducible`, half of it."""
    served = [native, native // 2] if reducible and native % 2 == 0 and native > 2 else [native]
    if scale not in served:
        told = " or ".join(map(str, served))
        raise ValueError(f"'{name}' upscales by {told}, not by {scale}; {LANCZOS_HINT}")
