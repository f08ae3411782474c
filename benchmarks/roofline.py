"""How near the machine's limits the models' parts come: shares of the matmul rate and of the memory bandwidth
measured here, and which operators the rest of the time goes to.

    python -m benchmarks.roofline [--quick] [--full] [--json FILE] [--picture FILE]

One thread, fp32, processor seconds. The matmul rate is that of products of 1,024 x 1,024 matrices, the
bandwidth that of a copy too large for any cache (bytes read and bytes written); both the best of a few.
Operations and bytes of each part are counted as it runs (`impasto.runtime.estimate.Work`): bytes are what
every operator reads and writes by itself, so that a part whose tensors stay in a cache may lie above the
slanted roof.
The profile is torch's, of three more runs: an operator's own time, by the clock. `--full` adds the published
generator (8 GiB).
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from benchmarks import estimate, mars, moe, training
from benchmarks.common import Spread, arguments_of, processor_seconds, turns, write_result
from benchmarks.generator import SIZES, drawing, inputs
from benchmarks.plots import Line, chart
from benchmarks.transcription import random_state_dict

from impasto.mars.codes import CodeStore
from impasto.mars.sampling import SamplingSettings, generate_images
from impasto.mars.trainer import step
from impasto.runtime.dist import Ranks
from impasto.runtime.estimate import Work

TOP = 5  # operators in the profile
Part = Callable[[], object]


def matmul_rate(side: int) -> float:
    """Operations a second of a product of square matrices."""
    a, b = torch.randn(2, side, side)
    out = torch.empty_like(a)
    return 2 * side**3 / min(processor_seconds(lambda: torch.matmul(a, b, out=out)) for _ in range(8))


def bandwidth(size: int) -> float:
    """Bytes read and written a second by a copy."""
    source = torch.ones(size // 4)
    target = torch.empty_like(source)
    return 2 * size / min(processor_seconds(lambda: target.copy_(source)) for _ in range(8))


def generator_part(name: str, batch: int) -> Part:
    constructor = SIZES[name]
    generator = drawing(constructor, random_state_dict(constructor, seed=0), torch.float32)
    z, context, eot = inputs(constructor, batch)

    @torch.no_grad()
    def part() -> None:
        generator(z, context, eot)

    return part


def decoding_part(size: mars.Size, batch: int) -> Part:
    base = mars.base_model(size)
    model = mars.mars_model(base, size)
    captions, settings = [[1] * mars.CAPTION] * batch, SamplingSettings(top_k=mars.TOP_K)
    return lambda: generate_images(
        model, captions, list(range(batch)), guidance=mars.GUIDANCE, settings=settings
    )


def mars_step(configuration: estimate.Configuration) -> Part:
    run = configuration.run
    state = estimate.state_of(run, Ranks())
    codes = torch.randint(0, configuration.codes, (64, run.image_length), dtype=torch.int32)
    pictures = CodeStore(codes, [["word " * 50]] * len(codes), seed=0)
    return lambda: step(state, pictures, Ranks())


def parts_of(quick: bool, full: bool) -> dict[str, Callable[[], Part]]:
    """Builders, so that one part's memory is given back before the next is built."""
    size = mars.QUICK if quick else mars.FULL
    tokens, experts = (256, 4) if quick else (4096, 16)
    name = "tiny" if quick else "small"

    def step_part(which: str) -> Callable[[], Part]:
        return lambda: training.ours(quick, 2 if quick else 8)[1][which]

    parts: dict[str, Callable[[], Part]] = {
        f"generator, {name}, 1 picture": lambda: generator_part(name, 1),
        f"generator, {name}, 8 pictures": lambda: generator_part(name, 8),
        "dense feed-forward": lambda: moe.ways_of(experts, tokens, False, False)["dense"],
        f"{experts} experts": lambda: moe.ways_of(experts, tokens, False, False)["sliced"],
        f"{experts} experts, with backward": lambda: moe.ways_of(experts, tokens, True, False)["sliced"],
        "training: generator": step_part("generator"),
        "training: discriminator": step_part("discriminator"),
        "training: R1": step_part("penalty"),
        "MARS: drawing 1 picture": lambda: decoding_part(size, 1),
        "MARS: drawing 8 pictures": lambda: decoding_part(size, 8),
        "MARS: training step": lambda: mars_step(estimate.TINY if quick else estimate.PREDICTED[0]),
    }
    if full:
        parts["generator, full size, 1 picture"] = lambda: generator_part("full", 1)
    return parts


