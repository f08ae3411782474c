"""Micro-batches, the queue's limit, blame, and the end."""

import threading
import time
from dataclasses import dataclass, field

import pytest

from impasto.serve.batching import Batcher, ClosedError, QueueFullError
from impasto.serve.limits import Keys, RateLimiter
from impasto.serve.store import PictureStore


@dataclass(frozen=True)
class Doubling:
    """Rows are numbers; a batch waits for `gate`, and 13 is refused."""

    name: str = "a"
    gate: threading.Event = field(default_factory=threading.Event, compare=False)
    seen: list = field(default_factory=list, compare=False)
    batch_size: int = 4

    def run(self, rows):
        assert self.gate.wait(10)
        self.seen.append(list(rows))
        if 13 in rows:
            raise ValueError("13")
        return [2 * row for row in rows]


@pytest.fixture
def batcher():
    made = Batcher(limit=12)
    made.start()
    yield made
    made.close()
    assert made.join(10)


def taken(batcher, rows):
    """Wait until so few rows wait."""
    end = time.monotonic() + 10
    while batcher.waiting > rows:
        assert time.monotonic() < end
        time.sleep(0.005)


def test_batches_fill_from_what_waits_and_results_go_to_whom_they_belong(batcher):
    work = Doubling()
    first = batcher.submit(work, [1])
    taken(batcher, 0)  # it started at once, alone
    rest = [batcher.submit(work, rows) for rows in ([2, 3], [4, 5, 6], [7])]
    other = batcher.submit(Doubling(name="b", gate=work.gate, seen=work.seen), [100])
    work.gate.set()
    assert [future.result(10) for future in [first, *rest, other]] == [[2], [4, 6], [8, 10, 12], [14], [200]]
    assert work.seen == [[1], [2, 3, 4, 5], [6, 7], [100]]


def test_a_full_queue_says_when_to_come_again_and_takes_nothing(batcher):
    work = Doubling()
    batcher.submit(work, [0])
    taken(batcher, 0)
    waiting = [batcher.submit(work, [1] * 6), batcher.submit(work, [2] * 5)]
    with pytest.raises(QueueFullError) as full:
        batcher.submit(work, [3, 3])
    assert full.value.retry_after >= 1 and batcher.waiting == 11
    assert waiting[1].cancel()  # who leaves makes room
    late = batcher.submit(work, [3] * 6)
    work.gate.set()
    assert late.result(10) == [6] * 6
    with pytest.raises(ValueError, match="13 rows"):
        batcher.submit(work, [1] * 13)


def test_one_bad_request_fails_alone(batcher):
    work = Doubling()
    batcher.submit(work, [0])
    taken(batcher, 0)
    good, bad, also = (batcher.submit(work, rows) for rows in ([1], [13], [2]))
    large = batcher.submit(work, [5, 5, 13, 5, 5, 5])  # fails in its first batch: its other rows go
    work.gate.set()
    assert good.result(10) == [2] and also.result(10) == [4]
    for future in (bad, large):
        with pytest.raises(ValueError, match="13"):
            future.result(10)
    assert batcher.submit(work, [7]).result(10) == [14]


def test_closing_finishes_what_was_accepted():
    batcher, work = Batcher(limit=12), Doubling()
    batcher.start()
    futures = [batcher.submit(work, [number] * 3) for number in range(4)]
    batcher.close()
    with pytest.raises(ClosedError):
        batcher.submit(work, [1])
    assert not batcher.finished
    work.gate.set()
    assert [future.result(10) for future in futures] == [[2 * number] * 3 for number in range(4)]
    assert batcher.join(10) and batcher.finished


def test_what_waits_for_models_that_cannot_be_loaded_is_told():
    def broken():
        raise RuntimeError("no weights")

    batcher, gate = Batcher(limit=4), threading.Event()
    hook, threading.excepthook = threading.excepthook, lambda arguments: None
    try:
        batcher.start(lambda: (gate.wait(10), broken()))
        future = batcher.submit(Doubling(), [1])
        gate.set()
        with pytest.raises(ClosedError):
            future.result(10)
        assert batcher.join(10) and batcher.finished
    finally:
        threading.excepthook = hook


def test_keys():
    keys = Keys(["first", "zweiter ü"])
    assert keys.opens("Bearer first") and keys.opens("bearer  first ")
    assert keys.opens("Basic dXNlcjpmaXJzdA==")  # user:first
    for wrong in (None, "", "first", "Bearer", "Bearer firs", "Bearer first2", "Basic first", "Basic %%%"):
        assert not keys.opens(wrong)
    assert Keys([]).opens(None) and not Keys([])


def test_rates():
    now = [0.0]
    rates = RateLimiter(6, clock=lambda: now[0])
    assert [rates.take("a") for _ in range(7)] == [0] * 6 + [10] and rates.take("b") == 0
    now[0] = 9.0
    assert rates.take("a") == 1
    now[0] = 10.0
    assert rates.take("a") == 0 and rates.take("a") == 10
    assert RateLimiter(0).take("a") == 0


def test_pictures_by_address_expire_and_make_room():
    now = [0.0]
    store = PictureStore(most_bytes=100, seconds=10, clock=lambda: now[0])
    first, second = store.put(b"1" * 60), store.put(b"2" * 40)
    assert store.get(first) == b"1" * 60 and store.get("absent") is None
    third = store.put(b"3" * 10)  # the oldest goes
    assert store.get(first) is None and store.get(second) and store.bytes == 50
    now[0] = 10.0
    assert store.get(second) is None and store.get(third) is None and store.bytes == 0
    large = store.put(b"4" * 500)
    assert store.get(large) and len(store) == 1
