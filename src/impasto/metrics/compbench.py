"""The formulas of T2I-CompBench (Huang et al. 2023, arXiv 2307.06350), as its evaluator computes them and
with its faults mended. Networks, detections and parses come from outside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Variant = Literal["official", "old", "fixed"]
# The files of the evaluator (github Karine-Huang/T2I-CompBench) that "official" follows, each at its commit.
VQA_COMMIT = "bfe630051156481ad222fe24814b93565ba3405e"  # BLIPvqa_eval/BLIP_vqa.py
SPATIAL_COMMIT = "6d58bed832d1e1db639cf832c3318ef6197fa50e"  # UniDet_eval/2D_spatial_eval.py
OFFICIAL_DETECTOR = "unidet-rs200"

MOST_CHUNKS, OLD_CHUNKS = 8, 2  # 2 before 2023-12-02
LEFT_OUT = ("top", "the side", "the left", "the right")  # since 2024-01-28
# The evaluator takes the first of these that the prompt contains, in this order.
PLACES = (
    "on side of", "next to", "near", "on the left of", "on the right of", "on the bottom of", "on the top of",
    "on top of",
)  # fmt: skip
BESIDE = ("on side of", "next to", "near")
PEOPLE = ("girl", "boy", "man", "woman")  # the detector calls them all "person"
OVERLAP, REACH = 0.1, 150  # intersection over union; pixels where the shorter side is 479
LEAST = 0.5  # a lower spatial score counts as 0


@dataclass(frozen=True)
class Detection:
    """box: x_min, y_min, x_max, y_max in pixels of a picture whose shorter side is 479 (as UniDet's)."""

    label: str
    score: float
    box: tuple[float, float, float, float]


def questions(chunks: Sequence[str], variant: Variant = "official") -> list[str]:
    """What is asked of a picture, from the noun chunks of its prompt."""
    if variant == "old":
        return [f"{chunk}?" for chunk in chunks[:OLD_CHUNKS]]
    return [f"{chunk}?" for chunk in chunks if chunk not in LEFT_OUT][:MOST_CHUNKS]


def attribute_score(answers: Sequence[float], variant: Variant = "official") -> float | None:
    """Product of P(yes) / (P(yes) + P(no)) over the questions. Without any question the evaluator gives 1;
    "fixed" gives None: there was nothing to judge."""
    if not answers:
        return None if variant == "fixed" else 1.0
    return math.prod(answers)


def place_in(prompt: str) -> str | None:
    """The phrase of place that the evaluator finds in a prompt."""
    return next((place for place in PLACES if place in prompt), None)


def position_score(place: str | None, first: Detection, second: Detection, variant: Variant) -> float:
    """How well two boxes stand as the phrase says, in [0, 1]. In the evaluator "on top of" has no branch and
    scores 0; "fixed" takes it for "on the top of"."""
    right, down = (
        _centre(second.box, axis) - _centre(first.box, axis) for axis in (0, 1)
    )  # from the first to the second
    if place in BESIDE:
        if abs(right) < REACH or abs(down) < REACH:
            return 1.0
        return REACH / max(abs(right), abs(down))
    if place == "on top of" and variant == "fixed":
        place = "on the top of"
    wanted = {
        "on the left of": (right, down),
        "on the right of": (-right, down),
        "on the top of": (down, right),
        "on the bottom of": (-down, right),
    }.get(place or "")
    if wanted is None or wanted[0] <= abs(wanted[1]):
        return 0.0
    shared = overlap(first.box, second.box)
    return 1.0 if shared < OVERLAP else OVERLAP / shared


def spatial_score(
    prompt: str,
    objects: tuple[str, str] | None,
    detections: Sequence[Detection],
    variant: Variant = "official",
) -> float:
    """A quarter of the score of each object that was found, and half the score of their position; below 0.5
    it is 0. Of several boxes of a name the first counts, as the detector lists them. objects: the two names
    in the order of the prompt; None where a parser found no two."""
    if objects is None:
        return 0.0
    names = ["person" if name in PEOPLE else name for name in objects]
    found = [next((one for one in detections if one.label == name), None) for name in names]
    score = sum(0.25 * one.score for one in found if one is not None)
    first, second = found
    if first is not None and second is not None:
        score += position_score(place_in(prompt), first, second, variant) / 2
    return score if score >= LEAST else 0.0


def complex_score(
    kind: Literal["spatial", "action", "both"], attribute: float, spatial: float, clip: float
) -> float:
    """3-in-1: the mean of what a prompt asks for."""
    if kind == "spatial":
        return (attribute + spatial) / 2
    if kind == "action":
        return (attribute + clip) / 2
    return (attribute + spatial + clip) / 3


def kind_of_prompt(
    prompt: str, spatial: Sequence[str], action: Sequence[str]
) -> Literal["spatial", "action", "both"]:
    """By the lists of the benchmark, spatial first; prompts count to their first full stop, in lower case."""
    key = list_key(prompt)
    if key in {list_key(one) for one in spatial}:
        return "spatial"
    return "action" if key in {list_key(one) for one in action} else "both"


def list_key(prompt: str) -> str:
    """A prompt as T2I-CompBench's own lists are keyed: the first sentence in small letters."""
    return prompt.strip().split(".")[0].lower()


def _centre(box: tuple[float, float, float, float], axis: int) -> float:
    return (box[axis] + box[axis + 2]) / 2


def overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> float:
    """Intersection over union; 0 for boxes without area."""
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    shared = width * height
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - shared
    return shared / union if union > 0 else 0.0