def profile(part: Part) -> list[dict[str, Any]]:
    """The operators with the most time of their own, and their shares of all."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        for _ in range(3):
            part()
    events = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    return [
        {"operator": event.key, "calls": event.count, "share": event.self_cpu_time_total / total}
        for event in events[:TOP]
    ]


def measure(part: Part, rounds: int, rate: float, speed: float) -> dict[str, Any]:
    seconds = Spread.of(turns({"part": part}, rounds, processor_seconds)["part"])
    with Work() as work:
        part()
    return {
        "seconds": asdict(seconds),
        "gflop": work.flops / 1e9,
        "gigabytes": work.bytes / 1e9,
        "gflop_a_second": work.flops / seconds.median / 1e9,
        "share_of_matmul_rate": work.flops / seconds.median / rate,
        "share_of_bandwidth": work.bytes / seconds.median / speed,
        "profile": profile(part),
    }


def row(name: str, found: dict[str, Any]) -> str:
    named = [(one["operator"].removeprefix("aten::"), one["share"]) for one in found["profile"]]
    top = ", ".join(f"{operator} {share:.0%}" for operator, share in named)
    return (
        f"{name:32s}{found['gflop']:9.2f}{found['gigabytes']:8.2f}  {Spread(**found['seconds'])!s:24}"
        f"{found['share_of_matmul_rate']:7.0%}{found['share_of_bandwidth']:7.0%}  {top}"
    )


def picture(rows: dict[str, dict[str, Any]], rate: float, speed: float, path: Path) -> None:
    """The roof, and each part under it."""
    points = {name: (one["gflop"] / one["gigabytes"], one["gflop_a_second"]) for name, one in rows.items()}
    ridge = rate / speed
    low, high = min(x for x, _ in points.values()) / 1.5, max(*(x for x, _ in points.values()), ridge) * 1.5
    lines = [Line("the roof", [(low, low * speed / 1e9), (ridge, rate / 1e9), (high, rate / 1e9)], "k-")]
    for name, point in points.items():
        lines.append(
            Line(name, [point], "^" if name.startswith("MARS") else "s" if "training" in name else "o")
        )
    chart("GFLOP/s of one thread, fp32", "operations a byte", lines, path)


def main(argv: list[str] | None = None) -> int:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--full", action="store_true", help="the published generator too (8 GiB)")
        parser.add_argument("--rounds", type=int, default=3, help="of each part (default 3)")
        parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the roofline there")

    arguments = arguments_of(__doc__, argv, add)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rate = matmul_rate(128 if arguments.quick else 1024)
    speed = bandwidth(2**22 if arguments.quick else 2**28)
    print(f"matmul {rate / 1e9:.1f} GFLOP/s, copy {speed / 1e9:.1f} GB/s, both of one thread")
    print(f"{'':32s}    GFLOP      GB  seconds                  matmul memory  operators' own time")
    rows: dict[str, dict[str, Any]] = {}
    for name, build in parts_of(arguments.quick, arguments.full).items():
        rows[name] = measure(build(), 1 if arguments.quick else arguments.rounds, rate, speed)
        print(row(name, rows[name]), flush=True)
    result = {"matmul_gflop_a_second": rate / 1e9, "copy_gigabytes_a_second": speed / 1e9, "parts": rows}
    write_result(arguments.json, result)
    if arguments.picture:
        picture(rows, rate, speed, arguments.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
