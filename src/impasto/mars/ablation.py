"""The paper's ablations at small size, one resumable command:

    python -m impasto.mars.ablation --out runs/ablation --seeds 0,1,2

Each cell and seed is one shortened run of stage I, by the code path of `impasto train`, and leaves one JSON
file. Repeat the command after it was stopped: what is finished is skipped, what was begun goes on bit for
bit.
"""

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from impasto.config import ConfigError, nearest
from impasto.mars.ablation_measures import measure_run
from impasto.mars.cells import settings_of, settings_read, share_codes, train_part
from impasto.mars.convert import base_fingerprint, from_language
from impasto.mars.directories import LanguagePart, TokenizerPart, load_language, load_tokenizer
from impasto.mars.launch import find_run, launch
from impasto.mars.run_folder import LaunchOptions
from impasto.mars.runs import RUNS
from impasto.mars.texts import text_fingerprint
from impasto.mars.training_config import StageRun
from impasto.runtime.results import table, training_seconds
from impasto.runtime.study import (
    chosen,
    in_one_line,
    is_finished,
    results_folder,
    run_cells,
    study_parser,
    write_result,
)


@dataclass(frozen=True)
class Cell:
    """One row of the ablation: settings on top of stage I, and what they are."""

    settings: tuple[str, ...]
    summary: str


PUBLISHED = "model.visual.initial_codebook=0"  # rows of codes begin at the mean of the text rows
CELLS = {
    "published": Cell((PUBLISHED,), "a visual expert beside the frozen language model, both tasks"),
    "shared-weights": Cell(
        (PUBLISHED, "model.visual.experts=shared"),
        "one trained set of weights for both modalities (Table 3, Figure 5)",
    ),
    "without-image-to-text": Cell((PUBLISHED, "training.image_to_text=0"), "drawing alone"),
    "shared-output-projection": Cell(
        (PUBLISHED, "model.visual.output_projection=shared"), "W_O of the frozen language expert for both"
    ),
    "codebook": Cell(
        ("model.visual.initial_codebook=1",), "rows of codes that begin from the tokenizer's codebook (ours)"
    ),
    "shared-weights-codebook": Cell(
        ("model.visual.initial_codebook=1", "model.visual.experts=shared"),
        "one set of weights, begun likewise",
    ),
}
COLUMNS: dict[str, tuple[str, ...]] = {
    "NLL, seen": ("image_token_nll", "seen"),
    "NLL, held out": ("image_token_nll", "heldout"),
    "oracle, seen": ("oracle", "seen", "mean"),
    "oracle, held out": ("oracle", "heldout", "mean"),
    "captions true, seen": ("captions_true", "seen", "mean"),
    "captions true, held out": ("captions_true", "heldout", "mean"),
    "text KL": ("text_drift", "seen", "divergence"),
    "text NLL": ("text_drift", "seen", "nll_after"),
    "image RMS, last": ("residuals", "after", "image_rms", "-1"),
    "text RMS, last": ("residuals", "after", "text_rms", "-1"),
}
# Measured for mars-nano at one thread, in seconds of processor time: a step of 2,560 tokens 0.54 to 0.62,
# codes of 16,000 pictures 32, the evaluation 36. So 600 steps make about 460 s of the ten minutes.
DEFAULT_TOKENS = 1_536_000
CHECKPOINTS = 5  # in a run
TRAINING_PICTURES = 16_000  # at most, seen one and a half times
TRAINING_PROMPTS = 8  # scored inside a run; the evaluation asks for more
DEFAULT_PROMPTS = 200  # of each split, in the evaluation: intervals of about +-0.05


@dataclass(frozen=True)
class Ablation:
    """What all cells have in common."""

    out: Path
    results: Path
    preset: str  # a training preset such as mars-nano/stage1
    settings: tuple[str, ...]
    tokens: int
    prompts: int
    tokenizer: TokenizerPart
    language: LanguagePart

    def run_of(self, cell: str, seed: int) -> StageRun:
        """The run of a cell; its own settings win over those given for all. ConfigError if the preset is no
        stage of MARS."""
        base = find_run(self.preset, self.settings)
        if not isinstance(base, StageRun):
            raise ConfigError(f"--preset should have a stage1; {self.preset} is none")
        budget = budget_settings(base, self.tokens)
        own = (f"training.seed={seed}", *CELLS[cell].settings)
        run = find_run(self.preset, (*budget, *self.settings, *own))
        assert isinstance(run, StageRun)
        return run

    def folder_of(self, cell: str, seed: int) -> Path:
        return self.out / f"{cell}-seed{seed}"

    def result_of(self, cell: str, seed: int) -> Path:
        return self.results / f"{cell}-seed{seed}.json"


