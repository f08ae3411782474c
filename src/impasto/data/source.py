"""A set of captioned pictures as training data: an endless order in which every position can be computed on
its own, so that a run resumes anywhere and any number of ranks can share it.

Position p is place p % count of epoch p // count; `Order` says which sample stands there. If that sample is
bad, its place goes to the next good one of the epoch's order (which then is seen twice in that epoch), so a
bad sample shifts no other: what stands at p is a function of (set, options, seed, p) alone.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from impasto.data.opening import too_many_bad
from impasto.data.options import DatasetOptions
from impasto.data.order import Order
from impasto.data.records import BadSampleError, Caption, DataError, Faults, Record, Records
from impasto.data.transforms import decode, fit, is_random

AHEAD = 2  # batches that are read before they are asked for
CAPTION, PIXELS, PHRASINGS = 1, 2, 3  # streams of random numbers of a position


class Example(NamedTuple):
    """What stands at a position: picture [R, R, 3] of 8-bit values, its caption, the file it came from, and
    the bad samples that were passed over."""

    pixels: np.ndarray
    caption: str
    name: str
    passed: tuple[BadSampleError, ...] = ()


class DataSource:
    """Serves as the trainers' `Source`. `stride`: the number of ranks, which is how far apart the positions
    are that one of them asks for; it only helps to guess what to read ahead. `resolution`: R, the
    side in pixels. Whatever reads a sample raises DataError when too many are bad or none is good."""

    def __init__(
        self, records: Records, resolution: int, options: DatasetOptions, *, seed: int = 0, stride: int = 1
    ) -> None:
        self.records, self.resolution, self.options, self.seed = records, resolution, options, seed
        self.stride, self.order = stride, Order(len(records), seed)
        self.faults = Faults()
        self._size = options.samples or len(records)  # of the whole set, where this is a part of it
        self._allowed = int(options.max_bad * self._size)
        self._bad: dict[int, BadSampleError] = {}
        self._pool = ThreadPoolExecutor(options.workers, "read-ahead") if options.workers else None
        self._pending: dict[int, Future[Example]] = {}

    def __len__(self) -> int:
        """Samples in an epoch."""
        return len(self.records)

    def batch(self, positions: Sequence[int]) -> tuple[Tensor, list[str]]:
        """Pictures [len, 3, R, R] in [-1, 1] and one caption each. Raises DataError when too many are bad."""
        examples = self.examples(positions)
        pixels = torch.from_numpy(np.stack([example.pixels for example in examples]))
        images = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        return images.contiguous(), [example.caption for example in examples]

    def near_misses(self, positions: Sequence[int]) -> list[str | None]:
        """None for each: only scenes know what would be wrong by one fact."""
        return [None] * len(positions)

    def captions(self, count: int, start: int = 0) -> list[str]:
        """Captions of positions start, start + 1, ..., without decoding a picture."""
        return [self._first_good(p, self._caption)[0] for p in range(start, start + count)]

    def phrasings(self, position: int, count: int) -> list[str]:
        """At most `count` different captions of the sample at a position, in an order drawn by position and
        by weight, without decoding the picture."""
        chances, texts = zip(*self.weighted_captions(position), strict=True)
        shares = np.array(chances) / sum(chances)
        number = min(count, len(texts))
        drawn = self._rng(PHRASINGS, position).choice(len(texts), number, replace=False, p=shares)
        return [texts[index] for index in drawn]

    def weighted_captions(self, position: int) -> list[tuple[float, str]]:
        """(chance before normalising, text) of every caption of the sample at a position that
        `options` allow."""

        def read(index: int, _: int) -> list[tuple[float, Caption]]:
            return candidates_of(self.records.read(index), self.options)

        found, passed = self._first_good(position, read)
        self._count(passed)
        return [(chance, caption.text) for chance, caption in found]

    def samples(self, positions: Sequence[int]) -> list[int]:
        """Which samples stand at positions that were read before."""
        return [self._first_good(position, lambda index, _: index)[0] for position in positions]

    def examples(self, positions: Sequence[int]) -> list[Example]:
        """What stands at the positions, and read on beyond the last. Bad samples are counted here, not where
        they are read ahead, so that their number does not depend on the workers."""
        if self._pool is None:
            found = [self.example(position) for position in positions]
        else:
            found = self._read_ahead(self._pool, positions)
        self._count([bad for example in found for bad in example.passed])
        return found

    def example(self, position: int) -> Example:
        """What stands at a position."""
        (pixels, caption, name), passed = self._first_good(position, self._read)
        return Example(pixels, caption, name, passed)

    def close(self) -> None:
        """End the threads. Positions can be asked for afterwards, one by one."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool = None

    def _read_ahead(self, pool: ThreadPoolExecutor, positions: Sequence[int]) -> list[Example]:
        if not positions:
            return []
        end = positions[-1] + self.stride * (AHEAD * len(positions) + 1)
        wanted = dict.fromkeys([*positions, *range(positions[-1] + self.stride, end, self.stride)])
        for stale in self._pending.keys() - wanted.keys():
            self._pending.pop(stale).cancel()
        for position in wanted:
            if position not in self._pending:
                self._pending[position] = pool.submit(self.example, position)
        found = {position: self._pending.pop(position).result() for position in dict.fromkeys(positions)}
        return [found[position] for position in positions]

    def _first_good(self, position: int, read) -> tuple:
        """`read(index, position)` of the first sample from a position on that is good, and what was bad."""
        passed: list[BadSampleError] = []
        for index in self.order.following(position):
            try:
                known = self._bad.get(index)
                if known is not None:
                    raise known
                return read(index, position), tuple(passed)
            except BadSampleError as bad:
                self._bad[index] = bad
                passed.append(bad)
                if len(passed) > self._allowed:
                    break
        faults = Faults()
        for found in passed:
            faults.add(found.reason, found.name)
        if len(passed) > self._allowed:
            raise self._too_many(faults)
        raise DataError(
            f"{self.options.source or 'this set'}: a part of {len(self.records)} samples has no good one: "
            f"{faults.summary()}; mend or remove what is bad"
        )

    def _read(self, index: int, position: int) -> tuple[np.ndarray, str, str]:
        record = self.records.read(index)
        text = self._choose(record, position)
        rng = self._rng(PIXELS, position) if is_random(self.options) else None
        image = decode(record.picture, record.name, self.options)
        return fit(image, self.resolution, self.options, rng), text, record.name

    def _caption(self, index: int, position: int) -> str:
        return self._choose(self.records.read(index), position)

    def _count(self, passed: Sequence[BadSampleError]) -> None:
        for bad in passed:
            self.faults.add(bad.reason, bad.name)
        if len(self.faults) > self._allowed:
            raise self._too_many(self.faults)

    def _choose(self, record: Record, position: int) -> str:
        """One of a sample's captions: first a language by weight, then one of that language."""
        candidates = candidates_of(record, self.options)
        if len(candidates) == 1:
            return candidates[0][1].text
        return choose(candidates, self._rng(CAPTION, position)).text

    def _rng(self, stream: int, position: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, stream, position))

    def _too_many(self, faults: Faults):
        source = self.options.source or "this set"
        return too_many_bad(source, len(faults), self._size, self.options.max_bad, faults.summary())


