"""The live console of a training run, and plain lines where there is no terminal."""

import math
import resource
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import torch
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

BLOCKS = "▁▂▃▄▅▆▇█"


class TrainingDisplay:
    """Progress in images, smoothed losses, images a second, memory, expert load, time left.

    Used as a context manager. `tick(images)` after each step is cheap; `log(images, losses, expert_load)`
    once an interval prints one status line, and in a terminal renews the panel below the lines.
    """

    def __init__(
        self,
        total_images: int,
        start_images: int = 0,
        *,
        console: Console | None = None,
        smoothing: float = 0.9,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console or Console()
        self.total_images = total_images
        self.images = start_images
        self.smoothing = smoothing
        self.losses: dict[str, float] = {}
        self.expert_load: dict[str, list[float]] = {}
        self._weights: dict[str, float] = {}
        self._clock = clock
        self._history = deque([(clock(), start_images)], maxlen=16)  # of the last intervals
        self._live: Live | None = None

    def __enter__(self) -> "TrainingDisplay":
        if self.console.is_terminal:
            self._live = Live(
                console=self.console, get_renderable=self._panel, refresh_per_second=2, transient=True
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def tick(self, images: int) -> None:
        """Images seen so far; the panel shows it when it is next drawn."""
        self.images = images

    def log(
        self,
        images: int,
        losses: Mapping[str, float],
        expert_load: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        """`losses` since the last call, by full name; `expert_load`: for each layer the share of each
        expert."""
        self.tick(images)
        self._history.append((self._clock(), images))
        for name, value in losses.items():
            self._smooth(name, float(value))
        if expert_load is not None:
            self.expert_load = {name: list(shares) for name, shares in expert_load.items()}
        self.message(self.status_line())

    def message(self, text: str) -> None:
        """A line of its own, above the panel if there is one."""
        self.console.print(Text(text), soft_wrap=True)

    @property
    def images_per_second(self) -> float:
        """Over the last intervals; 0 before the first."""
        (first_time, first), (last_time, last) = self._history[0], self._history[-1]
        return (last - first) / (last_time - first_time) if last_time > first_time else 0.0

    def status_line(self) -> str:
        """All of it in one line."""
        share = self.images / max(self.total_images, 1)
        parts = [f"{self.images:,}/{self.total_images:,} images ({share:.1%})"]
        parts += [f"{name.removeprefix('loss/')} {value:.4g}" for name, value in self.losses.items()]
        parts += [f"{self.images_per_second:.1f} images/s", memory_line()]
        if self.expert_load:
            parts.append(
                "experts " + " ".join(self._load_bar(shares) for shares in self.expert_load.values())
            )
        parts.append(f"{self._time_left()} left")
        return " | ".join(parts)

    def _smooth(self, name: str, value: float) -> None:
        """An exponential mean without the pull of its start; a value that is no number is shown, not kept."""
        old, weight = self.losses.get(name, math.nan), self._weights.get(name, 0.0)
        if not math.isfinite(value) or not math.isfinite(old):
            self.losses[name], self._weights[name] = value, 1 - self.smoothing
            return
        new_weight = self.smoothing * weight + (1 - self.smoothing)
        self.losses[name] = (self.smoothing * weight * old + (1 - self.smoothing) * value) / new_weight
        self._weights[name] = new_weight

    def _time_left(self) -> str:
        rate = self.images_per_second
        if rate <= 0:
            return "?"
        return format_seconds(max(self.total_images - self.images, 0) / rate)

    def _load_bar(self, shares: Sequence[float]) -> str:
        """One character an expert, half full when it has its equal share."""
        heights = [share * len(shares) / 2 for share in shares]
        if not self.console.encoding.lower().startswith("utf"):
            return "".join(str(max(0, min(9, round(9 * height)))) for height in heights)
        return "".join(
            "·" if height <= 0.01 else BLOCKS[max(0, min(7, round(8 * height) - 1))] for height in heights
        )

    def _panel(self) -> RenderableType:
        top = Table.grid(padding=(0, 2))
        top.add_row(
            ProgressBar(total=max(self.total_images, 1), completed=self.images, width=32),
            f"{self.images:,}/{self.total_images:,} images",
            f"{self.images_per_second:.1f} images/s",
            memory_line(),
            f"{self._time_left()} left",
        )
        losses = Table.grid(padding=(0, 2))
        for name, value in list(self.losses.items()):  # drawn by a thread of its own
            losses.add_row(name, f"{value:.4g}")
        loads = Table.grid(padding=(0, 2))
        for name, shares in self.expert_load.items():
            loads.add_row(f"experts {name}", self._load_bar(shares), f"{min(shares):.0%}-{max(shares):.0%}")
        body = Table.grid(padding=(0, 4))
        body.add_row(losses, loads)
        return Group(top, body)


def memory_bytes() -> dict[str, int]:
    """{"process": resident bytes, "gpu": the most ever allocated}, the latter only with a GPU."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            resident = int(file.read().split()[1]) * resource.getpagesize()
    except OSError:  # not Linux: the most it ever was, in bytes on macOS
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    used = {"process": resident}
    if torch.cuda.is_available():
        used["gpu"] = torch.cuda.max_memory_allocated()
    return used


def memory_line() -> str:
    """What this process and its GPU hold, for people."""
    names = {"process": "memory", "gpu": "GPU"}
    return ", ".join(f"{names[name]} {size / 2**30:.1f} GiB" for name, size in memory_bytes().items())


def format_seconds(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
