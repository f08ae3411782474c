"""Training on 1, 2 and 4 processes with the same work for each, and where the time goes.

    python -m benchmarks.scaling [--quick] [--json FILE]

Each process of a gloo group trains aurora-scenes-32's networks (adversarial losses alone) on its own share,
one thread each. Before every exchange the processes wait for each other, so that waiting and exchanging can
be told apart: waiting is the price of unequal shares or of a machine with fewer cores than processes,
exchanging that of moving gradients. Pictures a second are by the clock; compare rows only on an idle machine
with at least as many cores as processes.

Below it, what `impasto estimate` projects for the published size on GPUs, with its assumptions. Nothing of
that is measured.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import Spread, arguments_of, free_port, write_result

from impasto.aurora.runs import run_aurora_64_256gpu, run_aurora_debug, run_aurora_scenes_32_growing
from impasto.aurora.trainer import step
from impasto.aurora.training_config import AuroraRun
from impasto.aurora.training_cost import project, training_cost
from impasto.aurora.training_state import TrainingState
from impasto.data.scene_source import SceneSource
from impasto.runtime import dist
from impasto.runtime.dist import Ranks
from impasto.runtime.estimate import Machine
from impasto.text import load_encoder

GPUS = (1, 8, 64, 256)


def run_of(quick: bool, processes: int) -> AuroraRun:
    run = run_aurora_debug() if quick else run_aurora_scenes_32_growing()
    own = 4 if quick else 16
    batch = own * processes
    every = {"log_every": batch, "sample_every": batch, "checkpoint_every": batch}
    in_fp32 = {"bfloat16_generator": False, "bfloat16_discriminator": False}  # emulated on many a processor
    training = replace(run.training, batch=batch, **every, **in_fp32)
    return replace(run, growing=replace(run.growing, schedule="none"), training=training)


@contextmanager
def timed_exchanges(ranks: Ranks, spent: dict[str, float]):
    """Seconds of waiting for the others, and of exchanging, added to `spent`."""
    original, inside = dist.exchange, False

    @contextmanager
    def timed():
        nonlocal inside
        if inside:
            with original():
                yield
            return
        inside = True
        started = time.perf_counter()
        ranks.barrier()
        waited = time.perf_counter()
        with original():
            yield
        spent["waiting"] += waited - started
        spent["exchanging"] += time.perf_counter() - waited
        inside = False

    dist.exchange = timed
    try:
        yield
    finally:
        dist.exchange = original


def train(quick: bool, out: Path) -> None:
    """One process of a group: steps after one for warming up."""
    torch.set_num_threads(1)
    ranks = Ranks.from_environment("cpu")
    run = run_of(quick, ranks.world_size)
    state = TrainingState.fresh(run, ranks.device)
    source = SceneSource(run.model.resolution, run.data, seed=0)
    encoder = load_encoder(run.model.text_encoder)
    step(state, source, encoder, ranks)
    ranks.barrier()
    count = 2 if quick else 2 * run.training.r1_interval  # every step of R1 as often as it is due
    spent = {"waiting": 0.0, "exchanging": 0.0}
    started = time.perf_counter()
    with timed_exchanges(ranks, spent):
        for _ in range(count):
            step(state, source, encoder, ranks)
    ranks.barrier()
    seconds = time.perf_counter() - started
    shares = ranks.gather_objects({name: value / seconds for name, value in spent.items()})
    if ranks.is_main:
        pictures = count * run.training.batch / seconds
        numbers = {name: sum(s[name] for s in shares) / len(shares) for name in spent}
        out.write_text(json.dumps({"pictures_per_second": pictures, **numbers}), encoding="utf-8")
    ranks.close()


def measure(quick: bool, processes: int) -> dict[str, float]:
    """Start a group and wait for it."""
    port = str(free_port())
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result"
        command = [sys.executable, "-m", "benchmarks.scaling", "--process-of-a-group", str(out)]
        shared = {**os.environ, "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        group = [
            subprocess.Popen(
                [*command, *(["--quick"] if quick else [])],
                env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            )
            for rank in range(processes)
        ]
        statuses = [process.wait() for process in group]
        if any(statuses):
            raise SystemExit(f"benchmarks.scaling: a process of {processes} failed; see above")
        return json.loads(out.read_text(encoding="utf-8"))


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=3, help="groups of each size (default 3)")
    parser.add_argument("--process-of-a-group", type=Path, help=argparse.SUPPRESS)


def main(argv: list[str] | None = None) -> int:
    arguments = arguments_of(__doc__, argv, add)
    if arguments.process_of_a_group is not None:
        train(arguments.quick, arguments.process_of_a_group)
        return 0
    rows: dict[str, Any] = {}
    cores = os.cpu_count()
    print(f"{cores} cores; {run_of(arguments.quick, 1).training.batch} pictures a step and process")
    print("processes  pictures/s            of 1 process's  waiting  exchanging")
    for processes in (1, 2) if arguments.quick else (1, 2, 4):
        runs = [
            measure(arguments.quick, processes) for _ in range(1 if arguments.quick else arguments.rounds)
        ]
        found = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        speed = Spread.of([run["pictures_per_second"] for run in runs])
        rows[str(processes)] = {**found, "pictures_per_second_spread": asdict(speed)}
        ratio = speed.median / rows["1"]["pictures_per_second"]
        print(
            f"{processes:9d}  {speed!s:22}{ratio:13.2f}{found['waiting']:9.1%}{found['exchanging']:12.1%}",
            flush=True,
        )
    cost = training_cost(run_aurora_debug() if arguments.quick else run_aurora_64_256gpu())
    print("\nprojected, not measured:\nGPUs  pictures/s   s a step  exchanging")
    projected = {}
    for gpus in (1, 2) if arguments.quick else GPUS:
        training = replace(cost.run.training, batch=4 * gpus, log_every=4 * gpus, sample_every=4 * gpus,
                           checkpoint_every=4 * gpus)  # fmt: skip
        fixed = replace(
            cost, run=replace(cost.run, training=training, growing=replace(cost.run.growing, schedule="none"))
        )
        found = project(fixed, Machine(ranks=gpus))
        total = found.computing + found.exchanging
        projected[str(gpus)] = {
            "pictures_per_second": found.pictures_per_second,
            "exchanging": found.exchanging / total,
        }
        print(f"{gpus:4d}{found.pictures_per_second:12,.1f}{total:11.3f}{found.exchanging / total:12.1%}")
    print("\n".join(found.lines()[-3:]))
    write_result(arguments.json, {"cores": cores, "measured": rows, "projected": projected})
    return 0


if __name__ == "__main__":
    sys.exit(main())
