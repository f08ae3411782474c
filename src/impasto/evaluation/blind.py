"""`impasto evaluate --blind A B`: a page on which people choose between the pictures of two folders, or of
two models, without knowing which is which; `--blind-answers FILE` counts their answers."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from impasto.config import ConfigError
from impasto.data.records import BadSampleError, Faults
from impasto.drawing import Progress
from impasto.evaluation.contenders import model_of
from impasto.evaluation.drawing import draw_with_model
from impasto.evaluation.painters import scenes_trained_on
from impasto.loading import describe
from impasto.metrics.blind import (
    CHOICES,
    Pair,
    answer_sheet,
    key_document,
    make_pairs,
    read_answers,
    score_answers,
)
from impasto.metrics.caption_lists import read_captions
from impasto.metrics.picture_sets import prepare
from impasto.metrics.picture_sources import Stored, open_pictures
from impasto.metrics.scenes import SEEN_SET, UNSEEN_SET, prompt_sets
from impasto.runtime.dist import Ranks
from impasto.runtime.files import atomic_write_text
from impasto.runtime.report import embedded, page

PAGE, SHEET, KEY, RESULT = "blind.html", "answers.csv", "key.json", "blind.json"
STYLE = "section{margin:2em 0}section img{width:320px;height:320px;object-fit:contain;margin-right:12px}"


def blind_models(
    first: str,
    second: str,
    out: Path,
    *,
    pairs: int = 50,
    captions: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    drawing: Mapping[str, Any] = MappingProxyType({}),
    settings: Sequence[str] = (),
    progress: Progress = lambda name, done, total: None,
) -> str:
    """`write_blind` of two models, such as two stages of one: both draw `pairs` prompts with the same noise
    streams into OUT/pictures, which is gone on with. The prompts are the first of `captions`, else of scenes
    such as the first model was trained on, half of them of unseen combinations. Options of drawing go to the
    models that know them. Raises ConfigError, in one line."""
    models = [model_of(name) for name in (first, second)]
    described = [describe(model, []) for model in models]
    if captions is not None:
        prompts = read_captions(captions).captions[:pairs]
    else:
        options = scenes_trained_on(described[0].provenance, settings)
        sets = prompt_sets(options, (pairs + 1) // 2)
        prompts = tuple([*sets[SEEN_SET], *sets[UNSEEN_SET]][:pairs])
    folders = []
    for side, model, found in zip("ab", models, described, strict=True):
        known = {name: value for name, value in drawing.items() if name in found.family.options}
        folders.append(out / "pictures" / side / "drawn")
        ranks = Ranks.from_environment(device)
        draw_with_model(
            model, prompts, folders[-1], ranks=ranks, seed=seed, dtype=torch.float32, options=known,
            progress=progress,
        )  # fmt: skip
    names = (first, second) if first != second else (f"{first} (A)", f"{second} (B)")
    one, other = map(str, folders)
    return write_blind(one, other, out, seed=seed, most=pairs, names=names)


def write_blind(
    first: str,
    second: str,
    out: Path,
    *,
    seed: int = 0,
    most: int | None = None,
    names: tuple[str, str] | None = None,
) -> str:
    """Write blind.html, answers.csv to fill in, and key.json; says what was written. `names`: what the
    folders are called in key.json. Raises ConfigError or DataError, in one line."""
    read, sets = Faults(), []
    for source in (first, second):
        sets.append(_readable(source, read))
    listed = [[(stored.name, stored.prompt) for stored in found.values()] for found in sets]
    pairs = make_pairs(*listed, seed=seed, most=most)
    key = key_document(pairs, *(names or (first, second)), seed)
    sections = [_section(number, pair, *sets) for number, pair in enumerate(pairs, start=1)]
    words = ", ".join(CHOICES)
    sheet = answer_sheet(key["page"], len(pairs))
    if (out / SHEET).is_file() and (out / SHEET).read_text(encoding="utf-8") != sheet:
        raise ConfigError(f"{out / SHEET} holds answers, or is of another page; name another --out")
    told = (
        f"<h1>Which picture is better?</h1><p>Page {key['page']}, {len(pairs)} pairs. Write {words} after "
        f"the number of each pair in {SHEET}. Do not look into {KEY} before.</p>"
    )
    atomic_write_text(out / PAGE, page(f"Blind comparison {key['page']}", told + "".join(sections), STYLE))
    atomic_write_text(out / SHEET, sheet)
    atomic_write_text(out / KEY, json.dumps(key, indent=2, ensure_ascii=False) + "\n")
    left_out = [len(found) - len(pairs) for found in sets]
    skipped = f"; could not be read: {read.summary()}" if len(read) else ""
    return (
        f"{len(pairs)} pairs; without a partner or not drawn: {left_out[0]} of {first}, {left_out[1]} of "
        f"{second}{skipped}\nwrote {out / PAGE}, {SHEET} to fill in, and {KEY}\n"
    )


def score_blind(answers: Path, out: Path) -> str:
    """Count a filled-in answers.csv with OUT/key.json; writes OUT/blind.json and says the result.
    ConfigError where one of the two is missing or damaged, or they are of different pages."""
    key_file = out / KEY
    if not key_file.is_file():
        raise ConfigError(f"no {KEY} in {out}: name the folder of the page with --out")
    if not answers.is_file():
        raise ConfigError(f"no such file: {answers}")
    try:
        key = json.loads(key_file.read_text(encoding="utf-8"))
    except ValueError:
        raise ConfigError(f"{key_file} is not JSON") from None
    try:
        text = answers.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{answers} is not UTF-8; save it as 'CSV UTF-8'") from None
    verdict = score_answers(read_answers(text, key), key)
    document: dict[str, Any] = {"protocol": "blind", **key, "result": asdict(verdict)}
    atomic_write_text(out / RESULT, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    rest = f"{verdict.ties} ties, {verdict.unanswered} unanswered"
    if verdict.share is None:
        return f"no answer prefers one; {rest}\n"
    return (
        f"{key['a']} was preferred {verdict.a} times, {key['b']} {verdict.b} times; {rest}\n"
        f"share of {key['a']}, Wilson's 95 % interval: {verdict.share}\n"
    )


def _readable(source: str, faults: Faults) -> dict[str, Stored]:
    """The pictures of a folder that carry a prompt and can be read, by name."""
    pictures = open_pictures(source)
    found = {}
    for index in range(len(pictures)):
        try:
            stored = pictures.read(index)
            prepare(stored.data, stored.name, None)
        except BadSampleError as bad:
            faults.add(bad.reason, bad.name)
            continue
        if stored.prompt is not None:
            found[stored.name] = stored
    return found


def _section(number: int, pair: Pair, first: dict[str, Stored], second: dict[str, Stored]) -> str:
    both = [first[pair.a], second[pair.b]]
    if not pair.a_left:
        both.reverse()
    images = "".join(
        f"<img src='{embedded(prepare(stored.data, stored.name, None)[0])}' alt='{side}'>"
        for stored, side in zip(both, CHOICES, strict=False)
    )
    return f"<section><h2>{number}. {html.escape(pair.prompt)}</h2>{images}</section>"
