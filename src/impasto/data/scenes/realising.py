"""The picture of a perfect painter: a scene that shows exactly what a prompt asks for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from impasto.data.scenes.parsing import parse_prompt
from impasto.data.scenes.requirement import Described, Relation, Requirement
from impasto.data.scenes.sampling import build
from impasto.data.scenes.world import (
    BACKGROUNDS,
    COLOURS,
    CONTAINERS,
    MAX_OBJECTS,
    SHAPES,
    SIZES,
    Scene,
    SceneObject,
    clear_direction,
)

_TRIES = 2000


def scene_for(prompt: str, rng: np.random.Generator) -> Scene:
    """A scene that shows what a prompt says; what the prompt leaves open is chosen at random."""
    return realise(parse_prompt(prompt), rng)


def realise(requirement: Requirement, rng: np.random.Generator) -> Scene:
    """A scene that satisfies the requirement, its relations with a clear margin."""
    if not 1 <= requirement.total <= MAX_OBJECTS:
        raise ValueError(f"{requirement.total} objects asked for: a scene holds 1 to {MAX_OBJECTS}")
    joined = [relation for relation in requirement.relations if relation.kind in ("touching", "inside")]
    if len(joined) > 1:
        raise ValueError("more than one contact or containment asked for: a scene can hold only one")
    order = _order(requirement, joined[0] if joined else None)
    for _ in range(_TRIES):
        blanks = _filled(requirement, order, joined[0].kind if joined else None, rng)
        background = requirement.background or _choice(rng, tuple(BACKGROUNDS))
        if len({blank.kind for blank in blanks}) < len(order):
            continue
        expanded = [
            blank for index, blank in zip(order, blanks, strict=True) for _ in _members(requirement, index)
        ]
        scene = build(rng, expanded, joined[0].kind if joined else None, background, "complex")
        if scene is not None and all(
            _shows(scene, relation, requirement, order) for relation in requirement.relations
        ):
            return scene
    raise ValueError(
        "the prompt's objects do not fit into one scene: ask for fewer, smaller or differently placed ones"
    )


def _choice(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.random() * len(options))]


def _members(requirement: Requirement, index: int) -> range:
    return range(requirement.objects[index].count)


def _order(requirement: Requirement, joined: Relation | None) -> list[int]:
    """Described objects in placing order: a container and its content, or a touching pair, come first."""
    order = list(range(len(requirement.objects)))
    if joined is None:
        return order
    first = [joined.object, joined.subject]
    if any(requirement.objects[index].count != 1 for index in first):
        raise ValueError(f"{joined.kind!r} asked for several objects at once: ask it of single objects")
    return first + [index for index in order if index not in first]


def _filled(
    requirement: Requirement, order: list[int], joined: str | None, rng: np.random.Generator
) -> list[SceneObject]:
    """Choose what the requirement leaves open, one blank object for each described one, in placing order."""
    crowded = requirement.total > 2 or (requirement.total == 2 and joined is not None)
    blanks = []
    for position, index in enumerate(order):
        described: Described = requirement.objects[index]
        holds_content = joined == "inside" and position == 0
        size = described.size or (
            "large" if holds_content else "small" if crowded else _choice(rng, tuple(SIZES))
        )
        if described.size is None and described.texture not in (None, "solid") and size == "small":
            size = "medium"
        shape = described.shape or _choice(rng, CONTAINERS if holds_content else SHAPES)
        if holds_content and shape not in CONTAINERS:
            raise ValueError(f"a {shape} cannot hold another object: use a {', a '.join(CONTAINERS)}")
        colour = described.colour or _choice(rng, tuple(COLOURS))
        blanks.append(
            SceneObject(colour, shape, described.texture or "solid", size, 0.0, 0.0, 0.0, (0, 0, 0))
        )
    return blanks


def _shows(scene: Scene, relation: Relation, requirement: Requirement, order: list[int]) -> bool:
    """Whether a relation holds, with a clear margin, between all objects of the two kinds it names."""
    if relation.kind in ("touching", "inside"):
        return True  # placed so
    place_of = [position for index, position in _positions(requirement, order) if index == relation.subject]
    other_of = [position for index, position in _positions(requirement, order) if index == relation.object]
    return all(
        clear_direction(
            scene.objects[one].x - scene.objects[two].x, scene.objects[one].y - scene.objects[two].y
        )
        == relation.kind
        for one in place_of
        for two in other_of
    )


def _positions(requirement: Requirement, order: list[int]) -> list[tuple[int, int]]:
    """(described object, position in the scene) for every object of the scene."""
    expanded = [index for index in order for _ in _members(requirement, index)]
    return [(index, position) for position, index in enumerate(expanded)]
