"""Next-K-token prediction compared on scenes, 64 to 128 px, one resumable command:

    python -m impasto.mars.superres_study --out runs/superres

Trains an image tokenizer for both sizes, a base model that draws 64 px, and then stage III once for each
cell, all by the code path of `impasto train`; leaves one JSON file a cell and a sheet of pictures. Repeat the
command after it was stopped: what is finished is skipped, what was begun goes on bit for bit.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from statistics import mean
from typing import Any

from PIL import Image

from impasto.config import ConfigError, nearest, override
from impasto.mars.cells import settings_of, settings_read, share_codes, train_part
from impasto.mars.directories import load_tokenizer
from impasto.mars.launch import find_run, launch
from impasto.mars.pipeline import MarsPipeline
from impasto.mars.run_folder import LaunchOptions
from impasto.mars.superres_measures import COOL, SIDES, enlarging_reader, fresh_pictures, measure
from impasto.mars.training_config import StageRun
from impasto.metrics.intervals import bootstrap
from impasto.pictures import contact_sheet, save_png, to_images
from impasto.runtime.results import read_result, table, training_seconds
from impasto.runtime.study import (
    chosen,
    in_one_line,
    is_finished,
    results_folder,
    run_cells,
    study_parser,
    write_result,
)

LANGUAGE = "mars-scenes"  # the shipped model whose language expert mars-nano takes


@dataclass(frozen=True)
class Setup:
    """Settings of the three runs on top of a family's presets. The base draws alone: what it says of pictures
    is not asked here. shipped_language: whether there is a language model to take."""

    tokenizer: tuple[str, ...] = ()
    base: tuple[str, ...] = ()
    stage: tuple[str, ...] = ()
    shipped_language: bool = False


SETUPS = {
    "mars-nano": Setup(
        tokenizer=(
            "resolution=64",
            "model.patch=8",
            "model.codes=1024",
            "data.max_objects=1",
            "training.images=19200",
        ),
        base=(
            "model.visual.codes=1024",
            "training.optimisation.learning_rate=4e-3",
            "training.seed=0",
            "training.sample_prompts=8",
            "training.validation_pictures=64",
            "training.pictures=32000",
            "training.tokens=2048000",
        ),
        stage=(
            "model.visual.codes=1024",
            "training.sample_prompts=8",
            "training.validation_pictures=64",
        ),
        shipped_language=True,
    ),
    "mars-debug": Setup(),
}
LOG_STEPS = 25  # between lines of a run's metrics
SHOWN, CELL_SIDE = 6, 128


@dataclass(frozen=True)
class Cell:
    """One row: settings of `super_resolution`, and what they are."""

    settings: tuple[str, ...]
    summary: str


def _cell(count: int, head: str, summary: str) -> Cell:
    names = (f"tokens_per_step={count}", f"head={head}")
    return Cell(tuple(f"model.super_resolution.{name}" for name in names), summary)


CELLS = {
    "block": _cell(4, "block", "K = 4, the causal block head"),
    "independent": _cell(4, "independent", "K = 4, four independent heads"),
    "next-token": _cell(1, "independent", "K = 1, one code a step"),
}
COLUMNS: dict[str, tuple[str, ...]] = {
    "nats a code, seen": ("image_token_nll", "seen", "mean"),
    "held out": ("image_token_nll", "heldout", "mean"),
    "oracle, seen": ("oracle", "seen", "mean"),
    "oracle, held out": ("oracle", "heldout", "mean"),
    "at 0.7, held out": ("oracle_cool", "heldout", "mean"),
    "of the low codes": ("oracle_of_codes", "heldout", "low", "mean"),
    "error, held out": ("error", "heldout"),
    "steps": ("steps",),
    "seconds a picture": ("processor_seconds",),
}


@dataclass(frozen=True)
class Study:
    """What all cells have in common; pictures: seen in training, validated and drawn."""

    out: Path
    results: Path
    preset: str  # a family of presets
    language: str
    pictures: int
    validated: int
    drawn: int

    @property
    def parts(self) -> tuple[str, ...]:
        return (f"tokenizer={self.out / 'tokenizer'}", f"language={self.language}")

    def run_of(self, cell: str, seed: int) -> StageRun:
        own = (*self.parts, f"training.seed={seed}", *CELLS[cell].settings)
        settings = (*SETUPS[self.preset].stage, *own)
        preset = f"{self.preset}/stage3"
        run = find_run(preset, settings)
        assert isinstance(run, StageRun)
        length, batch = run.image_length, run.training.batch
        if self.pictures % batch:
            raise ConfigError(f"--pictures {self.pictures} should be a multiple of {batch}, the batch")
        tokens = self.pictures * length
        every = dict.fromkeys(("tokens", "sample_every", "checkpoint_every"), tokens)
        every |= {"pictures": self.pictures, "log_every": min(LOG_STEPS * batch * length, tokens)}
        return override(run, [f"training.{name}={value}" for name, value in every.items()])


def prepare(study: Study) -> None:
    """The tokenizer, the base and a language model where none ships, unless they are there. ConfigError where
    training stopped."""
    setup = SETUPS[study.preset]
    runs = {"tokenizer": ("tokenizer", setup.tokenizer), "base": ("stage2", (*study.parts, *setup.base))}
    if study.language == str(study.out / "language"):
        runs = {"language": ("language", ()), **runs}
    for folder, (stage, settings) in runs.items():
        train_part(f"{study.preset}/{stage}", settings, study.out / folder)


def run_cell(study: Study, cell: str, seed: int) -> str:
    """Train and measure one cell, unless that is done. Returns "finished", or why its training stopped.
    ConfigError where the file holds something else."""
    name, run = f"{cell}-seed{seed}", study.run_of(cell, seed)
    file, folder = study.results / f"{name}.json", study.out / name
    described = _describe(study, run, cell)
    if is_finished(file, described, settings_read):
        return "finished"
    share_codes(study.out, folder, seed)
    print(f"{cell}, seed {seed}: {CELLS[cell].summary}; {study.pictures:,} pictures in {folder}", flush=True)
    options = LaunchOptions(out=folder, init_from=str(study.out / "base"))
    reason = launch(f"{study.preset}/stage3", run, options)
    if reason == "finished":
        measured = measure(run, folder, study.validated, study.drawn)
        write_result(file, described, measured=measured, seconds={"training": training_seconds(folder)})
    return reason


def differences(results: Path) -> list[str]:
    """Nats a code of each cell less those of the block head: over the same pictures, seed by seed, each
    picture's mean over the seeds that both have, with intervals over pictures."""
    found: dict[str, dict[int, Any]] = {}
    for file in sorted(results.glob("*.json")):
        document = read_result(file)
        of_seeds = found.setdefault(document["cell"], {})
        of_seeds[document["seed"]] = document["measured"]["nll_of_pictures"]
    block, lines = found.get("block", {}), []
    for cell in (cell for cell in CELLS if cell != "block" and cell in found):
        seeds = sorted(found[cell].keys() & block.keys())
        for side in SIDES.values() if seeds else ():
            each = [_less(found[cell][seed][side], block[seed][side]) for seed in seeds]
            estimate = bootstrap([mean(of_one) for of_one in zip(*each, strict=True)])
            told = f"{len(seeds)} seeds: " + ", ".join(f"{mean(of_one):.3f}" for of_one in each)
            lines.append(f"{cell} less block, {side}: {estimate} nats a code; {told}")
    return lines


