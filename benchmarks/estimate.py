"""What `impasto estimate` says of MARS, against training steps: memory and time of eight small
configurations, of which two calibrate and six are predicted.

    python -m benchmarks.estimate [--quick] [--rounds N] [--json FILE]

Each configuration is trained for a few steps by the trainer itself, in a process of its own with one thread,
in fp32. Memory is what the process holds at its peak (VmHWM) less what it held before, after a step of a
tiny model has loaded all code; the C library is told to give back at once what is freed
(MALLOC_TRIM_THRESHOLD_, MALLOC_MMAP_THRESHOLD_), so that this is the memory of tensors and not of its habits.
Time is processor seconds of a step, the median over all rounds but each process's first step.

The estimator counts bytes of live tensors, operations and bytes moved. Two configurations fit four numbers:
memory = factor * estimate + constant, seconds = operations / rate + bytes moved / bandwidth. A ninth is
sharded between two processes; it is predicted with the same numbers, its memory alone.

Aims, on the six: memory within 15 %, time within 30 %.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import Spread, arguments_of, free_port, peak_memory, resident_memory, write_result

from impasto.mars import trainer
from impasto.mars.codes import CodeStore
from impasto.mars.config import LanguageConfig, MarsConfig, VisualConfig
from impasto.mars.initial import new_model
from impasto.mars.training_config import StageRun, StageTraining
from impasto.mars.training_cost import CAPTION, StageCost, bare_state, stage_cost
from impasto.mars.training_state import StageState
from impasto.runtime.dist import Ranks
from impasto.runtime.sharding import shard

MALLOC = {"MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
AIMS = {"memory": 0.15, "time": 0.30}


@dataclass(frozen=True)
class Configuration:
    name: str
    width: int
    layers: int
    grid: int
    batch: int
    micro_batch: int | None = None
    described: float = 0.0  # stage I's share of pictures that are described
    checkpointing: bool = False
    codes: int = 8192
    processes: int = 1  # above 1: sharded

    @property
    def run(self) -> StageRun:
        language = LanguageConfig(
            vocabulary=4096,
            width=self.width,
            layers=self.layers,
            heads=self.width // 64,
            key_value_heads=max(self.width // 128, 1),
            head_dim=64,
            feed_forward=3 * self.width,
            tied_head=True,
            context=2048,
            end_of_text=0,
        )
        step = self.batch * self.grid**2
        training = StageTraining(
            tokens=100 * step,
            batch=self.batch,
            micro_batch=self.micro_batch,
            image_to_text=self.described,
            caption_dropout=0.0,
            checkpoint_activations=self.checkpointing,
            shard_model=self.processes > 1,
            prefix_cache_mebibytes=0,
            log_every=step,
            sample_every=step,
            checkpoint_every=step,
        )
        model = MarsConfig(language=language, visual=VisualConfig(codes=self.codes), grids=(self.grid,))
        return StageRun(model=model, training=training)


CALIBRATING = (
    Configuration("narrow", 128, 6, 8, 64, described=0.25, codes=1024),
    Configuration("wide", 512, 4, 16, 8),
)
PREDICTED = (
    Configuration("stage I", 384, 8, 8, 16, described=0.25, codes=2048),
    Configuration("stage II", 256, 6, 16, 16),
    Configuration("computed again", 256, 8, 8, 64, described=0.25, codes=1024, checkpointing=True),
    Configuration("deep, computed again", 512, 10, 16, 8, described=0.25, checkpointing=True),
    Configuration("four passes", 512, 4, 16, 16, micro_batch=4),
    Configuration("wider", 768, 4, 8, 16, described=0.25, codes=4096),
)
SHARDED = Configuration("sharded in two", 512, 8, 8, 16, described=0.25, processes=2)
TINY = Configuration("tiny", 64, 2, 2, 4, described=0.25, codes=64)


def state_of(run: StageRun, ranks: Ranks) -> StageState:
    """Of random weights, shared out where the run says so."""
    model = new_model(run.model).train()
    if not (run.training.shard_model and ranks.world_size > 1):
        return bare_state(run, model, None)
    model.checkpoint_activations = run.training.checkpoint_activations  # before layers are wrapped
    shard(model, model.layers, ranks)
    return bare_state(run, model, ranks)


def train(configuration: Configuration, steps: int, ranks: Ranks) -> list[float]:
    """Processor seconds of each step."""
    run = configuration.run
    codes = torch.randint(0, configuration.codes, (256, run.image_length), dtype=torch.int32)
    pictures = CodeStore(codes, [["word " * CAPTION]] * len(codes), seed=0)
    state, spent = state_of(run, ranks), []
    for _ in range(steps):
        started = time.process_time()
        trainer.step(state, pictures, ranks)
        spent.append(time.process_time() - started)
    return spent


def measure_here(configuration: Configuration, steps: int) -> dict[str, Any]:
    """In a process that has done nothing yet."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    ranks = Ranks.from_environment("cpu")
    train(replace(TINY, processes=configuration.processes), 2, ranks)
    before = resident_memory()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    spent = train(configuration, steps, ranks)
    found = {"bytes": peak_memory() - before, "seconds": spent[1:]}
    ranks.barrier()
    ranks.close()
    return found


