"""`impasto evaluate MODEL`: a model in, a folder with a report on scenes out."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from PIL import Image
from rich.console import Console

import impasto
from impasto.data.scene_source import SceneOptions
from impasto.data.scenes import render
from impasto.evaluation.model_card import model_card
from impasto.evaluation.painters import options_of, painter_of, report_head
from impasto.evaluation.scene_sheets import scene_sheets, write_page
from impasto.evaluation.scene_tables import caption_table, frechet_line, scene_table
from impasto.metrics.alignment import DISTRACTORS, Scorer, alignment_results, alignment_table
from impasto.metrics.features import (
    picture_stats,
    refuse_training_networks,
    reporting_features,
)
from impasto.metrics.frechet import frechet_distance
from impasto.metrics.scene_captions import CaptionScore, judge_captions
from impasto.metrics.scenes import (
    CEILING,
    SEEN_SET,
    UNSEEN_SET,
    SceneReport,
    evaluate_scenes,
    scenes_of,
)
from impasto.pictures import save_png
from impasto.runtime.dist import Ranks
from impasto.runtime.files import atomic_write_text
from impasto.runtime.model_directory import is_model_directory
from impasto.runtime.report import run_of
from impasto.vision.efficientnet import ImageFeatures

MODEL, UNTRAINED = "model", "untrained"


def evaluate_model(
    name: str,
    out: Path,
    *,
    count: int = 500,
    seed: int = 0,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    settings: Sequence[str] = (),
    scorer: Scorer | None = None,
    distractors: int = DISTRACTORS,
    ranks: Ranks | None = None,
    drawing: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """Run the scenes protocol and write report.json, report.md and sheets; returns the table. `drawing`:
    options of the model's `generate`, for the untrained network too. Several ranks share the drawing and the
    describing; the main one writes."""
    ranks = ranks or Ranks()
    pipe = impasto.load(name).to(device, dtype)
    extractor = reporting_features(pipe.provenance)
    if scorer is not None:
        refuse_training_networks(scorer.name, scorer, pipe.provenance.get("training_networks", {}))
    blank = type(pipe).untrained(pipe.config, name=pipe.name).to(device, dtype)
    painters = {MODEL: painter_of(pipe, ranks, drawing), UNTRAINED: painter_of(blank, ranks, drawing)}
    options = options_of(pipe, settings)
    console = Console(stderr=True)
    with console.status("scoring") as status:
        report = evaluate_scenes(
            painters,
            options,
            resolution=drawing.get("size", pipe.config.resolution),
            count=count,
            seed=seed,
            progress=lambda text: status.update(f"scoring {text}"),
        )
    captions = _captions(pipe, report, options, ranks)
    frechet = _frechet(extractor, report)
    alignment = _alignment(scorer, report, options, distractors) if scorer is not None else None
    sheets = scene_sheets(report, painters)
    document = {
        **report_head("scenes", pipe, options, drawing, dtype),
        "count": count,
        "seed": seed,
        "scores": _plain(report.scores),
        "position": {group: report.position(group, MODEL) for group in report.scores},
        "captions": _plain(captions),
        "frechet": frechet,
        "alignment": alignment,
        "prompts": report.prompts,
    }
    table = f"{scene_table(report, MODEL)}\n{caption_table(captions)}{frechet_line(frechet)}"
    if alignment is not None:
        table += "\n" + alignment_table(alignment)
    if ranks.is_main:
        _write(out, pipe, options, document, table, sheets, name)
    return table


def _plain(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Tables of scores, ready for JSON."""
    return {name: {key: asdict(score) for key, score in rows.items()} for name, rows in scores.items()}


def _write(
    out: Path,
    pipe: Any,
    options: SceneOptions,
    document: dict[str, Any],
    table: str,
    sheets: dict[str, tuple[str, Image.Image]],
    name: str,
) -> None:
    atomic_write_text(out / "report.json", json.dumps(document, indent=2) + "\n")
    atomic_write_text(out / "report.md", f"# {pipe.name} on scenes\n\n{table}")
    for sheet_name, (_, sheet) in sheets.items():
        save_png(sheet, out / f"{sheet_name}.png")
    run = run_of(Path(name)) if is_model_directory(Path(name)) else None
    write_page(f"{pipe.name} on scenes", table, list(sheets.values()), run, out)
    atomic_write_text(out / "model-card.md", model_card(pipe, options, table))


def _alignment(
    scorer: Scorer, report: SceneReport, options: SceneOptions, distractors: int
) -> dict[str, Any]:
    """The model's pictures and real renders, for each set of prompts."""
    sets = {}
    for group, prompts in report.prompts.items():
        pictures = report.pictures[group]
        repeated = prompts * (len(pictures) // len(prompts))
        sets[f"{MODEL}, {group}"] = scorer.embed_pictures(pictures), repeated
        real = report.real(prompts, report.seed)
        sets[f"{CEILING}, {group}"] = scorer.embed_pictures(real), prompts
    return alignment_results(
        scorer, sets, distractors=distractors, seed=report.seed, options=options, resolution=report.resolution
    )


def _captions(
    pipe: Any, report: SceneReport, options: SceneOptions, ranks: Ranks
) -> dict[str, dict[str, CaptionScore]]:
    """What the model says of real renders, by set of prompts and language; empty if it cannot describe."""
    if not hasattr(pipe, "caption"):
        return {}

    def describe(pictures: Sequence[Image.Image], language: str) -> list[str]:
        def some(chosen: list[int]) -> list[str]:
            return pipe.caption([pictures[index] for index in chosen], language) if chosen else []

        return ranks.in_shares(len(pictures), some)

    found: dict[str, dict[str, CaptionScore]] = {}
    for name in (SEEN_SET, UNSEEN_SET):
        scenes = scenes_of(report.prompts[name], report.seed, options.lone_spread)
        pictures = [render(scene, size=report.resolution) for scene in scenes]
        found[name] = {
            language: judge_captions(describe, scenes, pictures, language)
            for language in sorted(set(options.languages))
        }
    return found


def _frechet(extractor: ImageFeatures, report: SceneReport) -> dict[str, Any]:
    """Distance between the model's pictures and real renders of the same prompts; beside it what two sets of
    real renders have between them at this number of pictures."""
    prompts = report.prompts["seen"]
    one, two = (picture_stats(extractor, report.real(prompts, report.seed + shift)) for shift in (1, 2))
    return {
        "extractor": extractor.name,
        "extractor_sha256": extractor.fingerprint,
        "side": extractor.side,
        "pictures": len(prompts),
        "model": frechet_distance(picture_stats(extractor, report.pictures["seen"]), one),
        "real_against_real": frechet_distance(two, one),
    }
