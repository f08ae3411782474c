"""Several processes, one a GPU or CPU, started by torchrun. With one process everything here does nothing.

Each rank computes gradients on its share of a batch (shares of equal size), then `all_reduce_gradients`
averages them: the same numbers as one process on the whole batch. Every rank must call every function.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as distributed
from torch import Tensor
from torch.distributed import ReduceOp

from impasto.runtime.process_group import RanksError, exchange, join, leave

T = TypeVar("T")
BUCKET_BYTES = 64 * 2**20
TIMEOUT_VARIABLE = "IMPASTO_RANK_TIMEOUT"  # minutes that one rank waits for another


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Which process this is, of how many, and its device. The process group is made when first needed.

    A rank that waits longer than `timeout_minutes` for another (IMPASTO_RANK_TIMEOUT), or whose connection
    breaks, raises RanksError that names the silent one.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    timeout_minutes: float = 30.0

    @classmethod
    def from_environment(cls, device: str = "auto", environment: Mapping[str, str] = os.environ) -> "Ranks":
        """From the variables torchrun sets; one process without them. `device` "auto" is a GPU if there is
        one; of several GPUs each rank takes its own. RanksError where the variables are not as torchrun sets
        them, a rank finds no GPU of its own, or the time limit is no number of minutes."""
        try:
            world_size = int(environment.get("WORLD_SIZE", "1"))
            rank = int(environment["RANK"]) if world_size > 1 else 0
            local_rank = int(environment.get("LOCAL_RANK", str(rank)))
        except (KeyError, ValueError) as error:
            raise RanksError(
                f"WORLD_SIZE is set but {error} is not as torchrun sets it; use torchrun"
            ) from None
        if not 0 <= rank < world_size:
            raise RanksError(f"RANK={rank} is not below WORLD_SIZE={world_size}; use torchrun")
        kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        chosen = torch.device(kind)
        if chosen.type == "cuda" and chosen.index is None:
            if local_rank >= torch.cuda.device_count():
                raise RanksError(
                    f"rank {rank} has no GPU of its own; start fewer processes or use --device cpu"
                )
            chosen = torch.device("cuda", local_rank)
        minutes = environment.get(TIMEOUT_VARIABLE, str(cls.timeout_minutes))
        try:
            timeout = float(minutes)
            if not 0 < timeout < 1e6:
                raise ValueError
        except ValueError:
            raise RanksError(f"{TIMEOUT_VARIABLE}={minutes} should be a number of minutes") from None
        return cls(rank=rank, world_size=world_size, device=chosen, timeout_minutes=timeout)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    @torch.no_grad()
    def all_reduce_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace each gradient by its mean over the ranks. One that is None on some ranks counts as zero
        there; one that is None on all stays None, so that optimisers pass the same parameters everywhere.
        Parameters of any shapes, the same on all ranks."""
        if not self._joined():
            return
        parameters = [parameter for parameter in parameters if parameter.requires_grad]
        flags = [parameter.grad is not None for parameter in parameters]
        used = self._all_reduced(torch.tensor(flags, dtype=torch.uint8, device=self.device), ReduceOp.MAX)
        gradients = []
        for parameter, anywhere in zip(parameters, used.tolist(), strict=True):
            if anywhere:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
        for bucket in _buckets(gradients):
            flat = self._all_reduced(torch.cat([gradient.reshape(-1) for gradient in bucket]))
            flat /= self.world_size
            parts = flat.split([gradient.numel() for gradient in bucket])
            torch._foreach_copy_(bucket, [p.view_as(g) for p, g in zip(parts, bucket, strict=True)])

    @torch.no_grad()
    def sum_across_ranks(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks: [...] -> [...], a new tensor without history."""
        return self._all_reduced(tensor.detach().clone())

    def total(self, count: int) -> int:
        """The sum of whole numbers over the ranks."""
        return int(self.sum_across_ranks(torch.tensor(count, dtype=torch.int64, device=self.device)))

    @torch.no_grad()
    def mean_across_ranks(self, tensor: Tensor) -> Tensor:
        """The mean over the ranks: [...] -> [...], a new tensor without history."""
        mean = self.sum_across_ranks(tensor)
        if self.world_size > 1:
            mean /= self.world_size
        return mean

    @torch.no_grad()
    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Give all ranks the main one's values, in place: once after the weights are made or loaded. Tensors
        of any shapes, the same on all ranks."""
        if self._joined():
            for tensor in tensors:
                with exchange():
                    distributed.broadcast(tensor, src=0)

    def any(self, flag: bool) -> bool:
        """Whether `flag` holds on some rank: all stop when one got a signal."""
        if self.world_size == 1:
            return flag
        anywhere = torch.tensor(flag, dtype=torch.uint8, device=self.device)
        return bool(self._all_reduced(anywhere, ReduceOp.MAX))

    @torch.no_grad()
    def gather_rows(self, tensor: Tensor) -> Tensor:
        """The rows of all ranks in order, on every rank: [N, ...] -> [N * world_size, ...], without gradient.
        All ranks have as many."""
        if not self._joined():
            return tensor.detach()
        parts = [torch.empty_like(tensor) for _ in range(self.world_size)]
        with exchange():
            distributed.all_gather(parts, tensor.detach().contiguous())
        return torch.cat(parts)

    def gather_objects(self, item: T) -> list[T]:
        """The items of all ranks in order, on every rank."""
        if not self._joined():
            return [item]
        items: list[Any] = [None] * self.world_size
        with exchange():
            distributed.all_gather_object(items, item)
        return items

    def in_shares(self, count: int, work: Callable[[list[int]], Sequence[T]]) -> list[T]:
        """What `work` makes of 0 ... count - 1, on every rank: each does every n-th and gives it to all."""
        parts = self.gather_objects(list(work(list(range(self.rank, count, self.world_size)))))
        return [parts[index % self.world_size][index // self.world_size] for index in range(count)]

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self._joined():
            with exchange():
                distributed.barrier()

    def close(self) -> None:
        """Leave the process group, if it was joined."""
        if self.world_size > 1:
            leave()

    def _joined(self) -> bool:
        """Join the process group unless this is the only process; whether there are others."""
        if self.world_size > 1:
            join(self.rank, self.world_size, self.device, self.timeout_minutes)
        return self.world_size > 1

    def _all_reduced(self, tensor: Tensor, operation: ReduceOp.RedOpType = ReduceOp.SUM) -> Tensor:
        """`tensor` itself, reduced over the ranks in place."""
        if self._joined():
            with exchange():
                distributed.all_reduce(tensor, op=operation)
        return tensor


def _buckets(gradients: list[Tensor]) -> Iterable[list[Tensor]]:
    """Groups of one number type of at most about BUCKET_BYTES, in an order that is the same on all ranks."""
    by_kind: dict[torch.dtype, list[Tensor]] = {}
    for gradient in gradients:
        by_kind.setdefault(gradient.dtype, []).append(gradient)
    for same in by_kind.values():
        bucket: list[Tensor] = []
        size = 0
        for gradient in same:
            bucket.append(gradient)
            size += gradient.numel() * gradient.element_size()
            if size >= BUCKET_BYTES:
                yield bucket
                bucket, size = [], 0
        if bucket:
            yield bucket
