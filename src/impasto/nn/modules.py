"""Lists of modules that keep the type of their items."""

from collections.abc import Iterable, Sequence
from typing import TypeVar, cast

from torch import nn

M = TypeVar("M", bound=nn.Module)


def module_list(items: Iterable[M]) -> Sequence[M]:
    """An nn.ModuleList, seen by type checkers as a sequence of its items' type."""
    return cast(Sequence[M], nn.ModuleList(items))
