"""The process group of torch: made when it is first needed, and watched by a heartbeat that knows who fell
silent. A process has one."""

import datetime
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as distributed

from impasto.runtime.heartbeat import HeartBeat

_heartbeat: HeartBeat | None = None


class RanksError(ConnectionError):
    """A process group that cannot be; the message is one line with the way out."""


def join(rank: int, world_size: int, device: torch.device, timeout_minutes: float) -> None:
    """Meet the other ranks, unless that was done: by NCCL on GPUs, by gloo elsewhere. Raises RanksError."""
    global _heartbeat
    if distributed.is_initialized():
        return
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    timeout = datetime.timedelta(minutes=timeout_minutes)
    try:
        store, _, _ = next(distributed.rendezvous("env://", rank, world_size, timeout=timeout))
        distributed.init_process_group(
            "nccl" if on_gpu else "gloo",
            store=distributed.PrefixStore("group", store),
            rank=rank,
            world_size=world_size,
            timeout=timeout,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise RanksError(f"the {world_size} processes cannot connect: {reason}; use torchrun") from error
    _heartbeat = HeartBeat(store.clone(), rank, world_size)


def leave() -> None:
    """End the heartbeat and the process group, if it was joined."""
    global _heartbeat
    if not distributed.is_initialized():
        return
    if _heartbeat is not None:
        _heartbeat.stop()
        _heartbeat = None
    distributed.destroy_process_group()


@contextmanager
def exchange() -> Iterator[None]:
    """Around whatever waits for other ranks: RanksError naming the one that does not answer."""
    if _heartbeat is not None:
        _heartbeat.exchanges += 1
    try:
        yield
    except RuntimeError as error:
        if _heartbeat is None:
            raise
        raise RanksError(
            f"{_heartbeat.listen()}; rank {_heartbeat.rank} stops. The last checkpoint is whole: the same "
            f"command goes on from it ({str(error).strip().splitlines()[0][:160]})"
        ) from error
