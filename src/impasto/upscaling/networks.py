"""The networks of Real-ESRGAN (Wang et al. 2021, arXiv 2107.10833): pictures in [0,1], four times as large.

Modules are registered in the order in which they are computed, so that weights of a file without names can
be filled in by order.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCALE, SLOPE, RESIDUAL = 4, 0.2, 0.2


class SRVGG(nn.Module):
    """A plain stack of 3x3 convolutions with PReLU whose last one holds the details of 4x4 pixels, added to
    the enlarged input. [B,3,H,W] -> [B,3,4H,4W]; the details of a pixel depend on `radius` pixels around it.
    """

    def __init__(self, width: int = 64, hidden: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = [_convolution(3, width), nn.PReLU(width)]
        for _ in range(hidden):
            layers += [_convolution(width, width), nn.PReLU(width)]
        self.layers = nn.Sequential(*layers, _convolution(width, 3 * SCALE**2))
        self.radius = hidden + 2

    def forward(self, x: Tensor) -> Tensor:
        details = F.pixel_shuffle(self.layers(x), SCALE)
        return details + F.interpolate(x, scale_factor=SCALE, mode="nearest")


class RRDBNet(nn.Module):
    """Residual blocks of dense blocks, of ESRGAN (Wang et al. 2018, arXiv 1809.00219).
    [B,3,H,W] -> [B,3,4H,4W]."""

    def __init__(self, blocks: int, width: int = 64, growth: int = 32) -> None:
        super().__init__()
        self.first = _convolution(3, width)
        self.body = nn.Sequential(*(_ResidualBlock(width, growth) for _ in range(blocks)))
        self.after_body = _convolution(width, width)
        self.up1, self.up2 = _convolution(width, width), _convolution(width, width)
        self.detail, self.last = _convolution(width, width), _convolution(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + self.after_body(self.body(x))
        for convolution in (self.up1, self.up2):
            x = _activate(convolution(F.interpolate(x, scale_factor=2, mode="nearest")))
        return self.last(_activate(self.detail(x)))


class _ResidualBlock(nn.Module):
    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.dense = nn.Sequential(*(_DenseBlock(width, growth) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        return x + RESIDUAL * self.dense(x)


class _DenseBlock(nn.Module):
    """Five convolutions, each of which sees all that the ones before it made."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.growing = nn.ModuleList(_convolution(width + i * growth, growth) for i in range(4))
        self.last = _convolution(width + 4 * growth, width)

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for convolution in self.growing:
            seen = torch.cat((seen, _activate(convolution(seen))), 1)
        return x + RESIDUAL * self.last(seen)


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _activate(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE)
