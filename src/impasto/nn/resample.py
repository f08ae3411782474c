"""Resampling with the FIR filter [1, 3, 3, 1] (StyleGAN2). Near bilinear inside; zeros beyond the border, so
edges darken where `torch.nn.functional.interpolate` would repeat them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from impasto.nn.precision import at_least_float32, without_autocast

FIR_TAPS = (1.0, 3.0, 3.0, 1.0)


def fir_kernel(like: Tensor | None = None) -> Tensor:
    """The filter [4, 4] with sum one, as the published checkpoints store it; of the type and device of
    `like`."""
    taps = torch.tensor(FIR_TAPS)
    if like is not None:
        taps = taps.to(like)
    return torch.outer(taps, taps) / 64


def upsample_fir(x: Tensor) -> Tensor:
    """Insert zeros, filter, gain 4: [B, C, H, W] -> [B, C, 2H, 2W].

    On a CPU in fp32 whatever the precision: depthwise transposed convolutions are 40 times slower in bf16.
    """
    channels = x.shape[1]
    if x.device.type != "cpu":
        kernel = (fir_kernel(x) * 4).expand(channels, 1, 4, 4)
        return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=channels)
    with without_autocast(x):
        wide = x.to(at_least_float32(x))
        kernel = (fir_kernel(wide) * 4).expand(channels, 1, 4, 4)
        return F.conv_transpose2d(wide, kernel, stride=2, padding=1, groups=channels).to(x.dtype)


def filter_after_transposed_convolution(x: Tensor) -> Tensor:
    """Smooth the output of a stride-2 transposed 3x3 convolution, gain 4:
    [B, C, 2H + 1, 2W + 1] -> [B, C, 2H, 2W]."""
    channels = x.shape[1]
    kernel = (fir_kernel(x) * 4).expand(channels, 1, 4, 4)
    return F.conv2d(x, kernel, padding=1, groups=channels)
