"""How time and memory grow: with the batch, the resolution, the number of experts at constant activated
compute, rows to select from and pictures to evaluate.

    python -m benchmarks.growth [--quick] [--only NAMES] [--json FILE] [--pictures DIR]

One thread, fp32, processor seconds. Memory of drawing and of layers is the peak of live tensors, weights left
out (`impasto.runtime.estimate`); of selecting and evaluating the peak of a process of its own. Ranks are
`benchmarks.scaling`'s.

- batch: the small generator of `benchmarks.generator`, 1 to 32 pictures at once
- resolution: the same network continued to 256 px, attention up to 32 px; one picture
- experts: one layer of width 256, 4,096 tokens, 1 to 64 experts
- rows: `impasto data select` with every rule, 10^3 to 10^6 (`--most-rows`)
- images: EfficientNet-Lite0 features of PNG files, 10^2 to 10^4 (`--most-images`)
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from benchmarks import data_select, evaluation, moe
from benchmarks.common import arguments_of, peak_memory, processor_seconds, take_turns, write_result
from benchmarks.generator import SIZES, drawing, inputs
from benchmarks.plots import Line, chart
from benchmarks.transcription import random_state_dict
from torch import Tensor

from impasto.cli import main as main_command
from impasto.metrics.extractors import load_extractor
from impasto.metrics.picture_sets import measure_features
from impasto.metrics.picture_sources import open_pictures
from impasto.runtime.estimate import memory_of

ATTENDED = 32  # pixels, at most
Row = dict[str, float]


def of_work(size: int, work: Callable[[], object], rounds: int) -> Row:
    """Seconds, and live tensors at the peak."""
    spent = take_turns({"work": work}, rounds)["work"]
    with torch.no_grad():
        peak = memory_of(work).peak_bytes
    return {"size": size, "seconds": spent.median, "least": spent.least, "most": spent.most, "bytes": peak}


def _drawing(constructor: dict[str, Any], batch: int) -> Callable[[], Tensor]:
    generator = drawing(constructor, random_state_dict(constructor, seed=0), torch.float32)
    z, context, eot = inputs(constructor, batch)

    @torch.no_grad()
    def work() -> Tensor:
        return generator(z, context, eot).image

    return work


def at_resolution(side: int) -> dict[str, Any]:
    """The small network, continued: one block at every further resolution."""
    sides = [str(2**power) for power in range(2, side.bit_length())]
    blocks = {s: SIZES["small"]["num_block_per_res"].get(s, 1) for s in sides}
    attended = [s for s in sides if 8 <= int(s) <= ATTENDED]
    kernels, experts = (
        {s: SIZES["small"][name].get(s, 1) for s in sides} for name in ("num_adaptive_kernels", "num_experts")
    )
    return {
        **SIZES["small"],
        "resolution": side,
        "num_adaptive_kernels": kernels,
        "num_experts": experts,
        "num_block_per_res": blocks,
        "ms_training_res": sides,
        "attn_resolutions": attended,
    }


def batch(quick: bool, rounds: int) -> list[Row]:
    name, counts = ("tiny", (1, 2)) if quick else ("small", (1, 2, 4, 8, 16, 32))
    return [of_work(count, _drawing(SIZES[name], count), rounds) for count in counts]


def resolution(quick: bool, rounds: int) -> list[Row]:
    sides = (32, 64) if quick else (32, 64, 128, 256)
    return [of_work(side, _drawing(at_resolution(side), 1), rounds) for side in sides]


def experts(quick: bool, rounds: int) -> list[Row]:
    counts, tokens = ((1, 4), 256) if quick else ((1, 4, 16, 64), 4096)
    return [
        of_work(count, moe.ways_of(count, tokens, False, False)["sliced"], 2 * rounds) for count in counts
    ]


def _select(folder: str) -> Row:
    command = ["data", "select", folder, "--json", "--out", f"{folder}/selection", "--workers", "1"]
    command += [part for rule in data_select.RULES for part in ("--set", rule)]
    with contextlib.redirect_stdout(io.StringIO()):
        spent = processor_seconds(lambda: main_command(command))
    return {"seconds": spent, "bytes": peak_memory()}


def _evaluate(folder: str) -> Row:
    extractor = load_extractor()
    spent = processor_seconds(lambda: measure_features(open_pictures(folder), extractor, workers=1))
    return {"seconds": spent, "bytes": peak_memory()}


def in_a_process(work: Callable[[str], Row], folder: Path) -> Row:
    """Of a process of its own, whose peak is its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        return pool.submit(work, str(folder)).result()


