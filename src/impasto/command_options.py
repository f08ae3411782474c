"""What several verbs of the command share."""

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from impasto.config import first_line

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16")
WAIT_MINUTES = 600.0  # of ranks for the slowest one, which may draw or compare much longer than a step takes
DRAWING = ("truncation", "truncation_mode", "guidance", "temperature", "top_k", "top_p", "size")
MUCH_SLOWER = 3.0  # times float32; with units for it bfloat16 is the quicker one


def usable_device(name: str) -> str:
    """The device, if this machine has it; ValueError if not."""
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name} is not usable here: {first_line(error)}") from None
    return name


def ranks_of(arguments: argparse.Namespace) -> Any:
    """This process among its ranks; of several GPUs each has its own, which becomes --device. Raises
    ValueError as `usable_device`, RanksError as `Ranks.from_environment`."""
    from dataclasses import replace

    from impasto.runtime.dist import Ranks

    ranks = replace(Ranks.from_environment(usable_device(arguments.device)), timeout_minutes=WAIT_MINUTES)
    arguments.device = str(ranks.device)
    return ranks


@contextmanager
def progress_bars(shown: bool = True) -> Iterator[Any]:
    """told(name, done, total): a bar for each name on stderr, if that is a terminal and they are to be
    shown."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not (shown and console.is_terminal)) as bar:
        tasks: dict[str, Any] = {}

        def told(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name)
            bar.update(tasks[name], completed=done, total=total)

        yield told


def add_drawing_options(verb: argparse.ArgumentParser) -> Any:
    """How a model of either family draws, by the names of `generate`; returns the group of Aurora."""
    aurora = verb.add_argument_group("Aurora")
    aurora.add_argument(
        "--truncation",
        type=float,
        metavar="PSI",
        help="pull w towards its mean: 1 not at all, 0 entirely (default: not at all)",
    )
    aurora.add_argument(
        "--truncation-mode",
        choices=("average", "prompt"),
        help="towards the mean w of training (default), or further towards the prompt's own mean (the "
        "released script)",
    )
    mars = verb.add_argument_group("MARS")
    mars.add_argument(
        "--guidance",
        type=float,
        metavar="G",
        help="how strongly the prompt is followed (default: the model's)",
    )
    mars.add_argument(
        "--temperature", type=float, metavar="T", help="of drawing codes; 0 takes the likeliest (default 1)"
    )
    mars.add_argument("--top-k", type=int, metavar="K", help="among the K likeliest codes (default 1000)")
    mars.add_argument("--top-p", type=float, metavar="P", help="among the likeliest of mass P (default 1)")
    mars.add_argument(
        "--size",
        type=int,
        metavar="PX",
        help="side of the pictures, where a stage of the model enlarges them",
    )
    return aurora


def drawing_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Those that were given."""
    found = {name: getattr(arguments, name) for name in DRAWING}
    return {name: value for name, value in found.items() if value is not None}


def usable_dtype(name: str, device: str) -> "torch.dtype":
    """The type; a line on stderr where the device is a CPU that only emulates it."""
    import torch

    if name == "bfloat16":
        _tell_if_emulated(device, "--dtype float32")
    return getattr(torch, name)


def tell_of_emulation(run: Mapping[str, Any], device: str) -> None:
    """A line on stderr, of the first process, where a run (as a document) computes in bfloat16 on a CPU that
    only emulates it. The run goes on as its settings say: they decide its numbers."""
    switches = list(_bfloat16_switches(run))
    if switches and os.environ.get("RANK", "0") == "0":
        _tell_if_emulated(device, "a run with " + " ".join(f"--set {path}=false" for path in switches))


def _bfloat16_switches(document: Mapping[str, Any], before: str = "") -> Iterator[str]:
    for name, value in document.items():
        if isinstance(value, Mapping):
            yield from _bfloat16_switches(value, f"{before}{name}.")
        elif name.startswith("bfloat16") and value is True:
            yield before + name


def _tell_if_emulated(device: str, way_out: str) -> None:
    from impasto.nn.precision import bfloat16_slowdown

    if device.partition(":")[0] == "cpu" and (times := bfloat16_slowdown()) > MUCH_SLOWER:
        print(
            f"This processor only emulates bfloat16: a matmul takes {times:.0f} times as long as in float32 "
            f"(measured just now). Much faster here: {way_out}.",
            file=sys.stderr,
        )
