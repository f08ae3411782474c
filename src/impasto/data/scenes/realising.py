"""The picture of a perfect painter: a scene that shows exactly what a prompt asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from impasto.data.scenes.parsing import parse_prompt
from impasto.data.scenes.requirement import Relation, Requirement
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
    """A scene that shows what a prompt says; what the prompt leaves open is chosen at random. ValueError for
    a prompt that cannot be read, or as `realise`."""
    return realise(parse_prompt(prompt), rng)


def realise(requirement: Requirement, rng: np.random.Generator) -> Scene:
    """A scene that satisfies the requirement, its relations with a clear margin. ValueError for one that no
    scene can hold: too many objects, several contacts, no room."""
    if not 1 <= requirement.total <= MAX_OBJECTS:
        raise ValueError(f"{requirement.total} objects asked for: a scene holds 1 to {MAX_OBJECTS}")
    bonds = [relation for relation in requirement.relations if relation.kind in ("touching", "inside")]
    if len(bonds) > 1:
        raise ValueError("more than one contact or containment asked for: a scene can hold only one")
    order = _order(requirement, bonds[0] if bonds else None)
    joined = bonds[0].kind if bonds else None
    described_at = [index for index in order for _ in range(requirement.objects[index].count)]
    for _ in range(_TRIES):
        kinds = {index: _filled(requirement, index, joined, order, rng) for index in order}
        if len({kind.kind for kind in kinds.values()}) < len(kinds):
            continue
        background = requirement.background or _choice(rng, tuple(BACKGROUNDS))
        scene = build(rng, [kinds[index] for index in described_at], joined, background, "complex")
        if scene is not None and all(_shows(scene, item, described_at) for item in requirement.relations):
            return scene
    raise ValueError(
        "the objects do not fit into one scene: ask for fewer, smaller or differently placed ones"
    )


def gather_lone(scene: Scene, spread: float) -> Scene:
    """The scene with an object that is alone at `spread` of its distance from the middle; no caption says
    where such an object stands. Scenes of several objects as they are."""
    if len(scene.objects) != 1 or spread == 1:
        return scene
    (item,) = scene.objects
    moved = replace(item, x=0.5 + spread * (item.x - 0.5), y=0.5 + spread * (item.y - 0.5))
    return replace(scene, objects=(moved,))


def _choice(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.random() * len(options))]


def _order(requirement: Requirement, bond: Relation | None) -> list[int]:
    """Described objects in placing order: a container and its content, or a touching pair, come first."""
    order = list(range(len(requirement.objects)))
    if bond is None:
        return order
    first = [bond.object, bond.subject]
    if any(requirement.objects[index].count != 1 for index in first):
        raise ValueError(f"{bond.kind!r} asked for several objects at once: ask it of single objects")
    return first + [index for index in order if index not in first]


def _filled(
    requirement: Requirement, index: int, joined: str | None, order: list[int], rng: np.random.Generator
) -> SceneObject:
    """One described object with what the requirement leaves open chosen at random, not placed yet."""
    described = requirement.objects[index]
    holds_content = joined == "inside" and index == order[0]
    crowded = requirement.total > 2 or joined is not None
    shape = described.shape or _choice(rng, CONTAINERS if holds_content else SHAPES)
    if holds_content and shape not in CONTAINERS:
        raise ValueError(f"a {shape} cannot hold another object: use one of {', '.join(CONTAINERS)}")
    size = "large" if holds_content else "small" if crowded else _choice(rng, tuple(SIZES))
    if size == "small" and described.texture not in (None, "solid"):
        size = "medium"
    return SceneObject(
        described.colour or _choice(rng, tuple(COLOURS)),
        shape,
        described.texture or "solid",
        described.size or size,
        x=0.0,
        y=0.0,
        width=0.0,
        rgb=(0, 0, 0),
    )


def _shows(scene: Scene, relation: Relation, described_at: Sequence[int]) -> bool:
    """Whether a direction holds clearly between all objects of the two kinds."""
    if relation.kind in ("touching", "inside"):
        return True  # the placing saw to it
    subjects = [
        item for item, index in zip(scene.objects, described_at, strict=True) if index == relation.subject
    ]
    others = [
        item for item, index in zip(scene.objects, described_at, strict=True) if index == relation.object
    ]
    return all(
        clear_direction(one.x - other.x, one.y - other.y) == relation.kind
        for one in subjects
        for other in others
    )
