"""`impasto evaluate PICTURES --protocol compbench`: pictures of T2I-CompBench's prompts, scored by its
formulas with networks, detections and parses that the user supplies."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch.nn.functional as F

import impasto
from impasto.config import ConfigError, to_dict
from impasto.metrics.alignment import Scorer
from impasto.metrics.caption_lists import read_captions
from impasto.metrics.compbench import (
    OFFICIAL_DETECTOR,
    SPATIAL_COMMIT,
    VQA_COMMIT,
    Detection,
    Variant,
    attribute_score,
    complex_score,
    kind_of_prompt,
    questions,
    spatial_score,
)
from impasto.metrics.features import refuse_training_networks
from impasto.metrics.intervals import bootstrap, prompt_means
from impasto.metrics.picture_sets import prepare
from impasto.metrics.picture_sources import PictureFolder
from impasto.pictures import from_images
from impasto.runtime.files import atomic_write_text
from impasto.vision.blip import BlipAnswers

ATTRIBUTES = ("color", "shape", "texture")
PARTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(ATTRIBUTES, ("vqa",)),
    "spatial": ("spatial",),
    "non_spatial": ("clip",),
    "complex": ("vqa", "spatial", "clip"),
}
Rows = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class CompBenchOptions:
    """Files of JSON lines: `parses` {"prompt", "chunks": noun chunks, "objects": two names or null,
    "without_adjectives": the prompt without them}; `detections` {"picture": file name, "objects": [{"label",
    "score", "box"}]}, of the detector `detector`. `vqa`: directory of BLIP. `spatial_prompts`,
    `action_prompts`: the lists of the category complex."""

    category: Literal["color", "shape", "texture", "spatial", "non_spatial", "complex"]
    variant: Variant = "official"
    parses: str = ""
    vqa: str = ""
    detections: str = ""
    detector: str = ""
    spatial_prompts: str = ""
    action_prompts: str = ""

    def __post_init__(self) -> None:
        needed = ["parses"] if self.category != "non_spatial" else []
        for part in PARTS[self.category]:
            needed += {"vqa": ["vqa"], "spatial": ["detections", "detector"], "clip": []}[part]
        if self.category == "complex":
            needed += ["spatial_prompts", "action_prompts"]
        missing = next((name for name in needed if not getattr(self, name)), None)
        if missing is not None:
            raise ConfigError(f"category={self.category} needs --set {missing}=...")


def evaluate_compbench(
    folder: Path,
    out: Path,
    options: CompBenchOptions,
    *,
    clip: Scorer | None,
    device: str = "cpu",
    made_with: Mapping[str, str] | None = None,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> str:
    """Score every picture by the prompt that it says, write report.json and report.md; returns the line of
    the score. Raises ConfigError or ValueError, in one line."""
    parts = PARTS[options.category]
    if ("clip" in parts) != (clip is not None):
        needs = "needs --scorer clip:DIR" if clip is None else "takes no --scorer"
        raise ConfigError(f"category={options.category} {needs}")
    source = PictureFolder(folder)
    blip = BlipAnswers.from_directory(Path(options.vqa)).to(device) if "vqa" in parts else None
    used = {**(source.training_networks() or {}), **(made_with or {})}
    for name, network in (("BLIP", blip), ("CLIP", clip)):
        if network is not None:
            refuse_training_networks(name, network, used)
    parses = _read_rows(options.parses, "prompt") if options.parses else {}
    detections = _read_rows(options.detections, "picture") if options.detections else {}
    lists = [
        read_captions(Path(name)).captions
        for name in (options.spatial_prompts, options.action_prompts)
        if name
    ]
    scored: list[Rows] = []
    for index, name in enumerate(source.names):
        progress("pictures", index, len(source))
        stored = source.read(index)
        if stored.prompt is None:
            raise ConfigError(
                f"{folder / name} does not say its prompt: in its metadata, or in a .txt beside it"
            )
        image = from_images([prepare(stored.data, name, None)[0]])
        parse = _row(parses, stored.prompt, options.parses) if options.parses else {}
        found: Rows = {"picture": name, "prompt": stored.prompt}
        if blip is not None:
            asked = questions(parse.get("chunks", []), options.variant)
            found["vqa"] = attribute_score(blip.answer(image, asked), options.variant)
        if "spatial" in parts:
            objects = parse.get("objects")
            boxes = _detections(_row(detections, name, options.detections), options.detections)
            found["spatial"] = spatial_score(
                stored.prompt, tuple(objects) if objects else None, boxes, options.variant
            )
        if clip is not None:
            text = parse.get("without_adjectives", stored.prompt)
            cosine = F.cosine_similarity(clip.features(image), clip.embed_prompts([text]))
            found["clip"] = float(cosine)
        found["score"] = _total(found, options, lists)
        scored.append(found)
    return _report(folder, out, options, scored, {"blip": blip, "clip": clip})


def _total(found: Rows, options: CompBenchOptions, lists: list[tuple[str, ...]]) -> float | None:
    if options.category != "complex":
        return found[PARTS[options.category][0]]
    if found["vqa"] is None:
        return None
    kind = kind_of_prompt(found["prompt"], *lists)
    return complex_score(kind, found["vqa"], found["spatial"], found["clip"])


def _report(
    folder: Path, out: Path, options: CompBenchOptions, scored: list[Rows], networks: Mapping[str, Any]
) -> str:
    judged = [row for row in scored if row["score"] is not None]
    if not judged:
        raise ConfigError(f"no prompt of {folder} gives a question to ask")
    estimate = bootstrap(prompt_means([row["score"] for row in judged], [row["prompt"] for row in judged]))
    prompts = len({row["prompt"] for row in judged})
    document = {
        "protocol": "compbench",
        "version": impasto.__version__,
        "source": source_of(options),
        "options": to_dict(options),
        "networks": {
            name: {"sha256": network.fingerprint, "weights": dict(network.networks)}
            for name, network in networks.items()
            if network is not None
        },
        "score": asdict(estimate),
        "pictures": len(judged),
        "prompts": prompts,
        "nothing_to_judge": len(scored) - len(judged),
        "rows": scored,
    }
    line = (
        f"T2I-CompBench {options.category} ({document['source']}): {estimate} over {prompts:,} prompts, "
        f"{len(judged):,} pictures; {len(scored) - len(judged)} left out without anything to judge\n"
    )
    atomic_write_text(out / "report.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    atomic_write_text(out / "report.md", f"# {folder.name} on T2I-CompBench\n\n{line}")
    return line


def source_of(options: CompBenchOptions) -> str:
    """Whose number it is: the evaluator's own only with its detector's outputs and its formula."""
    if "spatial" in PARTS[options.category] and options.detector != OFFICIAL_DETECTOR:
        return f"substitute:{options.detector}, {options.variant} formulas"
    if options.variant != "official":
        return f"{options.variant} formulas"
    if "spatial" in PARTS[options.category]:
        return f"official@{SPATIAL_COMMIT[:7]}"
    return f"formula of {VQA_COMMIT[:7]}, networks through transformers"


def _read_rows(name: str, key: str) -> dict[str, Rows]:
    path = Path(name)
    if not path.is_file():
        raise ConfigError(f"{name}: no such file")
    rows = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            rows[str(row[key])] = row
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"{name}: line {number} is no JSON object with '{key}'") from None
    return rows


def _row(rows: Mapping[str, Rows], key: str, file: str) -> Rows:
    if key not in rows:
        raise ConfigError(f"{file} says nothing of '{key}'")
    return rows[key]


def _detections(row: Rows, file: str) -> list[Detection]:
    found = []
    try:
        for one in row["objects"]:
            left, top, right, bottom = map(float, one["box"])
            found.append(Detection(str(one["label"]), float(one["score"]), (left, top, right, bottom)))
    except (KeyError, TypeError, ValueError):
        picture = row["picture"]
        raise ConfigError(f"{file}: '{picture}' should list objects with label, score and box") from None
    return found