def budget_settings(run: StageRun, tokens: int) -> tuple[str, ...]:
    """Settings that shorten a stage to about so many image tokens, with a few checkpoints and pictures at its
    two ends alone."""
    step = run.training.batch * run.image_length
    between = max(math.ceil(tokens / (step * CHECKPOINTS)), 1) * step
    total = between * CHECKPOINTS
    values = {"tokens": total, "sample_every": total, "checkpoint_every": between, "log_every": between}
    values["pictures"] = min(run.training.pictures, TRAINING_PICTURES)
    values["sample_prompts"] = TRAINING_PROMPTS
    return tuple(f"training.{name}={value}" for name, value in values.items())


def run_cell(ablation: Ablation, cell: str, seed: int) -> str:
    """Train and measure one cell, unless that is done. Returns "finished", or why its training stopped
    before. Raises ConfigError where the folder or the file holds something else."""
    run, file = ablation.run_of(cell, seed), ablation.result_of(cell, seed)
    described = _describe(ablation, run, cell, seed)
    if is_finished(file, described, settings_read):
        return "finished"
    folder = ablation.folder_of(cell, seed)
    share_codes(ablation.out, folder, seed)
    print(
        f"{cell}, seed {seed}: {CELLS[cell].summary}; {run.training.tokens:,} tokens in {folder}", flush=True
    )
    reason = launch(ablation.preset, run, LaunchOptions(out=folder))
    if reason != "finished":
        return reason
    started = time.perf_counter()
    measured = measure_run(run, folder, ablation.language, ablation.tokenizer, ablation.prompts)
    seconds = {"training": training_seconds(folder), "evaluation": time.perf_counter() - started}
    write_result(file, described, measured=measured, seconds=seconds)
    print(f"{cell}, seed {seed}: {file}")
    return "finished"


def _describe(ablation: Ablation, run: StageRun, cell: str, seed: int) -> dict[str, Any]:
    """What decides a result. Parts are named by what they are, not by where they lie."""
    language = ablation.language
    return {
        "cell": cell,
        "seed": seed,
        "preset": ablation.preset,
        "tokens": run.training.tokens,
        "prompts": ablation.prompts,
        "settings": settings_of(run),
        "parts": {
            "tokenizer": ablation.tokenizer.fingerprint,
            "language": base_fingerprint(from_language(language.state, run.model)),
            "text tokeniser": text_fingerprint(language.tokeniser),
        },
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options of `python -m impasto.mars.ablation`."""
    parser = study_parser("impasto.mars.ablation", __doc__, CELLS, "0,1,2")
    parser.add_argument("--preset", default="mars-nano", help="whose stage1 is shortened (default mars-nano)")
    parser.add_argument("--tokens", type=int, default=DEFAULT_TOKENS, help="image tokens of a run")
    parser.add_argument("--prompts", type=int, default=DEFAULT_PROMPTS, help="asked of each split at the end")
    parser.add_argument(
        "--tokenizer", help="a run of the image tokenizer (default: trained in OUT/tokenizer)"
    )
    parser.add_argument("--language", help="a run of the language model (default: trained in OUT/language)")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="A.B=C")
    return parser.parse_args(argv)


def _ablate(arguments: argparse.Namespace) -> int:
    out, results = arguments.out, results_folder(arguments)
    if arguments.table:
        print(table(results, COLUMNS, CELLS))
        return 0
    cells, seeds = chosen(arguments, CELLS)
    for name in ("tokens", "prompts"):
        if getattr(arguments, name) < 1:
            raise ConfigError(f"--{name} {getattr(arguments, name)} should be at least 1")
    preset = f"{arguments.preset}/stage1"
    if preset not in RUNS:
        families = {name.partition("/")[0] for name in RUNS}
        raise ConfigError(f"--preset {arguments.preset} has no stage1; {nearest(arguments.preset, families)}")
    places = [
        getattr(arguments, name) or train_part(f"{arguments.preset}/{name}", (), out / name)
        for name in ("tokenizer", "language")
    ]
    ablation = Ablation(
        out=out,
        results=results,
        preset=preset,
        settings=(f"tokenizer={places[0]}", f"language={places[1]}", *arguments.settings),
        tokens=arguments.tokens,
        prompts=arguments.prompts,
        tokenizer=load_tokenizer(places[0]),
        language=load_language(places[1]),
    )
    if not run_cells(cells, seeds, partial(run_cell, ablation)):
        return 1
    print(table(results, COLUMNS, CELLS))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the ablation; expected errors become one line on stderr and exit status 2."""
    return in_one_line("ablation", lambda: _ablate(parse(argv)))


if __name__ == "__main__":
    sys.exit(main())
