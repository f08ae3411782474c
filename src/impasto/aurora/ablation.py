"""Aurora's ablations at small size, one resumable command:

    python -m impasto.aurora.ablation --out runs/ablation --seeds 0,1,2

Each cell and seed is one short run on 16x16 scenes, by the code path of `impasto train`, and leaves one JSON
file. Repeat the command after it was stopped: what is finished is skipped, what was begun goes on bit for
bit.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from impasto.aurora.exploring import feature_distance, path_lengths, share_of_noise
from impasto.aurora.growing import down_to
from impasto.aurora.launch import LaunchOptions, find_run, launch
from impasto.aurora.pipeline import AuroraPipeline
from impasto.aurora.training_config import AuroraRun
from impasto.config import ConfigError, from_dict, to_dict
from impasto.data.scene_source import SceneSource
from impasto.metrics.features import EXTRACTOR, SIDE, picture_stats
from impasto.metrics.frechet import frechet_distance
from impasto.metrics.scenes import EVALUATION_STREAM, SEEN_SET, UNSEEN_SET, judge, prompt_sets
from impasto.pictures import to_images
from impasto.runtime.log import read_metrics
from impasto.runtime.results import figure, table, training_seconds
from impasto.runtime.study import (
    chosen,
    in_one_line,
    is_finished,
    results_folder,
    run_cells,
    study_parser,
    write_result,
)
from impasto.vision.efficientnet import ImageFeatures

PRESET = "aurora-scenes-32-growing"
# What all cells have in common: adversarial losses alone, all levels of 16x16 from the start.
COMMON = (
    "model.generator.resolution=16",
    "discriminator.resolution=16",
    'model.generator.moe.experts={"4":1,"8":4,"16":1}',
    "growing.schedule=none",
)


@dataclass(frozen=True)
class Cell:
    """One row: settings on top of the common ones, and what they are."""

    settings: tuple[str, ...]
    summary: str


def _experts(count: int) -> Cell:
    what = "a dense layer" if count == 1 else f"{count} experts"
    setting = f'model.generator.moe.experts={{"4":1,"8":{count},"16":1}}'
    return Cell((setting,), f"{what} at 8x8, as much computed")


CELLS = {
    "base": Cell((), "4 experts at 8x8, routed by feature and w"),
    "experts-1": _experts(1),
    "experts-2": _experts(2),
    "experts-8": _experts(8),
    "experts-16": _experts(16),
    "router-feature": Cell(("model.generator.moe.router_input=feature",), "routed by the feature alone"),
    "router-w": Cell(("model.generator.moe.router_input=w",), "routed by w alone: a whole picture one way"),
    "without-scale": Cell(("model.generator.moe.expert_scale=none",), "equation (9) as printed"),
    "without-matching": Cell(("training.matching_weight=0",), "no wrong captions in the adversarial loss"),
    "without-contrast": Cell(("training.contrastive_weight=0",), "the published losses alone"),
    "without-tokens": Cell(
        ("model.generator.attention.text_tokens=none",), "text through w alone, no cross-attention"
    ),
    "without-text": Cell(
        (
            "model.text_encoder=nothing:384",
            "training.matching_weight=0",
            "training.contrastive_weight=0",
            "discriminator.contrastive=false",
            "data.near_misses=0",
        ),
        "no text at all: all captions look alike, and nothing asks what fits them",
    ),
    "kernels-4": Cell(("model.generator.convolution.kernels=4",), "four kernels to select from"),
    "path-length": Cell(("training.path_length_weight=2",), "path-length regularisation as in StyleGAN2"),
    "growing-images": Cell(
        ("growing.schedule=images", "growing.stage_images=1200"), "a new level every 1,200 images"
    ),
    "growing-reference": Cell(
        (
            "growing.schedule=reference",
            "growing.ratio=8",
            "growing.check_every=400",
            "growing.max_images=1200",
        ),
        "a new level at eight times the reference (ours: 1.5 takes longer), or after 1,200 images",
    ),
}
COLUMNS = {
    "oracle, seen": ("oracle", "seen", "mean"),
    "oracle, unseen": ("oracle", "unseen", "mean"),
    "colours right": ("attributes", "colour"),
    "shapes right": ("attributes", "shape"),
    "FD-EffNetLite0": ("frechet",),
    "due to noise": ("share_of_noise",),
    "path, noise": ("path_length", "z", "mean"),
    "path, text": ("path_length", "text", "mean"),
    "busiest expert": ("busiest_expert",),
    "logits apart": ("logits_apart",),
    "not finite": ("nonfinite",),
    "seconds": ("seconds",),
}
SHOWN = ("oracle, seen", "colours right", "FD-EffNetLite0", "due to noise", "path, noise")  # in the figure
DEFAULT_IMAGES = 3_600  # about three minutes of one thread in fp32
DEFAULT_PROMPTS = 200  # of each split, in the evaluation
REAL = 2_000  # pictures that generated ones are held against
PATHS = 32  # prompts whose ways are measured


def run_of(cell: str, seed: int, images: int, settings: Sequence[str] = ()) -> AuroraRun:
    """The run of a cell; its own settings win over those given for all."""
    every = max(images // 4 // 16, 1) * 16
    budget = [f"training.{name}={every}" for name in ("log_every", "sample_every", "checkpoint_every")]
    total = [f"training.images={every * 4}", f"training.seed={seed}"]
    return find_run(PRESET, [*COMMON, *budget, *total, *settings, *CELLS[cell].settings])


def run_cell(
    out: Path, results: Path, cell: str, seed: int, images: int, prompts: int, settings: Sequence[str]
) -> str:
    """Train and measure one cell, unless that is done. Returns "finished", or why its training stopped
    before. Raises ConfigError where the file holds something else."""
    run, file = run_of(cell, seed, images, settings), results / f"{cell}-seed{seed}.json"
    described = {"cell": cell, "seed": seed, "prompts": prompts, "settings": to_dict(run)}
    if is_finished(file, described, lambda settings: to_dict(from_dict(AuroraRun, settings))):
        return "finished"
    folder = out / f"{cell}-seed{seed}"
    print(
        f"{cell}, seed {seed}: {CELLS[cell].summary}; {run.training.images:,} images in {folder}", flush=True
    )
    reason = launch(PRESET, run, LaunchOptions(out=folder))
    if reason == "finished":
        write_result(file, described, measured=measure(run, folder, prompts))
    return reason


def measure(run: AuroraRun, folder: Path, count: int) -> dict[str, Any]:
    """What is asked of every finished run: the same prompts and noises, whatever its seed. The oracle reads
    pictures of the run's full side; a run that has not grown up to it scores what its pictures give."""
    pipe = AuroraPipeline.from_pretrained(folder / "model")
    sets = prompt_sets(run.data, count)
    noises = list(range(count))
    drawn = {name: pipe.generate(sets[name], seed=noises).pictures() for name in (SEEN_SET, UNSEEN_SET)}
    scores = {name: judge(pictures, sets[name]) for name, pictures in drawn.items()}
    features = ImageFeatures(EXTRACTOR, SIDE)
    side = pipe.config.resolution
    whole, _ = SceneSource(run.model.resolution, run.data, seed=EVALUATION_STREAM).batch(range(REAL))
    real = picture_stats(features, to_images(down_to(whole, side)))
    ways = path_lengths(pipe, sets[SEEN_SET][:PATHS], feature_distance(ImageFeatures(side=64).maps))
    return {
        "side": side,
        "oracle": {name: asdict(score.overall) for name, score in scores.items()},
        "attributes": scores[SEEN_SET].attributes,
        "frechet": frechet_distance(picture_stats(features, drawn[SEEN_SET]), real),
        "share_of_noise": share_of_noise(pipe, sets[SEEN_SET][:16], 8),
        "path_length": {way: asdict(length) for way, length in ways.items()},
        **logged(folder),
    }


