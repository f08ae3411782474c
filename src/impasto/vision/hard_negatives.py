"""Captions that are wrong in one fact: two colours exchanged, or one colour, shape or direction changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations

import numpy as np

from impasto.data.scenes import COLOURS, HELD_OUT_PAIRS, SHAPES, Relation, Requirement, parse_prompt, phrase
from impasto.data.scenes.lexicon import is_chinese
from impasto.data.scenes.world import CONTAINERS

DIRECTIONS = ("left of", "above")  # as requirements store them: the others are their opposites


def hard_negative(caption: str, kind: str, seed: int, *, split: str = "train") -> tuple[str, str] | None:
    """(the same facts, the same facts but one), both said anew from one stream of random numbers, so that
    neither is told by its wording; or None where the caption has no such fact.

    kind: one of KINDS. split "train": no held-out combination of colour and shape appears, or the wrong
    caption would be told by it. The wrong one is false of every scene that the caption is true of. Raises
    ValueError for an unknown kind, or a text that is no caption of a scene.
    """
    if kind not in KINDS:
        raise ValueError(f"no kind of hard negative called '{kind}': choose from {', '.join(KINDS)}")
    requirement = parse_prompt(caption)
    options = [changed for changed in KINDS[kind](requirement) if _can_be_said(changed, split)]
    if not options:
        return None
    changed = options[int(np.random.default_rng((seed, 1)).integers(len(options)))]
    language = "zh" if is_chinese(caption) else "en"
    true, false = (phrase(r, np.random.default_rng((seed, 2)), language) for r in (requirement, changed))
    return true, false


def any_hard_negative(caption: str, seed: int, *, split: str = "train") -> str | None:
    """A wrong caption of a kind drawn among those there are, by WEIGHTS; None where there is none. ValueError
    as for `hard_negative`."""
    shares = np.array([WEIGHTS[kind] for kind in KINDS])
    rng = np.random.default_rng((seed, 0))
    order = rng.choice(list(KINDS), size=len(KINDS), replace=False, p=shares / shares.sum()).tolist()
    pairs = (hard_negative(caption, kind, seed, split=split) for kind in order)
    return next((pair[1] for pair in pairs if pair is not None), None)


def _swapped(requirement: Requirement) -> Iterator[Requirement]:
    """Two objects of different colours and shapes with their colours exchanged. (Of one shape, they might be
    the same two objects again.)"""
    for i, j in combinations(range(len(requirement.objects)), 2):
        one, other = requirement.objects[i], requirement.objects[j]
        if one.colour and other.colour and one.colour != other.colour and one.shape != other.shape:
            yield _with(_with(requirement, i, colour=other.colour), j, colour=one.colour)


def _recoloured(requirement: Requirement) -> Iterator[Requirement]:
    """One object in a colour that no object has."""
    used = {item.colour for item in requirement.objects}
    for index, item in enumerate(requirement.objects):
        for colour in COLOURS if item.colour is not None else ():
            if colour not in used:
                yield _with(requirement, index, colour=colour)


def _reshaped(requirement: Requirement) -> Iterator[Requirement]:
    """One object in a shape that no object has; what holds another stays a shape that can."""
    used = {item.shape for item in requirement.objects}
    holding = {relation.object for relation in requirement.relations if relation.kind == "inside"}
    for index, item in enumerate(requirement.objects):
        for shape in CONTAINERS if index in holding else SHAPES:
            if item.shape is not None and shape not in used:
                yield _with(requirement, index, shape=shape)


def _redirected(requirement: Requirement) -> Iterator[Requirement]:
    """One direction turned round, or by a quarter either way."""
    relations = requirement.relations
    for index, item in enumerate(relations):
        for kind in DIRECTIONS if item.kind in DIRECTIONS else ():
            for relation in (
                Relation(kind, item.subject, item.object),
                Relation(kind, item.object, item.subject),
            ):
                if relation != item:
                    changed = (*relations[:index], relation, *relations[index + 1 :])
                    yield replace(requirement, relations=changed)


KINDS: dict[str, Callable[[Requirement], Iterator[Requirement]]] = {
    "swap": _swapped,
    "colour": _recoloured,
    "shape": _reshaped,
    "direction": _redirected,
}

WEIGHTS = {"swap": 4, "direction": 2, "colour": 1, "shape": 1}  # ours: the first two are learned last


def _with(requirement: Requirement, index: int, **values: str) -> Requirement:
    parts = list(requirement.objects)
    parts[index] = replace(parts[index], **values)  # type: ignore[arg-type]
    return replace(requirement, objects=tuple(parts))


def _can_be_said(requirement: Requirement, split: str) -> bool:
    """As in scenes, no two kinds of object share colour and shape; in training none is held out."""
    pairs = {(item.colour, item.shape) for item in requirement.objects}
    return len(pairs) == len(requirement.objects) and not (split == "train" and pairs & HELD_OUT_PAIRS)
