"""The input of the synthesis network: Fourier features turned by w (StyleGAN3), or a learned constant."""

import math

import torch
from torch import Tensor, nn

from impasto.nn.modules import is_meta, normal
from impasto.nn.precision import at_least_float32
from impasto.nn.style import Dense


class ConstantInput(nn.Module):
    """A learned [C, size, size] map, the same for every sample."""

    def __init__(self, channels: int, size: int):
        super().__init__()
        self.constant = nn.Parameter(normal(1, channels, size, size))

    def forward(self, w: Tensor) -> Tensor:
        """w [B, D] -> [B, C, size, size]."""
        return self.constant.expand(w.shape[0], -1, -1, -1)


class FourierInput(nn.Module):
    """Sines of fixed random frequencies on a grid that w rotates and shifts, then mixed linearly.

    Unlike StyleGAN3, out-of-band frequencies are not damped (published code). `transform` [3, 3] is a
    user's own transform of the picture plane, identity by default.
    """

    frequencies: Tensor
    phases: Tensor
    transform: Tensor

    def __init__(self, channels: int, size: int, style_dim: int):
        super().__init__()
        self.size = size
        if is_meta():
            frequencies, phases = torch.empty(channels, 2), torch.empty(channels)
            transform = torch.empty(3, 3)
        else:
            frequencies = torch.randn(channels, 2)
            radius = frequencies.norm(dim=1, keepdim=True)
            frequencies = frequencies / (radius * radius.square().exp().pow(0.25))
            phases, transform = torch.rand(channels) - 0.5, torch.eye(3)
        self.register_buffer("frequencies", frequencies)
        self.register_buffer("phases", phases)
        self.register_buffer("transform", transform)
        self.weight = nn.Parameter(normal(channels, channels))
        self.affine = Dense(style_dim, 4, weight_init=0.0, bias_init=[1.0, 0.0, 0.0, 0.0])

    def forward(self, w: Tensor) -> Tensor:
        """w [B, D] -> [B, C, size, size]. Computed in fp32 at least: phases wrap."""
        pose = self.affine(w)
        pose = pose.to(at_least_float32(pose))
        pose = pose / pose[:, :2].norm(dim=1, keepdim=True)
        cosine, sine, shift_x, shift_y = pose.unbind(1)
        zero, one = torch.zeros_like(cosine), torch.ones_like(cosine)
        rotation = torch.stack((cosine, -sine, zero, sine, cosine, zero, zero, zero, one), 1).view(-1, 3, 3)
        shift = torch.stack((one, zero, -shift_x, zero, one, -shift_y, zero, zero, one), 1).view(-1, 3, 3)
        dtype = rotation.dtype
        plane = rotation @ shift @ self.transform.to(dtype)
        frequencies = self.frequencies.to(dtype)
        phases = self.phases.to(dtype) + (frequencies @ plane[:, :2, 2:]).squeeze(2)
        frequencies = frequencies @ plane[:, :2, :2]
        centre = (torch.arange(self.size, device=w.device, dtype=dtype) + 0.5) / self.size - 0.5
        along_x = torch.einsum("bc,x->bcx", frequencies[:, :, 0], centre)
        along_y = torch.einsum("bc,y->bcy", frequencies[:, :, 1], centre)
        angle = along_x[:, :, None, :] + along_y[:, :, :, None] + phases[:, :, None, None]
        waves = (2 * math.pi * angle).sin().to(w.dtype)
        return torch.einsum("oc,bchw->bohw", self.weight / math.sqrt(self.weight.shape[0]), waves)