def _less(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [first - second for first, second in zip(one, other, strict=True)]


def sheet(study: Study, cells: Sequence[str], seed: int) -> Image.Image:
    """Held-out scenes: low resolution, what each cell draws from it, real."""
    shown = min(SHOWN, study.drawn)
    pictures = fresh_pictures(study.run_of(cells[0], seed), "heldout", shown, shown)  # all cells' own
    rows = {"low resolution, 64 px, held-out scenes": pictures.shown_low(shown)}
    for cell in cells:
        pipe = MarsPipeline.from_pretrained(study.out / f"{cell}-seed{seed}" / "model")
        title = f"{CELLS[cell].summary}; temperature {COOL.temperature:g}"
        rows[title] = pictures.drawn(enlarging_reader(pipe), shown, settings=COOL)
    rows |= {"the real pictures' own codes": pictures.shown_high(shown), "real, 128 px": pictures.pictures}
    return contact_sheet([to_images(row) for row in rows.values()], list(rows), cell=CELL_SIDE)


def _describe(study: Study, run: StageRun, cell: str) -> dict[str, Any]:
    """What decides a result. Parts are named by what they are, not by where they lie."""
    return {
        "cell": cell,
        "seed": run.training.seed,
        "validated": study.validated,
        "drawn": study.drawn,
        "settings": settings_of(run),
        "tokenizer": load_tokenizer(run.tokenizer).fingerprint,
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = study_parser("impasto.mars.superres_study", __doc__, CELLS, "0")
    parser.add_argument("--preset", default="mars-nano", help="whose runs: mars-nano (default), mars-debug")
    parser.add_argument(
        "--pictures", type=int, default=61_440, help="seen by a run, a multiple of the batch (61,440)"
    )
    parser.add_argument("--validated", type=int, default=256, help="pictures whose likelihood is taken (256)")
    parser.add_argument("--drawn", type=int, default=64, help="pictures drawn of each split (64)")
    parser.add_argument("--language", help=f"a run of the language model (default: that of {LANGUAGE})")
    parser.add_argument("--sheet", type=Path, help="picture file to write (default OUT/sheet.png)")
    return parser.parse_args(argv)


def _study(arguments: argparse.Namespace) -> int:
    out, results = arguments.out, results_folder(arguments)
    if arguments.table:
        _show(results)
        return 0
    cells, seeds = chosen(arguments, CELLS)
    if arguments.preset not in SETUPS:
        raise ConfigError(f"no --preset '{arguments.preset}'; {nearest(arguments.preset, SETUPS)}")
    if arguments.pictures < 1:
        raise ConfigError(f"--pictures {arguments.pictures} should be at least 1")
    if not 0 < arguments.drawn <= arguments.validated:
        raise ConfigError("--drawn should be at least 1 and at most --validated")
    shipped = str(resources.files("impasto") / "models" / LANGUAGE)
    language = shipped if SETUPS[arguments.preset].shipped_language else str(out / "language")
    counts = (arguments.pictures, arguments.validated, arguments.drawn)
    study = Study(out, results, arguments.preset, arguments.language or language, *counts)
    prepare(study)
    if not run_cells(cells, seeds, partial(run_cell, study)):
        return 1
    save_png(sheet(study, cells, seeds[0]), arguments.sheet or out / "sheet.png")
    _show(results)
    return 0


def _show(results: Path) -> None:
    print(table(results, COLUMNS, CELLS))
    print("\n".join(["", *differences(results)]))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study; expected errors become one line on stderr and exit status 2."""
    return in_one_line("superres_study", lambda: _study(parse(argv)))


if __name__ == "__main__":
    sys.exit(main())