def measure(configuration: Configuration, steps: int) -> dict[str, Any]:
    """In processes of their own; of several the first's numbers."""
    command = [sys.executable, "-m", "benchmarks.estimate", "--one", json.dumps(asdict(configuration))]
    shared = {"WORLD_SIZE": str(configuration.processes), "MASTER_ADDR": "127.0.0.1"}
    environment = {**os.environ, **MALLOC, **shared, "MASTER_PORT": str(free_port())}
    group = [
        subprocess.Popen(
            [*command, "--steps", str(steps)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(configuration.processes)
    ]
    told = [process.communicate()[0] for process in group]
    if any(process.returncode for process in group):
        raise SystemExit(f"benchmarks.estimate: '{configuration.name}' failed; see above")
    return json.loads(told[0].splitlines()[-1])


@dataclass(frozen=True)
class Fit:
    """memory = factor * estimate + constant; seconds = operations / rate + bytes moved / bandwidth."""

    factor: float
    constant: float
    flops_a_second: float
    bytes_a_second: float

    @classmethod
    def of(cls, costs: list[StageCost], found: list[dict[str, Any]]) -> "Fit":
        first, second = costs
        slope = (found[1]["bytes"] - found[0]["bytes"]) / (second.peak_bytes - first.peak_bytes)
        work = torch.tensor([[cost.flops, cost.traffic] for cost in costs], dtype=torch.float64)
        seconds = torch.tensor([one["seconds"].median for one in found], dtype=torch.float64)
        a, b = torch.linalg.solve(work, seconds).tolist()
        return cls(slope, found[0]["bytes"] - slope * first.peak_bytes, 1 / a, 1 / b)

    def bytes(self, cost: StageCost) -> float:
        return self.factor * cost.peak_bytes + self.constant

    def seconds(self, cost: StageCost) -> float:
        return cost.seconds(self.flops_a_second, self.bytes_a_second)


def rounds_of(configurations: tuple[Configuration, ...], rounds: int, steps: int) -> list[dict[str, Any]]:
    """Every configuration in every round, so that what else the machine does falls on all."""
    found: list[list[dict[str, Any]]] = [[] for _ in configurations]
    for _ in range(rounds):
        for place, configuration in enumerate(configurations):
            found[place].append(measure(configuration, steps))
            print(f"measured: {configuration.name}", file=sys.stderr, flush=True)
    return [
        {
            "bytes": statistics.median(one["bytes"] for one in several),
            "seconds": Spread.of([seconds for one in several for seconds in one["seconds"]]),
        }
        for several in found
    ]


def row(configuration: Configuration, cost: StageCost, found: dict[str, Any], fit: Fit) -> dict[str, Any]:
    memory, seconds = fit.bytes(cost), fit.seconds(cost)
    spent: Spread = found["seconds"]
    return {
        "configuration": asdict(configuration),
        "parameters": cost.parameters,
        "gflop_a_step": cost.flops / 1e9,
        "gigabytes_moved": cost.traffic / 1e9,
        "live_megabytes": cost.peak_bytes / 1e6,
        "measured_megabytes": found["bytes"] / 1e6,
        "predicted_megabytes": memory / 1e6,
        "memory_error": memory / found["bytes"] - 1,
        "measured_seconds": asdict(spent),
        "predicted_seconds": seconds,
        "time_error": seconds / spent.median - 1,
    }


def show(found: dict[str, Any]) -> str:
    name, spent = found["configuration"]["name"], Spread(**found["measured_seconds"])
    return (
        f"{name:22s}{found['measured_megabytes']:8.0f}{found['predicted_megabytes']:8.0f}"
        f"{found['memory_error']:+8.1%}   {spent!s:22}{found['predicted_seconds']:8.3f}"
        f"{found['time_error']:+8.1%}"
    )


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=3, help="processes of each configuration (default 3)")
    parser.add_argument("--steps", type=int, default=4, help="of each process (default 4)")
    parser.add_argument("--one", help=argparse.SUPPRESS)


def main(argv: list[str] | None = None) -> int:
    arguments = arguments_of(__doc__, argv, add)
    if arguments.one is not None:
        print(json.dumps(measure_here(Configuration(**json.loads(arguments.one)), arguments.steps)))
        return 0
    quick = arguments.quick
    calibrating = (TINY, replace(TINY, width=128)) if quick else CALIBRATING
    predicted = (replace(TINY, width=128, batch=8),) if quick else (*PREDICTED, SHARDED)
    all_of_them = (*calibrating, *predicted)
    costs = [stage_cost(one.run, one.processes) for one in all_of_them]
    found = rounds_of(all_of_them, *((1, 2) if quick else (arguments.rounds, arguments.steps)))
    fit = Fit.of(costs[:2], found[:2])
    print(f"{'':22s}      MB     said                  seconds                 said")
    rows = []
    for one, cost, measured in zip(all_of_them, costs, found, strict=True):
        rows.append(row(one, cost, measured, fit))
        print(show(rows[-1]), flush=True)
    print(
        f"fit: memory {fit.factor:.3f} x live tensors + {fit.constant / 1e6:.0f} MB; "
        f"{fit.flops_a_second / 1e9:.1f} GFLOP/s, {fit.bytes_a_second / 1e9:.2f} GB/s"
    )
    judged = [one for one in rows[2:] if one["configuration"]["processes"] == 1]
    worst = {kind: max(abs(one[f"{kind}_error"]) for one in judged) for kind in AIMS}
    print(", ".join(f"{kind} off by at most {worst[kind]:.1%} (aim {aim:.0%})" for kind, aim in AIMS.items()))
    write_result(arguments.json, {"fit": asdict(fit), "rows": rows, "worst": worst, "calibrating": 2})
    return 0


if __name__ == "__main__":
    sys.exit(main())
