"""3x3 convolutions with one kernel for a batch or one per sample: plain, doubling the side, and sampled at
learned places.

On a CPU small maps under large kernels are matrix products: the library's convolutions reorder a kernel at
every call, which at 4x4 costs five to ten times the arithmetic (measured; `docs/aurora.md`, Speed).
Shapes: B batch, C channels, H and W the sides of a feature map.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from impasto.nn.precision import at_least_float32

LARGE_KERNEL = 2**22  # numbers in a kernel; measured: below, reordering is cheap


def convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """3x3 correlation with zero padding. x [B, in, H, W]; kernel [out, in, 3, 3] or [B, out, in, 3, 3]."""
    if kernel.ndim == 5:
        folded = F.conv2d(x.flatten(0, 1)[None], kernel.flatten(0, 1), padding=1, groups=x.shape[0])
        return folded[0].unflatten(0, kernel.shape[:2])
    points = x.shape[2] * x.shape[3]  # of one sample: the way taken must not depend on the batch
    if x.device.type == "cpu" and kernel.numel() > LARGE_KERNEL and 8 * points <= kernel.shape[0]:
        return convolve_columns(F.unfold(x, 3, padding=1), kernel).unflatten(2, x.shape[2:])
    return F.conv2d(x, kernel, padding=1)


def convolve_columns(columns: Tensor, kernel: Tensor) -> Tensor:
    """columns [B, in * 9, T], what the nine taps see; kernel as `convolve` has it -> [B, out, T].

    A shared kernel is the left factor of one product over all samples: it is read once and never transposed.
    """
    if kernel.ndim == 5:
        return kernel.flatten(2) @ columns
    return _shared_product(kernel.flatten(1), columns)


def _shared_product(left: Tensor, x: Tensor) -> Tensor:
    """left [M, K] @ x [B, K, T] -> [B, M, T] as one matmul."""
    batch = x.shape[0]
    if batch == 1:
        return (left @ x[0])[None]
    return (left @ x.transpose(0, 1).flatten(1)).unflatten(1, (batch, -1)).transpose(0, 1)


def convolve_up(x: Tensor, kernel: Tensor) -> Tensor:
    """Transposed 3x3 convolution of stride 2, same kernel unflipped: [B, out, 2H + 1, 2W + 1]."""
    height, width = x.shape[2:]
    if x.device.type == "cpu" and height * width <= x.shape[1]:
        parts = _what_taps_give(x.flatten(2), kernel)
        return F.fold(parts, (2 * height + 1, 2 * width + 1), 3, stride=2)
    if kernel.ndim == 4:
        return F.conv_transpose2d(x, kernel.transpose(0, 1), stride=2)
    swapped = kernel.transpose(1, 2).flatten(0, 1)
    folded = F.conv_transpose2d(x.flatten(0, 1)[None], swapped, stride=2, groups=x.shape[0])
    return folded[0].unflatten(0, kernel.shape[:2])


def _what_taps_give(x: Tensor, kernel: Tensor) -> Tensor:
    """x [B, in, T] -> [B, out * 9, T]: what each point adds to the output through each tap."""
    taps = kernel.flatten(-2).transpose(-2, -1)  # [(B,) out, 9, in], a view
    if x.shape[2] <= 64 and x.dtype == torch.float32 and not torch.is_grad_enabled():
        # One product per output channel reads the kernel where it lies.
        own = taps if kernel.ndim == 5 else taps.expand(x.shape[0], -1, -1, -1)
        return torch.stack([(k @ sample).flatten(0, 1) for k, sample in zip(own, x, strict=True)])
    if kernel.ndim == 5:
        return taps.flatten(1, 2) @ x
    return _shared_product(taps.flatten(0, 1), x)


def deformable_columns(x: Tensor, offsets: Tensor, gates: Tensor) -> Tensor:
    """Nine bilinear samples around every position, each at its own offset.

    x [B, C, H, W], offsets [B, 18, H, W] (dy, dx per tap, pixels), gates [B, 9, H, W] -> [B, C * 9, H * W],
    for `convolve_columns`. The border rule is that of torchvision's `deform_conv2d`: each of the four
    neighbours counts as zero when it lies outside.
    """
    batch, channels, height, width = x.shape
    offsets = offsets.to(at_least_float32(offsets)).view(batch, 9, 2, height, width)
    device = x.device
    tap = torch.arange(9, device=device)
    row = torch.arange(height, device=device).view(1, 1, -1, 1) + (tap // 3 - 1).view(1, 9, 1, 1)
    column = torch.arange(width, device=device).view(1, 1, 1, -1) + (tap % 3 - 1).view(1, 9, 1, 1)
    y, x_position = row + offsets[:, :, 0], column + offsets[:, :, 1]
    # grid_sample's coordinates: -1 and 1 are the outer edges of the border pixels.
    grid = torch.stack(((2 * x_position + 1) / width - 1, (2 * y + 1) / height - 1), dim=-1)
    grid = grid.view(batch, 9 * height, width, 2)
    source = x.to(at_least_float32(x))
    samples = F.grid_sample(source, grid.to(source.dtype), padding_mode="zeros", align_corners=False)
    samples = samples.view(batch, channels, 9, height * width) * gates.view(batch, 1, 9, height * width)
    return samples.view(batch, channels * 9, height * width).to(x.dtype)