def choose(candidates: Sequence[tuple[float, Caption]], rng: np.random.Generator) -> Caption:
    """One of (chance before normalising, caption)."""
    chances = np.array([weight for weight, _ in candidates])
    return candidates[int(rng.choice(len(candidates), p=chances / chances.sum()))][1]


def candidates_of(record: Record, options: DatasetOptions) -> list[tuple[float, Caption]]:
    """`allowed_captions` of a sample. Raises BadSampleError where there is none."""
    allowed = allowed_captions(record.captions, options)
    if not allowed:
        raise BadSampleError("no caption in dataset.languages", record.name)
    return allowed


def allowed_captions(captions: Sequence[Caption], options: DatasetOptions) -> list[tuple[float, Caption]]:
    """(chance before normalising, caption) of the captions that `phrasings` and `languages` allow: a
    language's weight is shared among its captions; without weights all captions are alike."""
    if options.phrasings:
        languages = dict.fromkeys(caption.language for caption in captions)
        by_language = [[one for one in captions if one.language == language] for language in languages]
        captions = [one for some in by_language for one in some[: options.phrasings]]
    if not options.languages:
        return [(1.0, caption) for caption in captions]
    allowed: list[tuple[float, Caption]] = []
    for language, weight in options.languages.items():
        spoken = [caption for caption in captions if caption.language == language]
        if weight > 0:
            allowed += [(weight / len(spoken), caption) for caption in spoken]
    return allowed
