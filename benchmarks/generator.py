"""How fast the generator draws, against a plain transcription of the published algorithm: kernels made per
sample, taps gathered one by one, experts in turn, distances by `cdist`.

    python -m benchmarks.generator [--quick] [--json FILE] [--sizes small,full] [--dtypes float32,bfloat16]

Both have the same random weights and take turns. Processor seconds of a whole batch; bf16 is bf16 weights on
our side, and the transcription under autocast, which is how one would run it. The drift is the difference of
our bf16 pictures from our fp32 ones, in 8-bit steps. The full size is the published checkpoint's, and wants
8 GiB; its larger batch is timed for one round. Peak memory is of a process that opens the model, from
safetensors, and draws one picture, and so are the seconds until it is open (imports left out).

Aims, at full size and batch 1 on two cores: 8 processor seconds in fp32, 2.5 in bf16, 3.5 times the
transcription's speed, 6 GB; small and batch 8: 3 times.
"""

import multiprocessing
import sys
import tempfile
import time
from argparse import ArgumentParser
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import (
    Spread,
    add_dtypes,
    arguments_of,
    peak_memory,
    processor_seconds,
    take_turns,
    write_result,
)
from benchmarks.transcription import published_generator, random_state_dict
from torch import Tensor

from impasto.aurora.config import AuroraConfig
from impasto.aurora.generator import Generator
from impasto.aurora.official import RELEASED_CONSTRUCTOR, from_official
from impasto.aurora.pipeline import AuroraPipeline

TOKENS = 77  # CLIP's
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        **RELEASED_CONSTRUCTOR, "resolution": 16, "fmaps_base": 512, "fmaps_max": 64, "head_dim": 8,
        "w_dim": 64, "mapping_fmaps": 64, "context_dim": 64, "clip_out_dim": 64, "num_layers_text_enc": 1,
        "num_block_per_res": {"4": 1, "8": 1, "16": 1}, "ms_training_res": ["4", "8", "16"],
        "attn_resolutions": ["8", "16"],
    },
    "small": {
        **RELEASED_CONSTRUCTOR, "resolution": 32, "fmaps_base": 2048, "fmaps_max": 256, "head_dim": 32,
        "w_dim": 256, "mapping_fmaps": 256, "context_dim": 256, "clip_out_dim": 384,
        "num_layers_text_enc": 2, "num_block_per_res": {"4": 2, "8": 2, "16": 2, "32": 1},
        "ms_training_res": ["4", "8", "16", "32"], "attn_resolutions": ["8", "16", "32"],
    },
    "full": RELEASED_CONSTRUCTOR,
}  # fmt: skip


