"""The order in which a set is seen: a new shuffle every epoch, without a table in memory.

The index range is laid out as rows x columns and shuffled by a Feistel network over the two numbers of a
place; the few places beyond the range are walked on until they fall inside. Any place of any epoch is
computed on its own from (seed, epoch, place), so a run resumes at a number, and ranks and workers only divide
the numbers.
"""

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

ROUNDS = 8  # four for a pseudo-random permutation in theory, twice that for narrow halves
MASK = (1 << 64) - 1


class Order:
    """Position p, of an endless order, is place p % count of epoch p // count. ValueError for a count below
    1."""

    def __init__(self, count: int, seed: int) -> None:
        if count < 1:
            raise ValueError(f"an order needs at least one sample, not {count}")
        self.count, self.seed = count, seed
        self._rows = math.isqrt(count - 1) + 1
        self._columns = -(-count // self._rows)

    def index(self, position: int) -> int:
        """Which sample stands at a position."""
        epoch, place = divmod(position, self.count)
        return self._permute(place, _keys(self.seed, epoch))

    def following(self, position: int) -> Iterator[int]:
        """The sample at a position, then those at the next places of its epoch, the first after the last:
        every sample once. A bad sample's place goes to the next good one of these."""
        epoch, place = divmod(position, self.count)
        for step in range(self.count):
            yield self.index(epoch * self.count + (place + step) % self.count)

    def _permute(self, place: int, keys: tuple[int, ...]) -> int:
        rows, columns = self._rows, self._columns
        while True:
            row, column = divmod(place, columns)
            for first, second in zip(keys[::2], keys[1::2], strict=True):
                row = (row + _mix(column + first)) % rows
                column = (column + _mix(row + second)) % columns
            place = row * columns + column
            if place < self.count:
                return place


@lru_cache(maxsize=64)
def _keys(seed: int, epoch: int) -> tuple[int, ...]:
    return tuple(int(key) for key in np.random.SeedSequence((seed, epoch)).generate_state(ROUNDS, np.uint64))


def _mix(value: int) -> int:
    """64 bits to 64 bits that look unrelated (the finaliser of SplitMix64)."""
    value &= MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)
