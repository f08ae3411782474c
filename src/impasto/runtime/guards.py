"""What ends a run in good order: signals, a time limit, gradients that are no numbers."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from impasto.errors import ExpectedError


class Graceful:
    """While entered, the first SIGTERM or SIGINT only sets `requested`, which a loop checks once a step to
    save and leave; the second raises KeyboardInterrupt."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.requested = False
        self.reason = ""
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Graceful":
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self._previous = {number: signal.signal(number, self._handle) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.requested:
            raise KeyboardInterrupt(f"{name} after {self.reason}")
        self.requested, self.reason = True, name
        # not print: the signal may come in the middle of another one
        os.write(2, f"\n{name}: saving a checkpoint and stopping; once more stops at once\n".encode())


class Deadline:
    """A limit of `minutes` from now on; None is no limit, ValueError for one that is not above 0."""

    def __init__(self, minutes: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        if minutes is not None and minutes <= 0:
            raise ValueError(f"a time limit of {minutes} minutes should be above 0")
        self._clock = clock
        self._end = None if minutes is None else clock() + 60 * minutes

    @property
    def passed(self) -> bool:
        """Whether the time is over."""
        return self.seconds_left <= 0

    @property
    def seconds_left(self) -> float:
        """Seconds until then, below 0 afterwards; infinite without a limit."""
        return float("inf") if self._end is None else self._end - self._clock()


class NonFiniteError(ExpectedError):
    """Gradients were not finite too many steps in a row; the message is one line with the way out."""


class NonFiniteGuard:
    """Zeroes gradients that are not finite and counts the steps that had any. A network has its own guard.
    ValueError for a `max_consecutive` below 1."""

    def __init__(self, max_consecutive: int = 10, name: str = "gradients") -> None:
        if max_consecutive < 1:
            raise ValueError(f"max_consecutive={max_consecutive} should be at least 1")
        self.max_consecutive = max_consecutive
        self.name = name
        self.bad_steps = 0
        self.consecutive = 0

    @torch.no_grad()
    def clean(
        self,
        gradients: Iterable[Tensor | None],
        images: int = 0,
        last_checkpoint: Path | None = None,
        *,
        total: Callable[[int], int] = int,
    ) -> int:
        """Between the backward pass (and the exchange of gradients) and the optimiser step: put 0 where a
        gradient (of any shape) is not finite, return how many numbers that were. `total` sums that number
        over ranks that hold parts of the gradients each, so that all agree. Raises NonFiniteError at the
        `max_consecutive`-th such step in a row."""
        present = [gradient for gradient in gradients if gradient is not None and gradient.numel()]
        bad = 0 if _surely_finite(present) else sum(int((~torch.isfinite(g)).sum()) for g in present)
        bad = total(bad)
        if not bad:
            self.consecutive = 0
            return 0
        for gradient in present:
            torch.nan_to_num_(gradient, nan=0.0, posinf=0.0, neginf=0.0)
        self.bad_steps += 1
        self.consecutive += 1
        if self.consecutive >= self.max_consecutive:
            where = (
                f"resume from {last_checkpoint}"
                if last_checkpoint
                else "there is no checkpoint yet, begin again"
            )
            raise NonFiniteError(
                f"{self.name}: not finite in {self.consecutive} steps in a row, at {images} images; {where}"
                f" with a lower learning rate or a larger R1 weight, and without bf16"
            )
        return bad

    def state_dict(self) -> dict[str, int]:
        """For the JSON of a checkpoint."""
        return {"bad_steps": self.bad_steps, "consecutive": self.consecutive}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.bad_steps, self.consecutive = state["bad_steps"], state["consecutive"]


def _surely_finite(tensors: list[Tensor]) -> bool:
    """One pass and one wait for the device: a norm is finite only if all its numbers are. (The norm of large
    finite numbers may overflow; then they are looked at one by one.)"""
    if not tensors:
        return True
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for norm in torch._foreach_norm(tensors, 2):
        kinds.setdefault((norm.dtype, norm.device), []).append(norm)
    return all(bool(torch.isfinite(torch.stack(same)).all()) for same in kinds.values())
