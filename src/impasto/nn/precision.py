"""Which floating-point type a computation runs in."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Switch autocast off on x's device; a no-op on devices that have none (meta)."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def autocast_dtype(x: Tensor) -> torch.dtype:
    """The type autocast would compute in on x's device, or x's own."""
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return x.dtype


def at_least_float32(x: Tensor) -> torch.dtype:
    """fp32, or fp64 where x has it."""
    return torch.promote_types(x.dtype, torch.float32)
