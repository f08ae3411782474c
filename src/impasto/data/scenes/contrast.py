"""Captions that are wrong by one fact: what a discriminator must tell from the true one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from impasto.data.scenes.reading import reading_of
from impasto.data.scenes.requirement import Relation, Requirement
from impasto.data.scenes.score import score_reading
from impasto.data.scenes.world import BACKGROUNDS, COLOURS, HELD_OUT_PAIRS, SHAPES, SIZES, TEXTURES, Scene

VALUES = {"colour": tuple(COLOURS), "shape": SHAPES, "texture": TEXTURES, "size": tuple(SIZES)}


def contrast(scene: Scene, requirement: Requirement, rng: np.random.Generator) -> Requirement | None:
    """The requirement with one fact changed such that the scene no longer meets it, each kind of change as
    likely: an attribute of one object, the background, attributes or places of two objects exchanged.

    Never names a held-out pair of colour and shape unless the true one does. None if no change is possible.
    """
    kinds = [
        [changed for changed in changes if _is_fair(changed, requirement)]
        for changes in _changes(requirement)
    ]
    reading = reading_of(scene)
    while kinds:
        changes = kinds[int(rng.integers(len(kinds)))]
        if not changes:
            kinds.remove(changes)
            continue
        changed = changes.pop(int(rng.integers(len(changes))))
        if score_reading(reading, changed).overall < 1:
            return changed
    return None


def _changes(requirement: Requirement) -> Iterator[list[Requirement]]:
    """All requirements one change away, by kind of change."""
    for name, values in VALUES.items():
        yield [
            _with_object(requirement, index, name, value)
            for index, item in enumerate(requirement.objects)
            if (stated := item.stated().get(name)) is not None
            for value in values
            if value != stated
        ]
    yield [
        replace(requirement, background=value)
        for value in BACKGROUNDS
        if requirement.background not in (None, value)
    ]
    for name in VALUES:
        yield list(_exchanges(requirement, name))
    yield [
        replace(
            requirement,
            relations=tuple(_turned(item) if item is chosen else item for item in requirement.relations),
        )
        for chosen in requirement.relations
        if chosen.kind != "touching"
    ]


def _exchanges(requirement: Requirement, name: str) -> Iterator[Requirement]:
    """Two objects trade their values of one attribute, as in "a red star and a blue ring" with the colours
    the other way round."""
    stated = [item.stated().get(name) for item in requirement.objects]
    for first, one in enumerate(stated):
        for second, other in enumerate(stated[:first]):
            if one is not None and other is not None and one != other:
                half = _with_object(requirement, first, name, other)
                yield _with_object(half, second, name, one)


def _turned(relation: Relation) -> Relation:
    return Relation(relation.kind, relation.object, relation.subject)


def _with_object(requirement: Requirement, index: int, name: str, value: str) -> Requirement:
    objects = list(requirement.objects)
    changes: dict[str, str] = {name: value}
    objects[index] = replace(objects[index], **changes)  # type: ignore[arg-type]
    return replace(requirement, objects=tuple(objects))


def _is_fair(changed: Requirement, requirement: Requirement) -> bool:
    """Whether no held-out pair comes in."""
    before = {(item.colour, item.shape) for item in requirement.objects}
    after = {(item.colour, item.shape) for item in changed.objects}
    return not (after - before) & HELD_OUT_PAIRS
