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
from impasto.evaluation.compbench_files import (
    Rows,
    depth_of,
    detections_of,
    read_objects,
    read_rows,
    row_of,
)
from impasto.metrics import compbench_plus as plus
from impasto.metrics.alignment import Scorer
from impasto.metrics.caption_lists import read_captions
from impasto.metrics.compbench import (
    OFFICIAL_DETECTOR,
    SPATIAL_COMMIT,
    VQA_COMMIT,
    Variant,
    attribute_score,
    complex_score,
    kind_of_prompt,
    questions,
    spatial_score,
)
from impasto.metrics.features import refuse_training_networks
from impasto.metrics.intervals import bootstrap, prompt_means
from impasto.metrics.parses import Parser
from impasto.metrics.picture_sets import prepare
from impasto.metrics.picture_sources import PictureFolder
from impasto.pictures import from_images
from impasto.runtime.files import atomic_write_text
from impasto.vision.blip import BlipAnswers

ATTRIBUTES = ("color", "shape", "texture")
PARTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(ATTRIBUTES, ("vqa",)),
    "spatial": ("spatial",),
    "3d_spatial": ("depth",),
    "numeracy": ("numeracy",),
    "non_spatial": ("clip",),
    "complex": ("vqa", "spatial", "clip"),
}
NEEDS = {
    "vqa": ("vqa",),
    "spatial": ("detections", "detector"),
    "depth": ("detections", "detector", "depth", "depth_model"),
    "numeracy": ("detections", "detector", "objects"),
    "clip": (),
}
# {part: (what has to be supplied for the evaluator's own number, its commit)}
OFFICIAL = {
    "spatial": ({"detector": OFFICIAL_DETECTOR}, SPATIAL_COMMIT),
    "depth": ({"detector": plus.OFFICIAL_DETECTOR, "depth_model": plus.OFFICIAL_DEPTH}, plus.DEPTH_COMMIT),
    "numeracy": ({"detector": plus.OFFICIAL_DETECTOR}, plus.NUMERACY_COMMIT),
}


@dataclass(frozen=True, kw_only=True)
class CompBenchOptions:
    """Files of JSON lines: `parses` {"prompt", "chunks": noun chunks, "objects": two names or null,
    "without_adjectives": the prompt without them}; `detections` {"picture": file name, "objects": [{"label",
    "score", "box"}]}, of the detector `detector`. `spacy`: a pipeline that parses, in place of `parses`.
    `vqa`: directory of BLIP. `depth`: folder of maps, of the network `depth_model`. `objects`: the list of
    singulars and plurals. `spatial_prompts`, `action_prompts`: the lists of the category complex.
    ConfigError where the category needs one that is not given, or `parses` and `spacy` both are."""

    category: Literal[
        "color", "shape", "texture", "spatial", "3d_spatial", "numeracy", "non_spatial", "complex"
    ]
    variant: Variant = "official"
    parses: str = ""
    spacy: str = ""
    depth: str = ""
    depth_model: str = ""
    objects: str = ""
    vqa: str = ""
    detections: str = ""
    detector: str = ""
    spatial_prompts: str = ""
    action_prompts: str = ""

    def __post_init__(self) -> None:
        if self.parses and self.spacy:
            raise ConfigError("give parses= or spacy=, not both")
        parsed = self.category in ("non_spatial", "numeracy") or self.spacy
        needed = [] if parsed else ["parses"]
        for part in PARTS[self.category]:
            needed += NEEDS[part]
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
    given = _Given(options)
    scored: list[Rows] = []
    for index, name in enumerate(source.names):
        progress("pictures", index, len(source))
        stored = source.read(index)
        if stored.prompt is None:
            raise ConfigError(
                f"{folder / name} does not say its prompt: in its metadata, or in a .txt beside it"
            )
        image = from_images([prepare(stored.data, name, None)[0]])
        parse = given.parse(stored.prompt)
        found: Rows = {"picture": name, "prompt": stored.prompt, **given.by_boxes(name, stored.prompt, parse)}
        if blip is not None:
            asked = questions(parse.get("chunks", []), options.variant)
            found["vqa"] = attribute_score(blip.answer(image, asked), options.variant)
        if clip is not None:
            text = parse.get("without_adjectives", stored.prompt)
            cosine = F.cosine_similarity(clip.features(image), clip.embed_prompts([text]))
            found["clip"] = float(cosine)
        found["score"] = _total(found, options, given.lists)
        scored.append(found)
    return _report(folder, out, options, scored, given, {"blip": blip, "clip": clip})


class _Given:
    """What the user supplied, read once."""

    def __init__(self, options: CompBenchOptions) -> None:
        self.options = options
        self.parser = Parser(options.spacy) if options.spacy else None
        self.parses = read_rows(options.parses, "prompt") if options.parses else {}
        self.detections = read_rows(options.detections, "picture") if options.detections else {}
        self.objects = read_objects(options.objects) if options.objects else {}
        files = (options.spatial_prompts, options.action_prompts)
        self.lists = [read_captions(Path(name)).captions for name in files if name]

    def parse(self, prompt: str) -> Rows:
        if self.parser is not None:
            return self.parser(prompt)
        return row_of(self.parses, prompt, self.options.parses) if self.options.parses else {}

    def by_boxes(self, picture: str, prompt: str, parse: Rows) -> Rows:
        """The scores that rest on detections, by part."""
        options = self.options
        found: Rows = {}
        parts = [part for part in PARTS[options.category] if part in OFFICIAL]
        if not parts:
            return {}
        row = row_of(self.detections, picture, options.detections)
        boxes, objects = detections_of(row, options.detections), parse.get("objects")
        pair = (objects[0], objects[1]) if objects else None
        if "spatial" in parts:
            found["spatial"] = spatial_score(prompt, pair, boxes, options.variant)
        if "depth" in parts:
            depth = depth_of(Path(options.depth), picture)
            found["depth"] = plus.depth_score(prompt, pair, boxes, depth, options.variant)
        if "numeracy" in parts:
            found["numeracy"] = plus.numeracy_score(plus.counted_objects(prompt, self.objects), boxes)
        return found


def _total(found: Rows, options: CompBenchOptions, lists: list[tuple[str, ...]]) -> float | None:
    if options.category != "complex":
        return found[PARTS[options.category][0]]
    if found["vqa"] is None:
        return None
    kind = kind_of_prompt(found["prompt"], *lists)
    return complex_score(kind, found["vqa"], found["spatial"], found["clip"])


def _report(
    folder: Path,
    out: Path,
    options: CompBenchOptions,
    scored: list[Rows],
    given: _Given,
    networks: Mapping[str, Any],
) -> str:
    judged = [row for row in scored if row["score"] is not None]
    if not judged:
        raise ConfigError(f"no prompt of {folder} asks for anything that {options.category} judges")
    estimate = bootstrap(prompt_means([row["score"] for row in judged], [row["prompt"] for row in judged]))
    prompts = len({row["prompt"] for row in judged})
    document = {
        "protocol": "compbench",
        "version": impasto.__version__,
        "source": source_of(options),
        "options": to_dict(options),
        "parser": given.parser.told if given.parser is not None else None,
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
    for part in set(PARTS[options.category]) & OFFICIAL.keys():
        networks, commit = OFFICIAL[part]
        given = {name: getattr(options, name) for name in networks}
        if given != networks:
            return f"substitute:{'+'.join(given.values())}, {options.variant} formulas"
        if options.variant == "official":
            return f"official@{commit[:7]}"
    if options.variant != "official":
        return f"{options.variant} formulas"
    return f"formula of {VQA_COMMIT[:7]}, networks through transformers"
