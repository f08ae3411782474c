"""How fast the generator draws, against a plain transcription of the published algorithm: kernels made per
sample, taps gathered one by one, experts in turn, distances by `cdist`.

    python -m benchmarks.generator [--quick] [--json FILE] [--sizes small,full] [--dtypes float32,bfloat16]

Both have the same random weights and take turns. Processor seconds of a whole batch; bf16 is bf16 weights on
our side, and the transcription under autocast, which is how one would run it. The drift is the difference of
our bf16 pictures from our fp32 ones, in 8-bit steps. The full size is the published checkpoint's, and wants
8 GiB; its larger batch is timed for one round. Peak memory is of a process that reads the weights and draws
one picture.

Aims, at full size and batch 1 on two cores: 8 processor seconds in fp32, 2.5 in bf16, 3.5 times the
transcription's speed, 6 GB; small and batch 8: 3 times.
"""

import multiprocessing
import sys
import tempfile
from argparse import ArgumentParser
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import Spread, arguments_of, peak_memory, take_turns, write_result
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
def measure(name: str, batch: int, rounds: int) -> dict[str, Any]:
    """One size and batch: seconds of the four ways, and their ratios."""
    constructor = SIZES[name]
    state = random_state_dict(constructor, seed=0)
    z, context, eot = inputs(constructor, batch)
    drawn: dict[str, Tensor] = {}
    ratios, seconds = {}, {}
    for dtype in (torch.float32, torch.bfloat16):
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
    changed = drift(drawn[str(torch.float32)], drawn[str(torch.bfloat16)])
    return {"size": name, "batch": batch, "seconds": seconds, "ratio": ratios, "bf16_drift": changed}


def _draw(folder: str, dtype: str, queue: multiprocessing.Queue) -> None:
    pipe = AuroraPipeline.from_pretrained(Path(folder)).to("cpu", getattr(torch, dtype))
    width = pipe.generator.config.text_head.input_dim
    with torch.no_grad():
        z, context, eot = inputs({"z_dim": pipe.generator.config.z_dim, "clip_out_dim": width}, 1)
        kind = getattr(torch, dtype)
        pipe.generator(z.to(kind), context.to(kind), eot)
    queue.put(peak_memory())


def peak_of(name: str, folder: Path, dtype: str) -> int:
    """Bytes at the peak of a process that opens a model directory and draws once."""
    if not (folder / "config.json").is_file():
        generator = from_official(random_state_dict(SIZES[name], seed=0), SIZES[name])
        config = AuroraConfig(text_encoder="sentence", generator=generator.config)
        AuroraPipeline(generator, config, name=name).save_pretrained(folder, f"# {name}\n\nRandom weights.\n")
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_draw, args=(str(folder), dtype, queue))
    process.start()
    peak = queue.get(timeout=600)
    process.join()
    return peak


def show(row: dict[str, Any]) -> str:
    seconds: dict[str, Spread] = row["seconds"]
    parts = [
        f"{label}: {seconds[f'impasto_{label}']} s, transcription {seconds[f'transcription_{label}']} s, "
        f"{row['ratio'][label]:.2f} times"
        for label in ("fp32", "bf16")
    ]
    changed = row["bf16_drift"]
    parts.append(f"bf16 drift {changed['mean']:.2f} of 255, 99 % below {changed['quantile_99']:.1f}")
    return f"{row['size']}, batch {row['batch']}: " + "; ".join(parts)


def main(argv: list[str] | None = None) -> int:
    def add(parser: ArgumentParser) -> None:
        parser.add_argument("--sizes", default="small,full", help="of small, full (default both)")

    arguments = arguments_of(__doc__, argv, add)
    names = ["tiny"] if arguments.quick else arguments.sizes.split(",")
    rows, peaks = [], {}
    for name in names:
        for batch in (1, 2) if name == "tiny" else (1, 8):
            rounds = 1 if (name, batch) == ("full", 8) or arguments.quick else 5
            rows.append(measure(name, batch, rounds))
            print(show(rows[-1]), flush=True)
        with tempfile.TemporaryDirectory() as folder:
            for dtype in ("float32", "bfloat16"):
                peaks[f"{name}_{dtype}"] = peak_of(name, Path(folder, "model"), dtype)
                print(f"{name} {dtype}: peak {peaks[f'{name}_{dtype}'] / 2**30:.2f} GiB", flush=True)
    plain = [
        {**row, "seconds": {way: asdict(spread) for way, spread in row["seconds"].items()}} for row in rows
    ]
    write_result(arguments.json, {"rows": plain, "peak_bytes": peaks})
    return 0


if __name__ == "__main__":
    sys.exit(main())
