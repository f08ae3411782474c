"""What the benchmarks share: taking turns, medians with spreads, and a document of the run."""

import argparse
import json
import mmap
import os
import platform
import resource
import socket
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import torch

from impasto.runtime.files import atomic_write_text

DTYPES = ("float32", "bfloat16")
PEERS = ("transformers", "gigagan-pytorch", "webdataset", "torch-fidelity", "diffusers", "duckdb")
T = TypeVar("T")


@dataclass(frozen=True)
class Spread:
    """One number met several times, such as processor seconds: the median, the least and the most."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.3g} [{self.least:.3g}, {self.most:.3g}]"


@dataclass(frozen=True)
class Spent(Spread):
    """Processor seconds, and the median of those that the operating system took for itself: most of it for
    memory that is asked for anew, whose pages it clears one by one. That depends on the machine as nothing
    else does: a virtual one can take microseconds for a page."""

    system: float

    @classmethod
    def of_both(cls, values: list[tuple[float, float]]) -> "Spent":
        """Of pairs of the processor's and the system's seconds."""
        spread = Spread.of([total for total, _ in values])
        return cls(**asdict(spread), system=statistics.median(system for _, system in values))


def processor_seconds(work: Callable[[], object]) -> float:
    """Of all threads of this process: fair on a machine that others use too."""
    return processor_and_system_seconds(work)[0]


def processor_and_system_seconds(
    work: Callable[[], object], who: int = resource.RUSAGE_SELF
) -> tuple[float, float]:
    """As `processor_seconds`, and the part of it that the operating system took; `who` may be the processes
    that this one starts and waits for (resource.RUSAGE_CHILDREN)."""
    before = resource.getrusage(who)
    work()
    after = resource.getrusage(who)
    system = after.ru_stime - before.ru_stime
    return after.ru_utime - before.ru_utime + system, system


def turns(
    ways: Mapping[str, Callable[[], object]], rounds: int, timed: Callable[[Callable[[], object]], T]
) -> dict[str, list[T]]:
    """What `timed` says of each way, each in its turn and the order reversed every other round, so that what
    else the machine does falls on all. One round before them is for warming up."""
    found: dict[str, list[T]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name in list(ways) if turn % 2 else list(ways)[::-1]:
            spent = timed(ways[name])
            if turn:
                found[name].append(spent)
    return found


def take_turns(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Spent]:
    """Processor time of each way, in turns."""
    found = turns(ways, rounds, processor_and_system_seconds)
    return {name: Spent.of_both(values) for name, values in found.items()}


def peak_memory() -> int:
    """Bytes that this process held at its peak (Linux). Unlike `ru_maxrss`, which a process inherits from
    the one that started it."""
    return _status("VmHWM")


def resident_memory() -> int:
    """Bytes that this process holds (Linux)."""
    return _status("VmRSS")


def _status(field: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def arguments_of(
    description: str, argv: list[str] | None, add: Callable[[argparse.ArgumentParser], None] | None = None
) -> argparse.Namespace:
    """--quick and --json FILE, which every script has, and what `add` adds."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds: see that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    if add is not None:
        add(parser)
    return parser.parse_args(argv)


def add_dtypes(parser: argparse.ArgumentParser) -> None:
    """--dtypes, for a processor that only emulates bfloat16: its lines would take hours and say nothing."""
    parser.add_argument(
        "--dtypes", type=lambda text: text.split(","), default=list(DTYPES),
        metavar="LIST", help=f"of {', '.join(DTYPES)} (default both)",
    )  # fmt: skip


def machine() -> dict[str, Any]:
    """What ratios depend on; load: processes that wanted to run, over the last quarter of an hour."""
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[2], 1),
        "microseconds_a_page": round(_microseconds_a_page(), 2),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: found for name in PEERS if (found := _version(name))},
        "command": " ".join(["python", *(Path(part).name for part in sys.argv[:1]), *sys.argv[1:]]),
    }


def _microseconds_a_page() -> float:
    """What the operating system takes for 4 KB of memory that it hands out anew. Not asked of the C library,
    which may have kept some."""
    pages = torch.frombuffer(mmap.mmap(-1, 2**26), dtype=torch.uint8)
    return processor_and_system_seconds(lambda: pages.fill_(1))[1] / (2**26 / 4096) * 1e6


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def write_result(file: Path | None, result: Mapping[str, Any]) -> None:
    if file is not None:
        atomic_write_text(file, json.dumps({**machine(), **result}, indent=1) + "\n")
