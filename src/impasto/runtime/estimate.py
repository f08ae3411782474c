"""Cost of a model before any of it is allocated: modules on the meta device, tensors without data."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


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
