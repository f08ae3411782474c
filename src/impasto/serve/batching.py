"""Micro-batches across requests: one thread that owns the models, and a bounded queue before it.

The thread never waits for company: it takes what is there, so that one request alone starts at once, and
batches fill by themselves while the one before is computed.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

SMOOTHING = 0.2  # of the running mean of seconds a row
FIRST_GUESS = 0.1  # seconds a row, before anything was measured


class Work(Protocol):
    """One sort of work: rows of equal works may be computed together, at most `batch_size` at a time."""

    @property
    def batch_size(self) -> int: ...

    def __hash__(self) -> int: ...

    def run(self, rows: Sequence[Any]) -> Sequence[Any]:
        """A result for each row, in order. Called in the thread of the batcher."""
        ...


class QueueFullError(Exception):
    """No room for so many rows; try again after `retry_after` seconds."""

    def __init__(self, retry_after: int):
        super().__init__(f"the queue is full; try again in {retry_after} s")
        self.retry_after = retry_after


class ClosedError(Exception):
    """The batcher takes nothing more."""


@dataclass(eq=False)
class _Job:
    work: Hashable
    rows: Sequence[Any]
    future: Future
    taken: int = 0
    results: list[Any] = field(default_factory=list)


Observer = Callable[[Any, int, float], None]  # (work, rows of a batch, seconds)


class Batcher:
    """submit(work, rows) gives a future of the results. `limit`: rows that may wait; `observe` is told of
    every batch."""

    def __init__(self, limit: int, observe: Observer = lambda work, rows, seconds: None):
        self.limit, self._observe = limit, observe
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._waiting = 0  # rows that were not taken yet
        self._seconds_a_row = FIRST_GUESS
        self._thread = threading.Thread(target=self._loop, name="impasto-models", daemon=True)

    def start(self, prepare: Callable[[], None] = lambda: None) -> None:
        """Begin to work; `prepare` runs first, in the thread. Where it raises, the batcher closes."""
        self._prepare = prepare
        self._thread.start()

    def submit(self, work: Work, rows: Sequence[Any]) -> Future[list[Any]]:
        """A future of a result for each row. Raises QueueFullError, ClosedError, or ValueError for no rows or
        more than could ever wait."""
        if not 0 < len(rows) <= self.limit:
            raise ValueError(f"{len(rows)} rows; the queue takes 1 to {self.limit}")
        with self._changed:
            if self._closed:
                raise ClosedError("shutting down")
            self._forget_cancelled()
            if self._waiting + len(rows) > self.limit:
                raise QueueFullError(max(1, math.ceil(self._waiting * self._seconds_a_row)))
            job = _Job(work, rows, Future())
            self._jobs.append(job)
            self._waiting += len(rows)
            self._changed.notify_all()
        return job.future

    def close(self) -> None:
        """Take nothing more. What was accepted is still worked off."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until everything accepted is done; whether it is."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Rows in the queue."""
        with self._changed:
            self._forget_cancelled()
            return self._waiting

    @property
    def finished(self) -> bool:
        """Closed, and everything accepted is done."""
        return self._closed and not self._thread.is_alive()

    def _loop(self) -> None:
        try:
            self._prepare()
        except BaseException:
            self.close()
            self._drop_all()
            raise
        while (batch := self._next()) is not None:
            self._compute(batch)

    def _next(self) -> list[tuple[_Job, int, int]] | None:
        """Parts (job, start, stop) of one batch: the oldest job, and whatever equals its work."""
        with self._changed:
            while True:
                self._forget_cancelled()
                if self._jobs:
                    break
                if self._closed:
                    return None
                self._changed.wait()
            work, parts = self._jobs[0].work, []
            room = self._jobs[0].work.batch_size  # type: ignore[attr-defined]
            for job in list(self._jobs):
                if not room or job.work != work:
                    continue
                if job.taken == 0 and not job.future.set_running_or_notify_cancel():
                    continue
                stop = min(job.taken + room, len(job.rows))
                parts.append((job, job.taken, stop))
                room -= stop - job.taken
                self._waiting -= stop - job.taken
                job.taken = stop
                if stop == len(job.rows):
                    self._jobs.remove(job)
            return parts

    def _compute(self, parts: list[tuple[_Job, int, int]]) -> None:
        if not parts:
            return
        work: Any = parts[0][0].work
        rows = [row for job, start, stop in parts for row in job.rows[start:stop]]
        began = time.perf_counter()
        try:
            results = list(work.run(rows))
            if len(results) != len(rows):
                raise RuntimeError(f"{len(results)} results for {len(rows)} rows")
        except Exception as error:
            if len(parts) == 1:
                self._fail(parts[0][0], error)
            else:  # one of them is to blame: each by itself
                for part in parts:
                    self._compute([part])
            return
        seconds = time.perf_counter() - began
        self._seconds_a_row += SMOOTHING * (seconds / len(rows) - self._seconds_a_row)
        self._observe(work, len(rows), seconds)
        for job, start, stop in parts:
            job.results += results[: stop - start]
            del results[: stop - start]
            if len(job.results) == len(job.rows) and not job.future.done():
                job.future.set_result(job.results)

    def _fail(self, job: _Job, error: Exception) -> None:
        with self._changed:
            if job in self._jobs:  # its other rows
                self._jobs.remove(job)
                self._waiting -= len(job.rows) - job.taken
        if not job.future.done():
            job.future.set_exception(error)

    def _forget_cancelled(self) -> None:
        for job in [job for job in self._jobs if job.future.cancelled()]:
            self._jobs.remove(job)
            self._waiting -= len(job.rows) - job.taken

    def _drop_all(self) -> None:
        with self._changed:
            for job in self._jobs:
                if job.future.set_running_or_notify_cancel():
                    job.future.set_exception(ClosedError("the models could not be loaded"))
            self._jobs.clear()
            self._waiting = 0
