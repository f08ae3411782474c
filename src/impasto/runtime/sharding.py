"""A module shared out among the ranks (FSDP2): each rank keeps some rows of every parameter.

Rows of a block are gathered when its `forward` begins and dropped when it ends, in the backward pass too,
where gradients are averaged over the ranks and each rank keeps its rows of them. Gathering is collective: all
ranks must call the same blocks equally often and in the same order, whether or not they need the result.
Shapes: a whole tensor is [R, ...]; a rank holds [r, ...] of it, rows along the first axis.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from impasto.runtime.dist import Ranks, RanksError


def shard(module: nn.Module, blocks: Iterable[nn.Module], ranks: Ranks) -> None:
    """Share out `module` in place: each of `blocks` is gathered by itself, the rest of the module as one. Its
    parameters move to the ranks' device block by block; optimisers are to be made afterwards.

    Number types stay as they are; gradients are averaged in them. The module's own rows, those of no block,
    stay gathered from its `forward` to the end of the backward pass, so that methods may use them in between;
    `dropped_afterwards` is for passes without a backward. Raises RanksError for a single process.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if ranks.world_size == 1:
        raise RanksError("one process has nobody to share a model with; start it with torchrun")
    ranks.barrier()  # joins the process group
    mesh = init_device_mesh(ranks.device.type, (ranks.world_size,))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)


def is_sharded(tensor: Tensor) -> bool:
    """Whether this rank holds some rows of it only, [r, ...] of [R, ...] (a DTensor, whose module takes
    seconds to import)."""
    return hasattr(tensor, "full_tensor")


def own_rows(tensor: Tensor) -> Tensor:
    """This rank's rows, [R, ...] -> [r, ...], sharing memory; r = 0 for some ranks where a tensor has fewer
    rows than there are ranks. A tensor that is not sharded is returned as it is."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def row_range(tensor: Tensor) -> tuple[int, int]:
    """(start, stop) of this rank's rows among all those of a sharded tensor [R, ...]: equal parts, the last
    ones short."""
    mesh: Any = tensor.device_mesh  # type: ignore[attr-defined]
    rows, length = tensor.shape[0], -(-tensor.shape[0] // mesh.size())
    start = min(mesh.get_local_rank() * length, rows)
    return start, min(start + length, rows)


def whole(tensor: Tensor) -> Tensor:
    """All rows [R, ...], on every rank: a collective call for a tensor that is sharded."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def sharded_like(rows: Tensor, target: Tensor) -> Tensor:
    """This rank's rows [r, ...] as a tensor [R, ...] that is sharded as `target` is, on its device."""
    from torch.distributed.tensor import DTensor

    assert isinstance(target, DTensor)
    return DTensor.from_local(
        rows.to(target.device),
        target.device_mesh,
        target.placements,
        run_check=False,
        shape=target.shape,
        stride=target.stride(),
    )


def in_order(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names in the order in which every rank gathers them: larger number types first, as safetensors lays
    them out. Tensors of any shape."""
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))


@torch.no_grad()
def take_part(tensors: Mapping[str, Tensor]) -> None:
    """On the ranks that do not write: the collective calls of the one that writes the tensors, of any shape,
    to a file."""
    for name in in_order(tensors):
        whole(tensors[name])


@torch.no_grad()
def clip_norm(gradients: Sequence[Tensor], limit: float, ranks: Ranks) -> Tensor:
    """Scale gradients in place, given as this rank's rows [r, ...], so that their norm over all ranks is at
    most `limit`. Returns the norm before, a scalar [] in fp64."""
    own = nn.utils.get_total_norm([gradient for gradient in gradients if gradient.numel()])
    norm = ranks.sum_across_ranks(own.to(ranks.device).double().square()).sqrt()
    scale = (limit / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale.to(gradient.dtype))
    return norm


@contextmanager
def dropped_afterwards(module: nn.Module) -> Iterator[None]:
    """Passes without a backward: at the end the module keeps nothing gathered, as state dicts and optimisers
    expect. Nothing happens to a module that is not sharded."""
    try:
        yield
    finally:
        reshard = getattr(module, "reshard", None)
        if callable(reshard):
            reshard()
