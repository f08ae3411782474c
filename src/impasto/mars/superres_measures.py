"""What the comparison of stage III's heads measures of a finished run. Every run is asked the same: fresh
scenes of the evaluation's own stream."""

import time
from collections import defaultdict
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from impasto.mars.ablation_measures import Reader
from impasto.mars.directories import load_tokenizer
from impasto.mars.pipeline import MarsPipeline
from impasto.mars.sampling import SamplingSettings
from impasto.mars.superres import block_logits, super_resolution
from impasto.mars.superres_recording import EnlargedPictures
from impasto.mars.training_config import StageRun
from impasto.metrics.intervals import bootstrap
from impasto.metrics.scenes import EVALUATION_STREAM, judge
from impasto.pictures import to_images

SIDES = {"train": "seen", "heldout": "heldout"}  # split: our name
BATCH = 32
TIMED = 8  # pictures, one at a time
COOL = SamplingSettings(temperature=0.7)  # ours: what the sheet is drawn with, and measured beside 1


@torch.no_grad()
def measure(run: StageRun, folder: Path, validated: int, drawn: int) -> dict[str, Any]:
    """JSON values of a finished run's folder (ours): likelihoods of `validated` scenes a split given their
    true low codes, with intervals over pictures and by place in the block; the oracle's scores and the mean
    squared error of the first `drawn` of them, drawn from true low codes at temperature 1 and cooler; what
    the oracle says of the true low and high codes' own pictures; steps and time of a picture."""
    reader = enlarging_reader(MarsPipeline.from_pretrained(folder / "model"))
    found: dict[str, Any] = defaultdict(dict)
    for split, side in SIDES.items():
        pictures = fresh_pictures(run, split, validated, drawn)
        each = _likelihoods(reader, run, pictures)
        of_pictures = [round(value, 5) for value in each.mean((1, 2)).tolist()]
        found["nll_of_pictures"][side] = of_pictures
        found["image_token_nll"][side] = asdict(bootstrap(of_pictures))
        found["nll_by_place"][side] = each.mean((0, 1)).tolist()
        for suffix, settings in {"": None, "_cool": COOL}.items():
            images = pictures.drawn(reader, drawn, settings=settings)
            found[f"oracle{suffix}"][side] = _judged(images, pictures)
            found[f"error{suffix}"][side] = float((images - pictures.pictures[:drawn]).square().mean())
        own = {"low": pictures.shown_low(drawn), "high": pictures.shown_high(drawn)}
        found["oracle_of_codes"][side] = {name: _judged(shown, pictures) for name, shown in own.items()}
    found["steps"] = run.model.image_length(run.level) // _tokens_per_step(run)
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(TIMED):
        pictures.drawn(reader, 1)
    found["wall_seconds"] = (time.perf_counter() - wall) / TIMED
    found["processor_seconds"] = (time.process_time() - processor) / TIMED
    return dict(found)


def enlarging_reader(pipe: MarsPipeline) -> Reader:
    """Stage III of a whole model, with its text tokeniser. ValueError for a model without one."""
    if pipe.parts.enlarging is None:
        raise ValueError(f"'{pipe.name}' has no stage III")
    return Reader(pipe.parts.enlarging, pipe.prompts)


def fresh_pictures(run: StageRun, split: str, count: int, drawn: int) -> EnlargedPictures:
    """`count` scenes of a split that no run trains on, the first `drawn` of them with their pixels."""
    asked = replace(run.training, seed=EVALUATION_STREAM, validation_pictures=count, sample_prompts=drawn)
    return EnlargedPictures(replace(run, training=asked), load_tokenizer(run.tokenizer), split)


def _tokens_per_step(run: StageRun) -> int:
    assert run.model.super_resolution is not None
    return run.model.super_resolution.tokens_per_step


def _judged(images: Tensor, pictures: EnlargedPictures) -> dict[str, Any]:
    score = judge(to_images(images), pictures.captions[: len(images)])
    return {**asdict(score.overall), "perfect": score.perfect}


def _likelihoods(reader: Reader, run: StageRun, pictures: EnlargedPictures) -> Tensor:
    """[pictures, S, K] negative log-likelihoods in nats."""
    parts = []
    for start in range(0, len(pictures.high), BATCH):
        part = slice(start, start + BATCH)
        ids = [reader.prompts.encode(text)[: run.caption_length] for text in pictures.captions[part]]
        batch = super_resolution(run.model, ids, pictures.low[part], pictures.high[part])
        logits, codes = block_logits(reader.model, batch)
        found = -logits.log_softmax(-1).gather(-1, codes[..., None])[..., 0]
        parts.append(found.unflatten(0, (len(ids), -1)))
    return torch.cat(parts)
