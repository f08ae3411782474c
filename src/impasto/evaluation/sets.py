"""`impasto evaluate PICTURES --reference DIR`: two sets of pictures in, a folder with a report out."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch

import impasto
from impasto.config import ConfigError
from impasto.evaluation.page import html_report, markdown_report, result_table
from impasto.evaluation.sheets import SHOWN, Member, set_sheets
from impasto.metrics.alignment import DISTRACTORS, Scorer, alignment_results
from impasto.metrics.comparison import Comparison, check_counts, check_sets, compare
from impasto.metrics.copies import CLOSE
from impasto.metrics.extractors import Extractor
from impasto.metrics.feature_cache import cached_features
from impasto.metrics.features import refuse_training_networks
from impasto.metrics.intervals import RESAMPLES
from impasto.metrics.manifold import NEIGHBOURS
from impasto.metrics.picture_sets import ALONE, preparation
from impasto.metrics.picture_sources import PictureSet, open_pictures
from impasto.pictures import save_png
from impasto.runtime.dist import Ranks
from impasto.runtime.files import atomic_write_text
from impasto.runtime.report import charts

PROTOCOL, FORMAT = "sets", 1


@dataclass(frozen=True, kw_only=True)
class SetOptions:
    """`side`: pictures are cropped and resized to it; None: they are taken as they are. `cache`: folder of
    features; None: none. `seed`: of the pictures shown. `training_networks` {role: hash}: of the model that
    made the pictures, beside what they say themselves; None where it is not known. `preset`: what decided the
    pictures, for the report. `run`: the folder of the training run whose curves the page shows."""

    reference: str | PictureSet
    training: str | None = None
    side: int | None = None
    allow_small: bool = False
    seed: int = 0
    cache: Path | None = None
    training_networks: Mapping[str, str] | None = None
    distractors: int = DISTRACTORS
    preset: Mapping[str, Any] | None = None
    run: Path | None = None


def evaluate_sets(
    pictures: str,
    extractor: Extractor,
    out: Path,
    options: SetOptions,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
    scorer: Scorer | None = None,
    ranks: Ranks = ALONE,
) -> str:
    """Measure and write report.json, report.md, report.html and contact sheets; returns the table. A scorer
    also measures how well pictures go with their prompts.

    Raises ConfigError or DataError, in one line, before anything is written.
    """
    sources: dict[str, str | PictureSet] = {"pictures": pictures, "reference": options.reference}
    if options.training is not None:
        sources["training"] = options.training
    opened = {
        name: open_pictures(source) if isinstance(source, str) else source for name, source in sources.items()
    }
    check_counts({name: len(found) for name, found in opened.items()}, allow_small=options.allow_small)
    networks = _networks(opened["pictures"], options)
    refuse_training_networks(extractor.name, extractor, networks or {})
    if scorer is not None:
        refuse_training_networks(scorer.name, scorer, networks or {})
    members: dict[str, Member] = {}
    for name, pictured in opened.items():

        def told(done: int, total: int, name: str = name) -> None:
            progress(name, done, total)

        members[name] = Member(
            pictured, *cached_features(pictured, extractor, options.side, options.cache, told, ranks)
        )
    sets = {name: member.found for name, member in members.items()}
    check_sets(sets, side=options.side, allow_small=options.allow_small)
    aligned = _alignment(members, scorer, options, progress, ranks) if scorer is not None else None
    if not ranks.is_main:
        return ""
    comparison = compare(sets["pictures"], sets["reference"], sets.get("training"))
    document = {**_document(members, extractor, options, comparison), "training_networks": networks}
    if aligned is not None:
        document["alignment"] = aligned
    if options.preset is not None:
        document["preset"] = dict(options.preset)
    table = result_table(document)
    sheets = set_sheets(members, comparison, seed=options.seed, side=options.side, scorer=scorer)
    for name, (_, sheet) in sheets.items():
        save_png(sheet, out / f"{name}.png")
    curves = charts(options.run) if options.run else ""
    title = f"{pictures} against {opened['reference'].source}"
    atomic_write_text(out / "report.html", html_report(title, document, sheets, curves))
    atomic_write_text(out / "report.md", markdown_report(title, document, table, sheets))
    atomic_write_text(out / "report.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return table


def _networks(pictures: PictureSet, options: SetOptions) -> dict[str, str] | None:
    """What is known of the networks that the pictures' model was trained with; None: nothing."""
    told = [
        networks
        for networks in (pictures.training_networks(), options.training_networks)
        if networks is not None
    ]
    return {role: digest for networks in told for role, digest in networks.items()} if told else None