def inputs(constructor: dict[str, Any], batch: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(batch, constructor.get("z_dim", 128), generator=generator)
    context = torch.randn(batch, TOKENS, constructor["clip_out_dim"], generator=generator)
    return z, context, torch.randint(3, TOKENS, (batch,), generator=generator)


def drawing(constructor: dict[str, Any], state: dict[str, Tensor], dtype: torch.dtype) -> Generator:
    """Our generator as `impasto generate --dtype` has it: frozen, with parameters of that type."""
    generator = from_official(state, constructor).requires_grad_(False)
    for parameter in generator.parameters():
        parameter.data = parameter.data.to(dtype)
    return generator


def drift(exact: Tensor, rounded: Tensor) -> dict[str, float]:
    """Of pictures in [-1, 1] scaled to their own spread (weights are random), in 8-bit steps."""
    steps = 127.5 * (exact - rounded.float()).abs() / exact.abs().quantile(0.99)
    return {"mean": float(steps.mean()), "quantile_99": float(steps.quantile(0.99))}


@torch.no_grad()
def measure(name: str, batch: int, rounds: int, dtypes: list[str]) -> dict[str, Any]:
    """One size and batch: seconds of the two ways in each type, and their ratios."""
    constructor = SIZES[name]
    state = random_state_dict(constructor, seed=0)
    z, context, eot = inputs(constructor, batch)
    drawn: dict[str, Tensor] = {}
    ratios, seconds = {}, {}
    for dtype in (getattr(torch, dtype) for dtype in dtypes):
        low = dtype == torch.bfloat16
        generator = drawing(constructor, state, dtype)
        label = "bf16" if low else "fp32"

        def ours(generator: Generator = generator, dtype: torch.dtype = dtype) -> None:
            drawn[str(dtype)] = generator(z.to(dtype), context.to(dtype), eot).image

        def published(low: bool = low) -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                drawn["published"] = published_generator(state, constructor, z, context, eot)["image"]

        spent = take_turns({"impasto": ours, "transcription": published}, rounds)
        if not low:
            error = (drawn["published"] - drawn[str(dtype)]).abs().max() / drawn["published"].abs().max()
            assert error < 3e-5, f"{name}: the pictures differ by {error:.1e}"
        seconds |= {f"{way}_{label}": spread for way, spread in spent.items()}
        ratios[label] = spent["transcription"].median / spent["impasto"].median
        del generator
    result = {"size": name, "batch": batch, "seconds": seconds, "ratio": ratios}
    if len(dtypes) == 2:
        result["bf16_drift"] = drift(drawn[str(torch.float32)], drawn[str(torch.bfloat16)])
    return result


def _draw(folder: str, dtype: str, queue: multiprocessing.Queue) -> None:
    opened: list[AuroraPipeline] = []
    started = time.perf_counter()
    processor = processor_seconds(
        lambda: opened.append(AuroraPipeline.from_pretrained(Path(folder)).to("cpu", getattr(torch, dtype)))
    )
    start = {"start_seconds": time.perf_counter() - started, "start_processor_seconds": processor}
    generator = opened[0].generator
    with torch.no_grad():
        sizes = {"z_dim": generator.config.z_dim, "clip_out_dim": generator.config.text_head.input_dim}
        z, context, eot = inputs(sizes, 1)
        kind = getattr(torch, dtype)
        generator(z.to(kind), context.to(kind), eot)
    queue.put({"peak_bytes": peak_memory(), **start})


def process_of(name: str, folder: Path, dtype: str) -> dict[str, float]:
    """Of a process that opens a model directory and draws once: bytes at its peak, seconds to open."""
    if not (folder / "config.json").is_file():
        generator = from_official(random_state_dict(SIZES[name], seed=0), SIZES[name])
        config = AuroraConfig(text_encoder="sentence", generator=generator.config)
        AuroraPipeline(generator, config, name=name).save_pretrained(folder, f"# {name}\n\nRandom weights.\n")
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_draw, args=(str(folder), dtype, queue))
    process.start()
    found = queue.get(timeout=600)
    process.join()
    return found


def show(row: dict[str, Any]) -> str:
    seconds: dict[str, Spread] = row["seconds"]
    parts = [
        f"{label}: {seconds[f'impasto_{label}']} s, transcription {seconds[f'transcription_{label}']} s, "
        f"{ratio:.2f} times"
        for label, ratio in row["ratio"].items()
    ]
    if changed := row.get("bf16_drift"):
        parts.append(f"bf16 drift {changed['mean']:.2f} of 255, 99 % below {changed['quantile_99']:.1f}")
    return f"{row['size']}, batch {row['batch']}: " + "; ".join(parts)


def main(argv: list[str] | None = None) -> int:
    def add(parser: ArgumentParser) -> None:
        parser.add_argument("--sizes", default="small,full", help="of small, full (default both)")
        parser.add_argument("--batches", default="1,8", help="pictures at a time (default 1,8)")
        parser.add_argument("--rounds", type=int, default=5, help="of each way (default 5)")
        add_dtypes(parser)

    arguments = arguments_of(__doc__, argv, add)
    names = ["tiny"] if arguments.quick else arguments.sizes.split(",")
    batches = [1, 2] if arguments.quick else [int(batch) for batch in arguments.batches.split(",")]
    rows, processes = [], {}
    for name in names:
        for batch in batches:
            rounds = 1 if (name == "full" and batch > 1) or arguments.quick else arguments.rounds
            rows.append(measure(name, batch, rounds, arguments.dtypes))
            print(show(rows[-1]), flush=True)
        with tempfile.TemporaryDirectory() as folder:
            for dtype in arguments.dtypes:
                found = processes[f"{name}_{dtype}"] = process_of(name, Path(folder, "model"), dtype)
                peak, clock, spent = found.values()
                line = f"peak {peak / 2**30:.2f} GiB, open after {clock:.1f} s ({spent:.1f} of the processor)"
                print(f"{name} {dtype}: {line}", flush=True)
    plain = [
        {**row, "seconds": {way: asdict(spread) for way, spread in row["seconds"].items()}} for row in rows
    ]
    write_result(arguments.json, {"rows": plain, "processes": processes})
    return 0


if __name__ == "__main__":
    sys.exit(main())
