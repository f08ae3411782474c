"""Cost of a model before any of it is allocated: modules on the meta device, tensors without data."""

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry, shape_wrapper

from impasto.config import ConfigError


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Devices that a run is projected on. The defaults are an A100's data sheet, and guesses."""

    ranks: int = 1
    teraflops: float = 156.0  # peak of one device: A100, TF32, without sparsity
    utilisation: float = 0.3  # share of that peak which a step reaches; guess, measure yours
    bandwidth: float = 25.0  # GB/s of one device to the others: 200 Gb/s a device; guess
    memory: float = 80.0  # GB of one device

    def __post_init__(self) -> None:
        for name in ("ranks", "teraflops", "utilisation", "bandwidth", "memory"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"--{name} {getattr(self, name):g} should be above 0")
        if self.utilisation > 1:
            raise ConfigError(f"--utilisation {self.utilisation:g} is a share: at most 1")


@dataclass(frozen=True)
class Memory:
    """Of one call: the peak of live tensors in bytes, parameters and inputs excluded, and what was alive when
    the call returned (with gradients: what the forward pass keeps for the backward pass)."""

    peak_bytes: int
    kept_bytes: int


class _PeakMemory(TorchDispatchMode):
    """Adds up the storages made, and still alive, while it is active. Works on the meta device, where nothing
    is allocated. Storages that were there before (parameters, inputs) do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self._made: set[int] = set()
        self._given: dict[int, torch.UntypedStorage] = {}  # held, so that their addresses stay theirs

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in self._made:
                    self._given.setdefault(storage._cdata, storage)
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._track(leaf.untyped_storage())
        return result

    def _track(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._made or key in self._given:
            return
        self._made.add(key)
        size = storage.nbytes()
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._made.discard(key)
        self.alive -= size


def _attention_flops(query: Any, key: Any, *_: Any, **__: Any) -> int:
    """Of shapes [B, heads, T, d] and [B, ..., S, d]: two products."""
    batch, heads, rows, width = query
    return 4 * batch * heads * rows * key[2] * width


def _attention_backward_flops(_: Any, query: Any, key: Any, *__: Any, **___: Any) -> int:
    """Five products: one is made again, four are gradients."""
    return _attention_flops(query, key) * 5 // 2


class Work(TorchDispatchMode):
    """Counts, while it is active, floating point operations (a multiply-add is two) and the bytes that
    operations read and write, each by itself: what they would move if nothing stayed in a cache from one to
    the next. Views move nothing. Keeps nothing alive and knows a CPU's attention, unlike torch's counter."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.bytes = 0
        attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        self._counted = {
            attention: shape_wrapper(_attention_flops),
            backward: shape_wrapper(_attention_backward_flops),
            **flop_registry,
        }

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        count = self._counted.get(func.overloadpacket)
        if count is not None:
            self.flops += int(count(*args, **kwargs, out_val=result))
        if not func.is_view:
            for leaf in tree_leaves((args, kwargs, result)):
                if isinstance(leaf, Tensor):
                    self.bytes += leaf.numel() * leaf.element_size()
        return result


def operations_of(call: Callable[[], Any]) -> int:
    """Floating point operations of `call`, which should run meta-device modules (a multiply-add is two)."""
    counter = FlopCounterMode(display=False)
    with counter:
        call()
    return counter.get_total_flops()


def memory_of(call: Callable[[], Any], *, backward: bool = False) -> Memory:
    """Memory of `call`; with `backward`, also of the gradients of the scalar it returns. Apart from the
    operations, whose counter keeps activations alive that checkpointing computed again."""
    with torch.set_grad_enabled(backward), _PeakMemory() as memory:
        result = call()
        kept = memory.alive
        if backward:
            result.backward()
    return Memory(memory.peak, kept)


def parameter_bytes(module: nn.Module) -> int:
    """Bytes of parameters and buffers at their present types."""
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))
