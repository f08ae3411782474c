"""What every training run does around its steps, whatever it trains: when to log, sample, save and stop."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from impasto.runtime.dist import Ranks
from impasto.runtime.guards import Deadline, Graceful


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """What of a launch does not decide its result."""

    out: Path
    data: str = "scenes"
    resume: str = "auto"  # "auto": from the newest checkpoint of `out`, if any; "never": refuse a used folder
    init_from: str | None = None
    time_limit: float | None = None  # minutes
    device: str = "cpu"
    log_to: tuple[str, ...] = ()


class LoopConfig(Protocol):
    """Intervals by the run's clock."""

    @property
    def log_every(self) -> int: ...
    @property
    def sample_every(self) -> int: ...
    @property
    def checkpoint_every(self) -> int: ...


def run_steps(
    step: Callable[[], None],
    clock: Callable[[], int],
    take_means: Callable[[], dict[str, float]],
    state: Any,
    recorder: Any,
    config: LoopConfig,
    *,
    end: int,
    ranks: Ranks,
    deadline: Deadline,
    stop: Graceful,
) -> str:
    """Step until the clock reaches `end`, the deadline has passed or a signal asks to stop, on any rank; the
    last checkpoint is written in each case. Returns why it ended.

    recorder: tick(images), metrics(state, means, seconds), samples(state), checkpoint(state).
    """
    due = (config.log_every, config.sample_every, config.checkpoint_every)
    reason = "finished"
    if clock() == 0:
        recorder.samples(state)
    while clock() < end:
        started = time.perf_counter()
        step()
        log, sample, checkpoint = (clock() % interval == 0 for interval in due)
        recorder.tick(state.images)
        if log:
            recorder.metrics(state, take_means(), time.perf_counter() - started)
        if sample:
            recorder.samples(state)
        ending = ranks.any(stop.requested or deadline.passed)
        if ending:
            reason = stop.reason or ("time limit" if deadline.passed else "another rank stopped")
        if checkpoint or ending or clock() >= end:
            recorder.checkpoint(state)
        if ending:
            break
    return reason