def _document(
    members: dict[str, Member], extractor: Extractor, options: SetOptions, comparison: Comparison
) -> dict[str, Any]:
    found, copied = comparison.frechet, comparison.copies
    results: dict[str, Any] = {
        "frechet": {
            **asdict(found),
            "condition": found.condition if math.isfinite(found.condition) else None,
        },
        "kid": asdict(comparison.kernel),
        **asdict(comparison.manifold),
        "diversity": asdict(comparison.diversity) if comparison.diversity else None,
    }
    if comparison.without_diversity:
        results["without_diversity"] = comparison.without_diversity
    if copied is not None:
        results["copies"] = {
            "closer": copied.closer,
            "close": asdict(copied.close),
            "close_share_of_held_out": CLOSE,
            "closest": _closest(members, comparison),
        }
    return {
        "protocol": PROTOCOL,
        "format": FORMAT,
        "version": impasto.__version__,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "pillow": PIL.__version__,
        },
        "extractor": {
            "name": extractor.name,
            "sha256": extractor.fingerprint,
            "networks": dict(extractor.networks),
            "distance": extractor.distance,
            **extractor.settings,
        },
        "preparation": preparation(options.side),
        "neighbours": NEIGHBOURS,
        "resamples": RESAMPLES,
        "seed": options.seed,
        "allow_small": options.allow_small,
        "sets": {name: _told(member) for name, member in members.items()},
        "results": results,
    }


def _alignment(
    members: dict[str, Member],
    scorer: Scorer,
    options: SetOptions,
    progress: Callable[[str, int, int], None],
    ranks: Ranks,
) -> dict[str, Any] | None:
    """Of the pictures that carry a prompt, and of the reference where it does: what real pictures reach."""
    sets = {}
    for name in ("pictures", "reference"):

        def told(done: int, total: int, name: str = name) -> None:
            progress(f"{name}, alignment", done, total)

        found, _ = cached_features(members[name].pictures, scorer, options.side, options.cache, told, ranks)
        rows = [row for row, prompt in enumerate(found.prompts) if prompt is not None]
        if rows:
            sets[name] = found.features[rows], [str(found.prompts[row]) for row in rows]
    if "pictures" not in sets:
        raise ConfigError(
            "--scorer needs pictures that carry their prompts, as `impasto generate` writes them"
        )
    if not ranks.is_main:
        return None
    return alignment_results(scorer, sets, distractors=options.distractors, seed=options.seed)


def _told(member: Member) -> dict[str, Any]:
    found = member.found
    return {
        "source": member.pictures.source,
        "count": len(found.names),
        "size": found.size,
        "enlarged": found.enlarged,
        "with_prompts": sum(prompt is not None for prompt in found.prompts),
        "skipped": {reason: len(names) for reason, names in found.skipped.items()},
        "skipped_files": found.skipped,
        "content_sha256": found.content,
        "features_from_cache": member.from_cache,
    }


def _closest(members: dict[str, Member], comparison: Comparison) -> list[dict[str, Any]]:
    assert comparison.copies is not None
    pairs = zip(
        *(getattr(comparison.copies, name) for name in ("order", "neighbour", "distance")), strict=True
    )
    return [
        {
            "picture": members["pictures"].found.names[int(row)],
            "training": members["training"].found.names[int(other)],
            "distance": float(distance),
        }
        for (row, other, distance), _ in zip(pairs, range(SHOWN), strict=False)
    ]
