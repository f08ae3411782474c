"""`impasto evaluate --models A B ...` and `--sweep NAME=VALUES`: models, or one drawn in several ways, on the
same prompts of the six categories of scenes, in one table, with what each costs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image

import impasto
from impasto.config import ConfigError, override, to_dict
from impasto.data.scene_source import SceneOptions
from impasto.data.scenes import render
from impasto.evaluation.contenders import Contender, Sweep
from impasto.evaluation.painters import painter_of
from impasto.evaluation.scene_sheets import SET_TITLES, write_page
from impasto.loading import identity
from impasto.metrics.categories import CategoryScores, Prompts, category_prompts, judge_categories
from impasto.metrics.intervals import Estimate, bootstrap
from impasto.metrics.scene_captions import CaptionScore, judge_captions
from impasto.metrics.scenes import CEILING, CHANCE, SEEN_SET, renders, scenes_of
from impasto.pictures import contact_sheet, open_picture, save_png
from impasto.plots import Point, line_figure
from impasto.runtime.dist import Ranks
from impasto.runtime.files import atomic_write_text

SHEET_PROMPTS, CELL, SCORE = 12, 64, "the oracle's score"
Sheet = tuple[str, Image.Image]
Pictures = dict[str, dict[str, list[Image.Image]]]  # {set: {category: pictures}}


@dataclass(frozen=True)
class Measured:
    """scores by set; seconds, processor_seconds: of drawing one picture; nats: how unlikely a picture's codes
    are after their prompt, and captions: what is said of the same real renders, both by set and of a model
    that can tell."""

    resolution: int
    scores: dict[str, CategoryScores]
    seconds: float
    processor_seconds: float
    nats: dict[str, Estimate]
    captions: dict[str, CaptionScore]


def evaluate_side_by_side(
    found: Sequence[Contender],
    out: Path,
    *,
    count: int = 50,
    seed: int = 0,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    settings: Sequence[str] = (),
    sweep: Sweep | None = None,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> str:
    """Measure every contender on `count` prompts of each category and set; writes report.json, report.md,
    report.html, a sheet and plots, and returns the table. Raises ConfigError, in one line."""
    options = override(SceneOptions(), list(settings))
    prompts = category_prompts(options, count)
    rows: dict[str, Measured] = {}
    columns: list[list[Image.Image]] = []
    for number, one in enumerate(found):
        progress("models", number, len(found))
        rows[one.label], pictures = _measure(one, options, prompts, seed, device, dtype)
        columns.append(_first(pictures[SEEN_SET]))
    side = max(row.resolution for row in rows.values())
    real = _drawn(prompts, lambda asked: renders(side, options.lone_spread)(asked, seed))
    bounds = {
        name: {
            group: judge_categories(real[group], some, turned=name == CHANCE)
            for group, some in prompts.items()
        }
        for name in (CEILING, CHANCE)
    }
    document = {
        "protocol": "side-by-side",
        "version": impasto.__version__,
        "options": to_dict(options),
        "count": count,
        "seed": seed,
        "device": device,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "rows": {
            one.label: {
                "model": identity(one.model),
                "drawing": dict(one.options),
                "side": one.side,
                **asdict(rows[one.label]),
            }
            for one in found
        },
        "bounds": {name: {group: asdict(s) for group, s in some.items()} for name, some in bounds.items()},
    }
    sheet = contact_sheet(
        list(zip(_first(real[SEEN_SET]), *columns, strict=True)), _first(prompts[SEEN_SET]), cell=CELL
    )
    words = f"First prompts of each category, not picked, left to right: {', '.join((CEILING, *rows))}"
    save_png(sheet, out / "sheet.png")
    table = _table(rows, bounds, list(prompts[SEEN_SET]))
    try:
        sheets: list[Sheet] = [(words, sheet), *_plots(found, rows, sweep, out)]
    except ConfigError as error:  # without matplotlib the numbers are there all the same
        sheets, table = [(words, sheet)], f"{table}\nNo plots: {error}.\n"
    _write(out, document, table, sheets)
    return table


def _measure(
    one: Contender, options: SceneOptions, prompts: Prompts, seed: int, device: str, dtype: torch.dtype
) -> tuple[Measured, Pictures]:
    pipe = impasto.load(one.model).to(device, dtype)
    paint = painter_of(pipe, Ranks(), one.drawing(pipe))
    paint(next(iter(prompts[SEEN_SET].values()))[:2], seed)  # what is made once is not counted
    started, used = time.perf_counter(), time.process_time()
    pictures = _drawn(prompts, lambda asked: paint(asked, seed))
    seconds, processor = time.perf_counter() - started, time.process_time() - used
    count = sum(len(some) for by_category in prompts.values() for some in by_category.values())
    nats: dict[str, Estimate] = {}
    captions: dict[str, CaptionScore] = {}
    for group, by_category in prompts.items():
        asked = [prompt for some in by_category.values() for prompt in some]
        scenes = scenes_of(asked, seed, options.lone_spread)
        real = [render(scene, size=pipe.config.resolution) for scene in scenes]
        if hasattr(pipe, "likelihoods"):
            nats[group] = bootstrap([-value for value in pipe.likelihoods(real, asked)])
        if hasattr(pipe, "caption"):
            captions[group] = judge_captions(pipe.caption, scenes, real, sorted(set(options.languages))[0])
    return Measured(
        resolution=one.drawing(pipe).get("size") or pipe.config.resolution,
        scores={group: judge_categories(pictures[group], some) for group, some in prompts.items()},
        seconds=seconds / count,
        processor_seconds=processor / count,
        nats=nats,
        captions=captions,
    ), pictures


def _drawn(prompts: Prompts, paint: Callable[[Sequence[str]], list[Image.Image]]) -> Pictures:
    return {
        group: {category: paint(asked) for category, asked in some.items()} for group, some in prompts.items()
    }


def _first(by_category: Mapping[str, Sequence]) -> list:
    """The first of each category, up to SHEET_PROMPTS in all."""
    each = max(SHEET_PROMPTS // len(by_category), 1)
    return [item for items in by_category.values() for item in items[:each]]


def _table(
    rows: Mapping[str, Measured],
    bounds: Mapping[str, Mapping[str, CategoryScores]],
    categories: Sequence[str],
) -> str:
    parts = []
    for group, bound in next(iter(bounds.values())).items():
        head = ["", *categories, "all", "nats a picture", "captions exact", "seconds a picture (processor)"]
        lines = [
            SET_TITLES[group] + f": {bound.pictures} prompts",
            "",
            f"| {' | '.join(head)} |",
            "|---" * len(head) + "|",
        ]
        for label, row in rows.items():
            score, nats, captions = row.scores[group], row.nats.get(group), row.captions.get(group)
            told = [f"{score.categories[name].mean:.3f}" for name in categories]
            told += [str(score.overall), "-" if nats is None else f"{nats.mean:.1f}"]
            told += ["-" if captions is None else str(captions.exact)]
            told += [f"{row.seconds:.3f} ({row.processor_seconds:.3f})"]
            lines.append(f"| {label}, {row.resolution} px | {' | '.join(told)} |")
        for name, some in bounds.items():
            told = [f"{some[group].categories[category].mean:.3f}" for category in categories]
            lines.append(f"| {name} | {' | '.join(told)} | {some[group].overall} | - | - | - |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _plots(
    found: Sequence[Contender], rows: Mapping[str, Measured], sweep: Sweep | None, out: Path
) -> Iterator[Sheet]:
    """Quality against seconds, as files of `out`; of a sweep also against its option, a line a model."""
    for group in next(iter(rows.values())).scores:
        points = {label: _point(row.processor_seconds, row, group, label) for label, row in rows.items()}
        path = out / f"seconds-{group}.png"
        words = f"quality against seconds: {SET_TITLES[group]}"
        axis = "processor seconds a picture"
        line_figure(path, {"": list(points.values())}, title=words, x=axis, y=SCORE, joined=False)
        yield words, open_picture(path)
        if sweep is None:
            continue
        lines: dict[str, list[Point]] = {}
        for one in found:
            if sweep.option in one.options:
                name, row = one.label.rpartition(f", {sweep.option}")[0], rows[one.label]
                point = _point(float(one.options[sweep.option]), row, group, "")
                lines.setdefault(name, []).append(point)
        path, words = out / f"{sweep.option}-{group}.png", f"{sweep.option}: {SET_TITLES[group]}"
        line_figure(path, lines, title=words, x=sweep.option, y=SCORE)
        yield words, open_picture(path)


def _point(x: float, row: Measured, group: str, label: str) -> Point:
    score = row.scores[group].overall
    return x, score.mean, score.low, score.high, label


def _write(out: Path, document: dict, table: str, sheets: Sequence[Sheet]) -> None:
    atomic_write_text(out / "report.json", json.dumps(document, indent=1) + "\n")
    title = "Side by side on scenes"
    atomic_write_text(out / "report.md", f"# {title}\n\n{table}")
    write_page(title, table, sheets, None, out)
