"""`impasto evaluate MODEL --protocol stories`: stories that a model writes and draws, against the oracle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

import impasto
from impasto.config import ConfigError
from impasto.data.scene_source import SceneOptions
from impasto.data.stories import StorySource
from impasto.evaluation.painters import options_of, report_head
from impasto.evaluation.scene_sheets import SET_TITLES, write_page
from impasto.mars.grammar import GrammarError
from impasto.metrics.scenes import EVALUATION_STREAM, SEEN_SET, UNSEEN_SET
from impasto.metrics.stories import StoryScore, Told, judge_stories
from impasto.pictures import save_png, story_sheet
from impasto.runtime.files import atomic_write_text

SPLITS = {SEEN_SET: "train", UNSEEN_SET: "heldout"}
PICTURES = 3  # of a story, for a model that does not say
WORDS = 48  # tokens of a sentence, at most
SHEET_STORIES = 12


@dataclass(frozen=True)
class Set:
    """The stories that begin with one split's sentences. `broken`: what the grammar said of those that it
    does not allow."""

    written: list[Any]
    broken: list[str]
    score: StoryScore


def evaluate_stories(
    name: str,
    out: Path,
    *,
    count: int = 200,
    seed: int = 0,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    settings: Sequence[str] = (),
    drawing: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """Let a model go on from the first sentences of `count` stories of each split, story n with noise stream
    seed + n. Writes report.json with every story, report.md, report.html and a sheet of each set, and returns
    the table. ConfigError for a model that writes no documents, or opens no pictures in them."""
    pipe = impasto.load(name).to(device, dtype)
    if not hasattr(pipe, "write_document"):
        raise ConfigError(f"'{pipe.name}' writes no documents; --protocol stories is for MARS")
    options, pictures = options_of(pipe, settings), pipe.provenance.get("pictures_per_story", PICTURES)
    drawing = {"guidance": pipe.config.guidance, **drawing}
    limits = {"max_pictures": pictures + 1, "max_words": WORDS * (pictures + 1)}
    found = {
        group: _write_set(pipe, options, split, count, seed, {**drawing, **limits}, pictures)
        for group, split in SPLITS.items()
    }
    table = _table(found)
    document = {
        **report_head("stories", pipe, options, drawing, dtype),
        "pictures_per_story": pictures,
        "count": count,
        "seed": seed,
        "sets": {
            group: {
                **asdict(one.score),
                "broken": one.broken,
                "stories_told": [_told(w) for w in one.written],
            }
            for group, one in found.items()
        },
    }
    atomic_write_text(out / "report.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    title = f"{pipe.name}: stories"
    atomic_write_text(out / "report.md", f"# {title}\n\n{table}")
    sheets = []
    for group, one in found.items():
        sheet = story_sheet([story.whole for story in one.written[:SHEET_STORIES]])
        save_png(sheet, out / f"{group}.png")
        sheets.append((f"First stories, not picked; they begin with {SET_TITLES[group]}", sheet))
    write_page(title, table, sheets, None, out)
    return table


def _write_set(
    pipe: Any,
    options: SceneOptions,
    split: str,
    count: int,
    seed: int,
    drawing: Mapping[str, Any],
    pictures: int,
) -> Set:
    side = pipe.config.resolution
    source = StorySource(side, options, seed=EVALUATION_STREAM, split=split, pictures=pictures)
    written, broken = [], []
    for number in range(count):
        try:
            written.append(pipe.write_document(source.sentences(number)[0], seed=seed + number, **drawing))
        except GrammarError as error:
            broken.append(f"story {number}: {error}")
    try:
        score = judge_stories([Told(one.whole, one.ended) for one in written])
    except ValueError as error:
        raise ConfigError(
            f"'{pipe.name}': {error}; was it trained on stories, as by impasto train mars-nano/stories?"
        ) from None
    return Set(written, broken, score)


def _told(story: Any) -> dict[str, Any]:
    """A story without its pixels; null where a picture stands."""
    parts = [part if isinstance(part, str) else None for part in story.whole]
    return {"seed": story.seed, "ended": story.ended, "parts": parts}


def _table(found: Mapping[str, Set]) -> str:
    lines = [
        "| stories begin with | match | sentences of other stories | difference, paired | first pictures "
        "| later pictures | grammar broken | ended by the model | sentences not understood | pictures |",
        "|---" * 10 + "|",
    ]
    for group, one in found.items():
        score = one.score
        lines.append(
            f"| {SET_TITLES[group]} | {score.match} | {score.shuffled} | {score.difference} | {score.first} "
            f"| {score.later or '-'} | {len(one.broken)} of {len(one.written) + len(one.broken)} "
            f"| {score.ended} | {score.unread} | {score.pictures} |"
        )
    for group, one in found.items():
        score = one.score
        lines += [
            "",
            f"{SET_TITLES[group]}: a sentence keeps a colour or a shape of the one before and changes the "
            f"other in {score.goes_on or '-'} (of another story's: {score.goes_on_shuffled or '-'}); "
            f"{score.without_picture} stories have no picture, {score.unreadable} pictures cannot be read.",
        ]
    return "\n".join(lines) + "\n"
