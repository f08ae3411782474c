"""Rotary position embedding, halves convention: channel i turns together with channel i + d / 2."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from impasto.config import ConfigError
from impasto.nn.precision import at_least_float32


@dataclass(frozen=True, kw_only=True)
class RotaryConfig:
    """How fast each pair of channels turns. Scaling stretches a trained context: "linear" slows every pair by
    `factor`, "llama3" only pairs whose wavelength is long against `original_context` (Llama 3.1's rule, with
    a ramp between the two corner frequencies)."""

    theta: float = 10000.0
    scaling: Literal["default", "linear", "llama3"] = "default"
    factor: float = 1.0
    low_frequency_factor: float = 1.0  # llama3 alone
    high_frequency_factor: float = 4.0  # llama3 alone
    original_context: int = 8192  # llama3 alone

    def __post_init__(self) -> None:
        if self.theta <= 0 or self.factor <= 0:
            raise ConfigError("rotary.theta and rotary.factor should be positive")
        if self.scaling == "llama3" and self.low_frequency_factor >= self.high_frequency_factor:
            raise ConfigError("rotary.low_frequency_factor should be below rotary.high_frequency_factor")


def rotary_frequencies(config: RotaryConfig, head_dim: int) -> Tensor:
    """[head_dim / 2] radians per position, fp32 on the CPU whatever the default device is."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim
    frequencies = 1.0 / config.theta**exponents
    if config.scaling == "linear":
        return frequencies / config.factor
    if config.scaling == "default":
        return frequencies
    turns = config.original_context * frequencies / (2 * math.pi)  # of each pair over the original context
    low, high = config.low_frequency_factor, config.high_frequency_factor
    kept = ((turns - low) / (high - low)).clamp(0, 1)  # 1: as it was, 0: slowed by the whole factor
    return frequencies * (kept + (1 - kept) / config.factor)


class Rotary:
    """Tables for positions; holds its frequencies once per device. Not a module: it has no state to save."""

    def __init__(self, config: RotaryConfig, head_dim: int):
        if head_dim % 2:
            raise ConfigError(f"head_dim={head_dim} should be even for rotary positions")
        self._frequencies = rotary_frequencies(config, head_dim)
        self._on_device: dict[torch.device, Tensor] = {}

    def tables(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """positions [B, T] int64 -> cosine and sine, each [B, 1, T, head_dim], of `dtype`."""
        frequencies = self._on_device.get(positions.device)
        if frequencies is None:
            frequencies = self._on_device[positions.device] = self._frequencies.to(positions.device)
        angles = positions[:, None, :, None].to(frequencies.dtype) * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """x [B, heads, T, d] turned by the tables of its positions; of x's type whatever theirs is."""
    cosine, sine = tables
    first, second = x.chunk(2, dim=-1)
    return (x * cosine + torch.cat((-second, first), dim=-1) * sine).to(x.dtype)


def positions_of(mask: Tensor) -> Tensor:
    """mask [B, T] bool, True for tokens that count -> positions [B, T] that skip padding (0 on padding)."""
    return (mask.long().cumsum(-1) - 1).clamp_min(0)


def root_mean_square(x: Tensor) -> Tensor:
    """[..., d] -> [...], in fp32 at least."""
    return x.to(at_least_float32(x)).square().mean(-1).sqrt()