def rows(quick: bool, most: int) -> list[Row]:
    found = []
    for count in powers(1_000, 4_000 if quick else most):
        with tempfile.TemporaryDirectory() as folder:
            data_select.write_rows(Path(folder), count)
            found.append({"size": count, **in_a_process(_select, Path(folder))})
    return found


def images(quick: bool, most: int) -> list[Row]:
    """The same files again and again, under new names."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        few = Path(name, "few")
        evaluation.write_pictures(few, 16 if quick else 100)
        files = sorted(few.iterdir())
        for count in powers(len(files), 32 if quick else most):
            folder = Path(name, str(count))
            folder.mkdir()
            for number in range(count):
                (folder / f"{number:06d}.png").symlink_to(files[number % len(files)])
            found.append({"size": count, **in_a_process(_evaluate, folder)})
    return found


def powers(first: int, most: int) -> list[int]:
    """Ten times as many each time."""
    found = [first]
    while found[-1] * 10 <= most:
        found.append(found[-1] * 10)
    return found


UNITS = {
    "batch": "pictures at once",
    "resolution": "pixels of a side",
    "experts": "experts",
    "rows": "rows",
    "images": "pictures",
}


def picture(name: str, found: list[Row], path: Path) -> None:
    """Seconds and GB against the size, and what strict proportion would be."""
    first = found[0]
    power = 2 if name == "resolution" else 0 if name == "experts" else 1
    straight = [(row["size"], first["seconds"] * (row["size"] / first["size"]) ** power) for row in found]
    kind = {0: "no growth", 1: "in proportion", 2: "with the area"}[power]
    lines = [
        Line("processor seconds", [(row["size"], row["seconds"]) for row in found]),
        Line("GB", [(row["size"], row["bytes"] / 1e9) for row in found]),
        Line(f"seconds, {kind}", straight, "k--"),
    ]
    chart(f"time and memory against {UNITS[name]}", UNITS[name], lines, path)


def main(argv: list[str] | None = None) -> int:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--only", default=",".join(UNITS), help=f"of {', '.join(UNITS)} (default all)")
        parser.add_argument("--rounds", type=int, default=3, help="of each size (default 3)")
        parser.add_argument("--most-rows", type=int, default=10_000_000, help="to select from (default 10^7)")
        parser.add_argument("--most-images", type=int, default=100_000, help="to evaluate (default 10^5)")
        parser.add_argument("--pictures", type=Path, metavar="DIR", help="draw growth-NAME.png there")

    arguments = arguments_of(__doc__, argv, add)
    torch.set_num_threads(1)
    quick, rounds = arguments.quick, 1 if arguments.quick else arguments.rounds
    ways: dict[str, Callable[[], list[Row]]] = {
        "batch": lambda: batch(quick, rounds),
        "resolution": lambda: resolution(quick, rounds),
        "experts": lambda: experts(quick, rounds),
        "rows": lambda: rows(quick, arguments.most_rows),
        "images": lambda: images(quick, arguments.most_images),
    }
    found: dict[str, list[Row]] = {}
    if arguments.json is not None and arguments.json.is_file():  # what is not asked for stays
        found = json.loads(arguments.json.read_text(encoding="utf-8"))["growth"]
    for name in arguments.only.split(","):
        found[name] = ways[name]()
        for row in found[name]:
            numbers = f"{row['size']:10,}{row['seconds']:12.3f} s{row['bytes'] / 1e9:9.3f} GB"
            print(f"{name:12s}{numbers}", flush=True)
        write_result(arguments.json, {"growth": found})
        if arguments.pictures:
            picture(name, found[name], arguments.pictures / f"growth-{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
