"""Starts the processes of a gloo group, as torchrun would."""

import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@contextmanager
def start_ranks(command: Sequence[str], count: int, **variables: str) -> Iterator[list[subprocess.Popen]]:
    """One process a rank, of one thread each, what they print together in `stdout`; killed at the end."""
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": str(count)}
    shared |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **variables}
    processes = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()


def run_ranks(command: Sequence[str], count: int, *, timeout: float = 240, **variables: str) -> list[str]:
    """What each rank printed; AssertionError with it where one fails."""
    with start_ranks(command, count, **variables) as processes:
        printed = []
        for process in processes:
            output, _ = process.communicate(timeout=timeout)
            assert process.returncode == 0, output
            printed.append(output)
    return printed
