"""Which floating-point type a computation runs in."""

import time
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Switch autocast off on the device of x [...]; a no-op on devices that have none (meta)."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def autocast_dtype(x: Tensor) -> torch.dtype:
    """The type autocast would compute in on the device of x [...], or x's own."""
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return x.dtype


def at_least_float32(x: Tensor) -> torch.dtype:
    """fp32, or fp64 where x [...] has it."""
    return torch.promote_types(x.dtype, torch.float32)


def bfloat16_slowdown() -> float:
    """How many times as long as in float32 this CPU takes for a matmul in bfloat16: below one where it has
    units for it (AMX, AVX-512 BF16, Arm's BF16), 40 to 200 where they are emulated. The least of three short
    runs each: names of instruction sets tell less, and differ by maker."""

    def seconds(dtype: torch.dtype) -> float:
        x = torch.ones(64, 256, dtype=dtype)
        weight = torch.ones(256, 256, dtype=dtype)
        times = []
        for _ in range(4):
            started = time.process_time()
            x @ weight
            times.append(time.process_time() - started)
        return max(min(times[1:]), 1e-6)

    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        return seconds(torch.bfloat16) / seconds(torch.float32)
