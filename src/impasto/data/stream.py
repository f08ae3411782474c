"""Web datasets that are read as they come, over the network or from a command, by the `webdataset` library.

What is promised: in each round of a rank its tar files are read once, in an order drawn from the seed; ranks
and workers share the files out, anew for every round; samples are shuffled among a thousand neighbours; bad
ones are counted by reason. What is not: that a resumed run goes on where it stopped. It begins another round,
in another order, and sees some samples again and others later.
"""

import itertools
import queue
import random
import threading
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from impasto.data.opening import too_many_bad
from impasto.data.options import DatasetOptions
from impasto.data.records import BadSampleError, DataError, Faults, Record, named_in
from impasto.data.source import Example, allowed_captions, candidates_of, choose
from impasto.data.stream_files import DAMAGED, Stream, record_of, samples_of
from impasto.data.transforms import decode, fit

NEIGHBOURS = 1000  # samples among which a worker shuffles, held as they are stored
WAITING = 64  # decoded samples that a worker keeps ready
LEAST = 100  # samples read before their bad share is judged
BARREN = 3  # rounds without a good sample after which a worker gives up
Item = Example | Exception | None  # None: the end of a worker's round
PATIENCE = 0.2  # seconds between two looks at whether all is well


class StreamSource:
    """Serves as a trainer's `Source`: the next samples, whatever positions are asked for. `start`: images
    that the run has seen, so that a resumed run draws another order. DataError for fewer files than ranks."""

    def __init__(
        self,
        stream: Stream,
        resolution: int,
        options: DatasetOptions,
        *,
        seed: int = 0,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.stream, self.resolution, self.options, self.faults = stream, resolution, options, Faults()
        count = len(stream.addresses)
        if count < world_size:
            raise DataError(f"{stream.name}: {count} tar files cannot be shared among {world_size} ranks")
        self._seed, self._share = (seed, start), (rank, world_size)
        self._read = self._bad = 0  # samples
        self._lock, self._stopped = threading.Lock(), threading.Event()
        workers = min(max(options.workers, 1), count // world_size)
        self._queues: list[queue.Queue[Item]] = [queue.Queue(WAITING) for _ in range(workers)]
        self._turns = deque(self._queues)  # of the workers that have not ended the round
        self._threads = [
            threading.Thread(target=self._work, args=(worker,), name=f"stream-{worker}", daemon=True)
            for worker in range(workers)
        ]

    def batch(self, positions: Sequence[int]) -> tuple[Tensor, list[str]]:
        """The next pictures [len, 3, R, R] in [-1, 1], one caption each. Raises DataError when too many are
        bad."""
        for thread in self._threads:
            if thread.ident is None:
                thread.start()
        examples = [self._next() for _ in positions]
        pixels = torch.from_numpy(np.stack([example.pixels for example in examples]))
        images = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        return images.contiguous(), [example.caption for example in examples]

    def near_misses(self, positions: Sequence[int]) -> list[str | None]:
        """None for each: only scenes know what would be wrong by one fact."""
        return [None] * len(positions)

    def captions(self, count: int) -> list[str]:
        """Captions of the first samples, always the same. DataError if there is none."""
        records = self._records(self.stream.addresses, Faults())
        options = self.options
        told = (one for record in records for _, one in allowed_captions(record.captions, options))
        found = [caption.text for caption in itertools.islice(told, count)]
        if not found:
            raise DataError(f"{self.stream.name} gives no sample with a caption; see whether it can be read")
        return found

    def close(self) -> None:
        """End the threads."""
        self._stopped.set()

    def _next(self) -> Example:
        """The next sample of the worker whose turn it is."""
        while True:
            self._check()
            try:
                found = self._turns[0].get(timeout=PATIENCE)
            except queue.Empty:
                continue
            if isinstance(found, Exception):
                raise found
            if found is not None:
                self._turns.rotate(-1)
                return found
            self._turns.popleft()
            if not self._turns:
                self._turns.extend(self._queues)

    def _check(self) -> None:
        """DataError if more samples, or tar files, are bad than `options.max_bad` allows."""
        allowed, name = self.options.max_bad, self.stream.name
        files, total = self.faults.counts().get(DAMAGED, 0), len(self.stream.addresses)
        if files > int(allowed * total):
            raise DataError(
                f"{name}: {files} of {total} tar files are damaged or unreadable, more than dataset.max_bad="
                f"{allowed:g} allows: {self.faults.summary()}"
            )
        with self._lock:
            bad, read = self._bad, self._read
        if read >= LEAST and bad > allowed * read:
            raise too_many_bad(name, bad, read, allowed, self.faults.summary())

    def _work(self, worker: int) -> None:
        """Round after round, until the source is closed."""
        barren = 0
        try:
            for number in itertools.count():
                good = self._round(worker, number)
                barren = 0 if good else barren + 1
                if not self._put(worker, None):
                    return
                if barren == BARREN:
                    told = self.faults.summary()
                    raise DataError(f"{self.stream.name}: no good sample in {BARREN} rounds; bad: {told}")
        except Exception as error:
            self._put(worker, error)

    def _round(self, worker: int, number: int) -> int:
        """Read this worker's tar files of a round; returns how many good samples they held."""
        from webdataset import shuffle

        rank, world_size = self._share
        rng = random.Random(str((*self._seed, number)))  # the same on all ranks, which share the files out
        files = rng.sample(self.stream.addresses, len(self.stream.addresses))
        mine = files[rank::world_size][worker :: len(self._queues)]
        rng = random.Random(str((*self._seed, number, rank, worker)))
        draws = np.random.default_rng((*self._seed, number, rank, worker))
        good = 0
        for record in shuffle(NEIGHBOURS, rng=rng)(self._records(mine, self.faults)):
            try:
                example = self._example(record, draws)
            except BadSampleError as bad:
                self._count_bad(self.faults, bad)
                continue
            good += 1
            if not self._put(worker, example):
                return good
        return good

    def _records(self, addresses: Sequence[str], faults: Faults) -> Iterator[Record]:
        """The samples of tar files, as they are stored."""
        for address in addresses:
            for sample in samples_of(address, faults):
                with self._lock:
                    self._read += faults is self.faults
                try:
                    record = record_of(sample, address, self.options.caption_column)
                except BadSampleError as bad:
                    self._count_bad(faults, bad)
                    continue
                if not named_in(record.captions, self.options.exclude):
                    yield record

    def _example(self, record: Record, rng: np.random.Generator) -> Example:
        caption = choose(candidates_of(record, self.options), rng).text
        picture = decode(record.picture, record.name, self.options)
        return Example(fit(picture, self.resolution, self.options, rng), caption, record.name)

    def _count_bad(self, faults: Faults, bad: BadSampleError) -> None:
        faults.add(bad.reason, bad.name)
        with self._lock:
            self._bad += faults is self.faults

    def _put(self, worker: int, found: Item) -> bool:
        """Hand over; False if the source was closed instead."""
        while not self._stopped.is_set():
            try:
                self._queues[worker].put(found, timeout=PATIENCE)
            except queue.Full:
                continue
            return True
        return False
