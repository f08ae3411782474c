"""Which rank fell silent: every process counts up in the store through which the processes met."""

import threading
import time
from dataclasses import dataclass

import torch.distributed as distributed

INTERVAL = 1.0  # seconds


@dataclass(frozen=True)
class Silence:
    """What can be told of the other ranks: those that no longer count, and those that have made fewer
    exchanges than this one; `meeting_point`: whether the store itself is gone."""

    silent: tuple[int, ...] = ()
    behind: tuple[int, ...] = ()
    meeting_point: bool = False

    def __str__(self) -> str:
        if self.meeting_point:
            return "rank 0, or the torchrun that holds the meeting point, is gone or stopped"
        if self.silent:
            return f"{_ranks(self.silent)} no longer answers: it failed, was killed, or stalled"
        if self.behind:
            return f"{_ranks(self.behind)} is behind the others: something there takes too long"
        return "the connection between the ranks broke, though all of them still answer"


class HeartBeat:
    """Counts in the background; `exchanges` is how often this process talked to the others."""

    def __init__(self, store: distributed.Store, rank: int, world_size: int):
        self.store, self.rank, self.world_size = store, rank, world_size
        self.exchanges = 0
        self._stopped = threading.Event()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def listen(self) -> Silence:
        """Wait a few beats, and tell whose count stood still. A store whose host is stopped does not even
        refuse, so it is asked from a thread that is left behind."""
        heard: list[Silence] = []

        def ask() -> None:
            try:
                before = self._counts()
                time.sleep(3 * INTERVAL)
                heard.append(self._compare(before, self._counts()))
            except (RuntimeError, ValueError):  # torch's errors of a store whose process ended
                return

        asking = threading.Thread(target=ask, name="heartbeat-listen", daemon=True)
        asking.start()
        asking.join(10 * INTERVAL)
        return heard[0] if heard else Silence(meeting_point=True)

    def _compare(self, before: dict[int, tuple[int, int]], after: dict[int, tuple[int, int]]) -> Silence:
        others = [rank for rank in range(self.world_size) if rank != self.rank]
        silent = tuple(rank for rank in others if before.get(rank) == after.get(rank))
        behind = tuple(rank for rank in others if after.get(rank, (0, 0))[1] < self.exchanges)
        return Silence(silent, behind)

    def _counts(self) -> dict[int, tuple[int, int]]:
        counts = {}
        for rank in range(self.world_size):
            key = f"impasto/beat/{rank}"
            if self.store.check([key]):
                beat, exchanges = self.store.get(key).decode().split()
                counts[rank] = (int(beat), int(exchanges))
        return counts

    def _beat(self) -> None:
        beat = 0
        while not self._stopped.wait(INTERVAL):
            beat += 1
            try:
                self.store.set(f"impasto/beat/{self.rank}", f"{beat} {self.exchanges}")
            except (RuntimeError, ValueError):  # the store's process ended; `listen` says so if asked
                return


def _ranks(numbers: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, numbers[:8])) + (" ..." if len(numbers) > 8 else "")
    return f"rank {shown}"
