"""What several verbs of the command share."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from impasto.config import first_line

DTYPES = ("float32", "bfloat16")
WAIT_MINUTES = 600.0  # of ranks for the slowest one, which may draw or compare much longer than a step takes


def usable_device(name: str) -> str:
    """The device, if this machine has it."""
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name} is not usable here: {first_line(error)}") from None
    return name


def ranks_of(arguments: argparse.Namespace) -> Any:
    """This process among its ranks; of several GPUs each has its own, which becomes --device."""
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
