"""Networks over pictures of any size, in tiles that overlap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from impasto.upscaling.lanczos import resize
from impasto.upscaling.protocol import check_scale, checked

TILE, OVERLAP = 256, 32


@dataclass(frozen=True)
class Span:
    """Along one axis: what a tile sees, and the part of it that is kept."""

    start: int
    stop: int
    kept_start: int
    kept_stop: int


def spans(length: int, tile: int, overlap: int) -> list[Span]:
    """Tiles that together keep 0..length once. Each sees `tile` pixels, or all where there are fewer, and at
    least `overlap` beyond what is kept of it, except at the borders of the picture."""
    found: list[Span] = []
    kept = 0
    while kept < length:
        start = max(min(kept - overlap, length - tile), 0)
        stop = min(start + tile, length)
        kept_stop = length if stop == length else stop - overlap
        found.append(Span(start, stop, kept, kept_stop))
        kept = kept_stop
    return found


class NetworkUpscaler:
    """A network that enlarges pictures in [0,1] by `native`, one at a time and in tiles. Where `scale` is
    half of `native`, its result is reduced by Lanczos.

    tile: pixels of the input that the network sees at once, a bound of memory. overlap: where it is at least
    the radius of what the network looks at, tiles give what the whole picture gives. Raises ValueError for a
    scale that the network does not serve, or an overlap that leaves nothing of a tile.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module | Callable[[Tensor], Tensor],
        scale: int,
        *,
        native: int = 4,
        tile: int | None = TILE,
        overlap: int = OVERLAP,
    ) -> None:
        check_scale(name, scale, native)
        if tile is not None and not 0 <= 2 * overlap < tile:
            raise ValueError(f"overlap={overlap} should be from 0 to less than half of tile={tile}")
        self.name, self.scale, self.native, self.network = name, scale, native, network
        self.tile, self.overlap = tile, overlap
        self.device = torch.device("cpu")

    def to(self, device: torch.device | str) -> Self:
        self.device = torch.device(device)
        move = getattr(self.network, "to", None)
        if move is not None:
            move(self.device)
        return self

    @torch.no_grad()
    def upscale(self, images: Tensor) -> Tensor:
        """[B,3,H,W] -> [B,3,sH,sW] and errors as in `Upscaler`; ValueError also where the network enlarges
        by something other than `native`."""
        images = checked(images)
        count, _, height, width = images.shape
        result = images.new_empty(count, 3, height * self.scale, width * self.scale)
        for index in range(count):
            large = self._enlarge(images[index : index + 1])[0]
            if self.scale != self.native:
                large = resize(large, height * self.scale, width * self.scale)
            result[index] = large
        return result

    def _enlarge(self, image: Tensor) -> Tensor:
        """[1,3,H,W] in [-1,1] -> [1,3,nH,nW] in [-1,1]."""
        n, (height, width) = self.native, image.shape[2:]
        result = image.new_empty(1, 3, n * height, n * width)
        for row in spans(height, self.tile or height, self.overlap):
            for column in spans(width, self.tile or width, self.overlap):
                seen = image[..., row.start : row.stop, column.start : column.stop]
                made = self.network((seen.to(self.device) + 1) / 2) * 2 - 1
                if made.shape != (1, 3, n * seen.shape[2], n * seen.shape[3]):
                    raise ValueError(f"'{self.name}' made {list(made.shape)} of {list(seen.shape)}")
                top, left = n * (row.kept_start - row.start), n * (column.kept_start - column.start)
                high, wide = n * (row.kept_stop - row.kept_start), n * (column.kept_stop - column.kept_start)
                area = result[..., n * row.kept_start :, n * column.kept_start :][..., :high, :wide]
                area.copy_(made[..., top : top + high, left : left + wide])
        return result.clamp(-1, 1)
