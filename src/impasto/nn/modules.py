"""Lists of modules that keep the type of their items, what parameters start from, activations computed again
instead of kept, and what modules remember of their parameters."""

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

M = TypeVar("M", bound=nn.Module)


def module_list(items: Iterable[M]) -> Sequence[M]:
    """An nn.ModuleList, seen by type checkers as a sequence of its items' type."""
    return cast(Sequence[M], nn.ModuleList(items))


def normal(*shape: int, scale: float = 1.0) -> Tensor:
    """[*shape] fp32 (or torch's default type) of normal numbers with standard deviation `scale`, on the
    default device. On the meta device, where models are built before they are read, no numbers: to compute
    there torch imports its compiler, two seconds of a processor."""
    return torch.empty(shape) if is_meta() else torch.randn(shape) * scale


def is_meta() -> bool:
    """Whether what is built now is to have no numbers yet."""
    return torch.get_default_device().type == "meta"


def run_part(part: nn.Module, *inputs: Any, recompute: bool) -> Any:
    """part(*inputs); with `recompute` its activations are computed again on the way back instead of kept.
    The same numbers, bit for bit, gradients of gradients included."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(part, *inputs, use_reentrant=False)
    return part(*inputs)


class Remembered:
    """compute(x), kept while a module only draws and the parameter that x comes from is not written to.

    Tensors count their writes in place (averaging, loading), and a parameter put in another's place or given
    other memory is another one. Nothing is kept of a module in training mode or of a parameter that wants a
    gradient: torch's fused optimisers write without counting. So do writes through `.data`: write under
    `torch.no_grad()` instead. Copies start empty.
    """

    def __init__(self, compute: Callable[[Tensor], Tensor]):
        self.compute = compute
        self._parameter: weakref.ref[Tensor] | None = None
        self._state: tuple[Any, ...] = ()
        self._value: Tensor | None = None

    def __call__(self, x: Tensor, *, of: Tensor, training: bool) -> Tensor:
        """compute(x), where x is a function of the parameter `of` alone."""
        if training or of.requires_grad or of.is_inference() or torch.compiler.is_compiling():
            return self.compute(x)
        state = (of._version, of.data_ptr(), x.dtype, x.device)
        known = self._parameter is not None and self._parameter() is of and self._state == state
        if self._value is None or not known:
            with torch.inference_mode(False):
                self._value = self.compute(x.detach())
            self._parameter, self._state = weakref.ref(of), state
        return self._value

    def __reduce__(self) -> tuple[Any, ...]:
        return Remembered, (self.compute,)
