"""`impasto evaluate PICTURES`: pictures against the prompts that they carry."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from impasto.config import ConfigError
from impasto.data.records import BadSampleError, Faults
from impasto.data.scenes import parse_prompt
from impasto.metrics.alignment import DISTRACTORS, Scorer, alignment_results, alignment_table
from impasto.metrics.features import refuse_training_networks
from impasto.metrics.picture_sets import prepare
from impasto.metrics.picture_sources import PictureFolder
from impasto.metrics.scenes import judge
from impasto.runtime.files import atomic_write_text
from impasto.runtime.model_directory import is_model_directory


def holds_pictures(path: Path) -> bool:
    """Whether a path is a folder of PNG files, and no model."""
    return path.is_dir() and not is_model_directory(path) and any(path.glob("*.png"))


def evaluate_pictures(
    folder: Path, out: Path, *, scorer: Scorer | None = None, distractors: int = DISTRACTORS, seed: int = 0
) -> str:
    """Score pictures that carry their prompt, as `impasto generate` writes them: with the oracle where all
    prompts are captions of scenes, with a scorer where one is given. Pictures that say no prompt or cannot be
    read are left out and counted; raises ConfigError where that leaves none, or where neither can score
    them."""
    source = PictureFolder(folder)
    pictures, prompts, left_out = _readable(source)
    if not pictures:
        raise ConfigError(
            f"no picture in {folder} can be read and says its prompt ({left_out.summary()}); use those of "
            f"`impasto generate`"
        )
    document: dict[str, Any] = {"pictures": str(folder), "protocol": "scenes", "skipped": left_out.files()}
    text = ""
    strange = _no_caption_of_scenes(prompts)
    if strange is None:
        score = judge(pictures, prompts)
        document |= asdict(score)
        text = (
            f"{score.pictures} pictures: overall {score.overall}, binding {score.binding:.3f}, "
            f"perfect {score.perfect:.3f}, unreadable {score.unreadable}\n"
        )
    elif scorer is None:
        raise ConfigError(f"the oracle of scenes cannot read '{strange}'; add --scorer or --reference")
    if scorer is not None:
        refuse_training_networks(scorer.name, scorer, source.training_networks() or {})
        sets = {"pictures": (scorer.embed_pictures(pictures), prompts)}
        document["alignment"] = alignment_results(scorer, sets, distractors=distractors, seed=seed)
        text += "\n" * bool(text) + alignment_table(document["alignment"])
    if len(left_out):
        text += f"Left out: {left_out.summary()}.\n"
    atomic_write_text(out / "report.json", json.dumps(document, indent=2) + "\n")
    atomic_write_text(out / "report.md", f"# {folder.name} on its prompts\n\n{text}")
    return text


def _readable(source: PictureFolder) -> tuple[list[Image.Image], list[str], Faults]:
    """Pictures, their prompts, and what was left out by its reason."""
    pictures, prompts, left_out = [], [], Faults()
    for index in range(len(source)):
        try:
            stored = source.read(index)
            picture = prepare(stored.data, stored.name, None)[0]
        except BadSampleError as bad:
            left_out.add(bad.reason, bad.name)
            continue
        if stored.prompt is None:
            left_out.add("no prompt", stored.name)
            continue
        pictures.append(picture)
        prompts.append(stored.prompt)
    return pictures, prompts, left_out


def _no_caption_of_scenes(prompts: Sequence[str]) -> str | None:
    """The first prompt that the oracle does not understand."""
    for prompt in prompts:
        try:
            parse_prompt(prompt)
        except ValueError:
            return prompt
    return None
