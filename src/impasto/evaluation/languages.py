"""`impasto evaluate MODEL --protocol languages`: the same scenes asked for in every language."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from PIL import Image

import impasto
from impasto.data.scenes import LANGUAGES, render
from impasto.evaluation.painters import options_of, painter_of, report_head
from impasto.evaluation.scene_sheets import SET_TITLES, write_page
from impasto.metrics.languages import Consistency, judge_languages, scenes_in_languages
from impasto.metrics.scenes import SEEN_SET, UNSEEN_SET, Painter
from impasto.pictures import contact_sheet, save_png
from impasto.runtime.dist import Ranks
from impasto.runtime.files import atomic_write_text
from impasto.runtime.lineage import lineage

SPLITS = {SEEN_SET: "train", UNSEEN_SET: "heldout"}
SHEET_SCENES, SHEET_PICTURES, CELL = 12, 2, 64


def evaluate_languages(
    name: str,
    out: Path,
    *,
    count: int = 500,
    seed: int = 0,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    settings: Sequence[str] = (),
    drawing: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """Score `count` scenes of seen and of unseen combinations in each language; writes report.json,
    report.md, report.html and a sheet of each set, and returns the table."""
    pipe = impasto.load(name).to(device, dtype)
    paint, options = painter_of(pipe, Ranks(), drawing), options_of(pipe, settings)
    found, sheets = {}, []
    for group, split in SPLITS.items():
        scenes, texts = scenes_in_languages(options, count, split)
        renders = [render(scene, size=pipe.config.resolution) for scene in scenes]
        reader = pipe if hasattr(pipe, "likelihoods") else None
        found[group] = judge_languages(paint, texts, seed=seed, reader=reader, renders=renders)
        words = (
            f"First scenes, not picked, {SET_TITLES[group]}: a real render, then {SHEET_PICTURES} in each of"
        )
        sheet = _sheet(paint, texts, renders[:SHEET_SCENES], seed)
        sheets.append((f"{words} {', '.join(LANGUAGES)}", sheet))
        save_png(sheet, out / f"{group}.png")
    mixes = list(_mixes(pipe.provenance))
    table = _table(found) + "".join(f"- {line}\n" for line in [*_lengths(pipe, found), *mixes])
    document = {
        **report_head("languages", pipe, options, drawing, dtype),
        "seed": seed,
        "sets": {
            group: {**asdict(one), "verdicts": {name: one.verdict(name) for name in one.differences}}
            for group, one in found.items()
        },
        "training": mixes,
    }
    atomic_write_text(out / "report.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    title = f"{pipe.name}: one scene, {len(LANGUAGES)} languages"
    atomic_write_text(out / "report.md", f"# {title}\n\n{table}")
    write_page(title, table, sheets, None, out)
    return table


def _table(found: Mapping[str, Consistency]) -> str:
    parts = []
    for group, one in found.items():
        lines = [
            f"{SET_TITLES[group]}: {one.scenes} scenes",
            "",
            "| language | overall, 95 % interval | captions shuffled | colour | shape | unreadable "
            "| nats a caption tells |",
            "|---" * 7 + "|",
        ]
        for language, score in one.scores.items():
            looks = " | ".join(
                f"{score.attributes.get(name, float('nan')):.3f}" for name in ("colour", "shape")
            )
            lines.append(
                f"| {language} | {score.overall} | {score.chance:.3f} | {looks} | {score.unreadable} "
                f"| {'-' if score.told is None else _plain(score.told)} |"
            )
        first = next(iter(one.scores))
        for language, difference in one.differences.items():
            told = one.told_differences.get(language)
            lines += ["", f"{first} minus {language}, paired: {difference}; {one.verdict(language)}."]
            if told is not None:
                lines += [f"A caption in {first} tells {_plain(told)} nats more of its picture."]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n\n"


def _plain(estimate: Any) -> str:
    return f"{estimate.mean:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _lengths(pipe: Any, found: Mapping[str, Consistency]) -> Iterator[str]:
    """How many tokens captions have, for a model that reads tokens."""
    if not hasattr(pipe, "prompts"):
        return
    texts = next(iter(found.values())).texts
    means = {
        language: sum(len(pipe.prompts.encode(text)) for text in some) / len(some)
        for language, some in texts.items()
    }
    yield "tokens of a caption: " + ", ".join(f"{name} {mean:.1f}" for name, mean in means.items())


def _mixes(provenance: Mapping[str, Any]) -> Iterator[str]:
    """What share of the captions of each training run was of which language, newest first."""
    for run in lineage(provenance):
        for told in (run, run.get("language", {})):
            data = told.get("data", {})
            mix = data.get("scenes", data.get("dataset", {})).get("languages")
            if mix:
                weights = (
                    mix if isinstance(mix, dict) else {one: mix.count(one) for one in dict.fromkeys(mix)}
                )
                shares = ", ".join(f"{k} {100 * v / sum(weights.values()):.0f} %" for k, v in weights.items())
                seen = told.get("images_seen", told.get("scenes_seen"))
                of = "" if seen is None else f", {seen:,} {'pictures' if 'images_seen' in told else 'scenes'}"
                yield f"captions of {told.get('preset', 'a run')}{of}: {shares}"


def _sheet(
    paint: Painter, texts: Mapping[str, Sequence[str]], renders: Sequence[Image.Image], seed: int
) -> Image.Image:
    """A row for each scene: a real render, then pictures asked for in each language, with the same noise."""
    columns: list[Sequence[Image.Image]] = [renders]
    for prompts in texts.values():
        some = prompts[: len(renders)]
        columns += [paint(some, seed + number) for number in range(SHEET_PICTURES)]
    labels = [" | ".join(told) for told in zip(*texts.values(), strict=True)][: len(renders)]
    return contact_sheet(list(zip(*columns, strict=True)), labels, cell=CELL)
