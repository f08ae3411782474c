"""Resampling with Pillow's Lanczos filter: an upscaler by itself, and what reduces a network's result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from impasto.upscaling.protocol import checked


@dataclass(frozen=True)
class LanczosUpscaler:
    """Any whole scale from 1; always computed on the CPU. Raises ValueError for a scale below 1."""

    scale: int
    name: str = "lanczos"

    def __post_init__(self) -> None:
        if self.scale < 1:
            raise ValueError(f"scale={self.scale} should be at least 1")

    def upscale(self, images: Tensor) -> Tensor:
        """[B,3,H,W] -> [B,3,sH,sW] and errors as in `Upscaler`."""
        images = checked(images)
        height, width = images.shape[2:]
        resized = [resize(picture, height * self.scale, width * self.scale) for picture in images]
        return torch.stack(resized) if resized else images.new_empty(0, 3, height, width)

    def to(self, device: torch.device | str) -> Self:
        return self


def resize(picture: Tensor, height: int, width: int) -> Tensor:
    """[3,H,W] in [-1,1] -> [3,height,width] float32 in [-1,1], without rounding to 8 bits in between."""
    channels = []
    for channel in picture.float().cpu().numpy():
        plane = Image.fromarray(np.ascontiguousarray(channel))
        channels.append(np.asarray(plane.resize((width, height), Image.Resampling.LANCZOS)))
    return torch.from_numpy(np.stack(channels)).clamp(-1, 1).to(picture.device)
