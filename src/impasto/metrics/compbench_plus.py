"""What T2I-CompBench++ (arXiv 2307.06350, version 3) adds: how many of each object, and what is in front of
what, by the evaluator's formulas. Detections and depth maps come from outside."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from impasto.metrics.compbench import PEOPLE, Detection, Variant, overlap

# The files of the evaluator that "official" follows, each at its commit, and the networks it runs.
NUMERACY_COMMIT = "01835fe8f42b8f6fa29eefd045a59f2bbfd21a5f"  # UniDet_eval/numeracy_eval.py
DEPTH_COMMIT = "ed5367e2d0c530c4da206f8b2eec3cc74c777f92"  # UniDet_eval/3D_spatial_eval.py
OFFICIAL_DETECTOR, OFFICIAL_DEPTH = "unidet-r50", "dpt-hybrid"

NUMBERS = {
    "a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8,
}  # fmt: skip
CALLED = {
    **dict.fromkeys(PEOPLE, "person"),
    "ship": "boat", "telivision": "tv", "goldfish": "fish", "painting": "picture",
}  # fmt: skip
SAME_THING = 0.9  # of the shared area, of both or of either box: then two boxes of a name count once
PLACES = ("in front of", "behind", "hidden")  # the first that the prompt contains
TOUCHING = 0.5  # intersection over union from which one is fully in front of the other
FRAME = 479  # pixels of the shorter side, to which boxes belong


def counted_objects(prompt: str, names: Mapping[str, str]) -> list[tuple[str, int]]:
    """(object, how many) for every number word ("a" to "eight") before an object of two words, or of one.
    names {plural: singular}: the benchmark's list. A plural counts as its number says, a singular as one."""
    words = re.findall(r"\w+|[^\w\s]", prompt)
    singulars, found = set(names.values()), []
    for place, word in enumerate(words):
        if word not in NUMBERS:
            continue
        for length in (2, 1):
            name = " ".join(words[place + 1 : place + 1 + length])
            if name in names and not (name in singulars and NUMBERS[word] == 1):
                found.append((names[name], NUMBERS[word]))
            elif name in singulars:
                found.append((name, 1))
            else:
                continue
            break
    return found


def numeracy_score(wanted: Sequence[tuple[str, int]], detections: Sequence[Detection]) -> float | None:
    """Of each object half for being there and half for the right number; the mean over objects, None where
    the prompt counts none. Boxes of a name that nearly coincide count once; a label that contains the name
    counts as it where no label is the name."""
    if not wanted:
        return None
    kept: list[Detection] = []
    for one in detections:
        if not any(one.label == other.label and _same(one, other) for other in kept):
            kept.append(one)
    labels, score = [one.label for one in kept], 0.0
    for asked, number in wanted:
        name = CALLED.get(asked, asked)
        if name not in labels:
            labels = [name if name in label else label for label in labels]
        if name in labels:
            score += 0.5 + 0.5 * (labels.count(name) == number)
    return score / len(wanted)


def depth_score(
    prompt: str,
    objects: tuple[str, str] | None,
    detections: Sequence[Detection],
    depth: np.ndarray,
    variant: Variant = "official",
) -> float:
    """A quarter of the score of each object found, by a label that contains its name, and half for one being
    in front of the other. depth [H, W]: larger is nearer, of the whole picture at any size.

    Among several boxes the evaluator takes the last one before both objects were met; it reads the map with
    its axes exchanged. "fixed" takes the first, and the map as it is."""
    if objects is None:
        return 0.0
    names = ["person" if name in PEOPLE else name for name in objects]
    places = [[n for n, one in enumerate(detections) if name in one.label] for name in names]
    if all(places) and variant != "fixed":
        met = max(found[0] for found in places)
        places = [[n for n in found if n <= met][-1:] for found in places]
    boxes = [detections[found[0]] for found in places if found]
    score = sum(0.25 * one.score for one in boxes)
    if len(boxes) == 2:
        score += in_depth(prompt, boxes[0], boxes[1], depth, variant) / 2
    return score


def in_depth(prompt: str, first: Detection, second: Detection, depth: np.ndarray, variant: Variant) -> float:
    """How well the depths of two boxes are as the prompt says, in [0, 1]: nothing unless the boxes overlap
    and the nearer one is the right one. depth [H, W], larger is nearer, as `depth_of` reads it."""
    place = next((words for words in PLACES if words in prompt), None)
    scale = min(depth.shape) / FRAME
    nearer = _mean(depth, first, scale, variant) - _mean(depth, second, scale, variant)
    if place is None or not (nearer > 0 if place == PLACES[0] else nearer < 0):
        return 0.0
    shared = overlap(first.box, second.box)
    if shared == TOUCHING and variant != "fixed":
        return 0.0  # neither of the evaluator's branches
    return min(1.0, shared / TOUCHING)


def _mean(depth: np.ndarray, one: Detection, scale: float, variant: Variant) -> float:
    """NaN for a box without area."""
    left, top, right, bottom = (int(value * scale) for value in one.box)
    rows, columns = slice(top, bottom), slice(left, right)
    part = depth[rows, columns] if variant == "fixed" else depth[columns, rows]
    return float(part.mean()) if part.size else float("nan")


def _same(one: Detection, other: Detection) -> bool:
    """Areas count the last pixel of each side, as the evaluator's do."""
    boxes = [(left, top, right + 1, bottom + 1) for left, top, right, bottom in (one.box, other.box)]
    (first, area), (second, other_area) = ((box, (box[2] - box[0]) * (box[3] - box[1])) for box in boxes)
    union = overlap(first, second)
    shared = union * (area + other_area) / (1 + union)
    return max(union, shared / area, shared / other_area) > SAME_THING