def logged(folder: Path) -> dict[str, float]:
    """Of the run's metrics: the largest share of points that one expert had at the end (1 where no layer has
    several), how far apart the discriminator's logits ended, what was not finite, seconds of training."""
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "logit/real" in row]
    last = rows[-1]
    shares = [value for name, value in last.items() if name.startswith("experts/")]
    bad = sum(value for row in rows for name, value in row.items() if name.startswith("nonfinite/"))
    return {
        "busiest_expert": max(shares, default=1.0),
        "logits_apart": last["logit/real"] - last["logit/fake"],
        "nonfinite": bad,
        "seconds": training_seconds(folder),
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command's arguments."""
    parser = study_parser("impasto.aurora.ablation", __doc__, CELLS, "0,1,2")
    parser.add_argument("--images", type=int, default=DEFAULT_IMAGES, help="of a run (default 3,600)")
    parser.add_argument("--prompts", type=int, default=DEFAULT_PROMPTS, help="asked of each split (200)")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="A.B=C")
    parser.add_argument("--figure", type=Path, metavar="FILE.png", help="draw the results, too")
    return parser.parse_args(argv)


def _ablate(arguments: argparse.Namespace) -> int:
    results = results_folder(arguments)
    if not arguments.table and not _run(arguments, results):
        return 1
    print(table(results, COLUMNS, CELLS))
    if arguments.figure:
        shown = {title: COLUMNS[title] for title in SHOWN}
        figure(results, arguments.figure, shown, CELLS, "base")
    return 0


def _run(arguments: argparse.Namespace, results: Path) -> bool:
    cells, seeds = chosen(arguments, CELLS)
    images, prompts = arguments.images, arguments.prompts
    if images < 64 or prompts < 16:
        raise ConfigError("--images should be at least 64, and --prompts 16")
    common = {"images": images, "prompts": prompts, "settings": arguments.settings}
    return run_cells(cells, seeds, partial(run_cell, arguments.out, results, **common))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the ablation; expected errors become one line on stderr and exit status 2."""
    return in_one_line("ablation", lambda: _ablate(parse(argv)))


if __name__ == "__main__":
    sys.exit(main())
