"""What a caption states: described objects, relations between them and a background, in either language."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from impasto.data.scenes.world import HELD_OUT_PAIRS, Scene, clear_direction

OPPOSITES = {"right of": "left of", "below": "above"}


@dataclass(frozen=True)
class Described:
    """``count`` objects of one kind, as far as the text says; what it leaves open is None."""

    count: int = 1
    colour: str | None = None
    shape: str | None = None
    texture: str | None = None
    size: str | None = None

    def stated(self) -> dict[str, str]:
        """The attributes that the text names."""
        named = {"colour": self.colour, "shape": self.shape, "texture": self.texture, "size": self.size}
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True)
class Relation:
    """``kind`` is "left of", "above", "touching" or "inside" ("right of" and "below" are kept as their
    opposites with the objects exchanged); ``subject`` and ``object`` are indices of described objects."""

    kind: str
    subject: int
    object: int

    @classmethod
    def of(cls, kind: str, subject: int, object: int) -> Relation:
        """A relation in its stored form: opposites turned round, the symmetric one ordered."""
        if kind in OPPOSITES:
            return cls(OPPOSITES[kind], object, subject)
        if kind == "touching" and subject > object:
            return cls(kind, object, subject)
        return cls(kind, subject, object)


@dataclass(frozen=True)
class Requirement:
    """Everything a prompt asks for, in order of mention."""

    objects: tuple[Described, ...]
    relations: tuple[Relation, ...] = ()
    background: str | None = None

    @property
    def total(self) -> int:
        """How many objects the picture should hold."""
        return sum(described.count for described in self.objects)

    def canonical(self) -> Requirement:
        """The same facts in a fixed order, so that requirements can be compared with ``==``."""

        def rank(index: int) -> tuple[str, ...]:
            item = self.objects[index]
            return (str(item.count), item.colour or "", item.shape or "", item.texture or "", item.size or "")

        order = sorted(range(len(self.objects)), key=rank)
        position = {old: new for new, old in enumerate(order)}
        moved = {
            Relation.of(item.kind, position[item.subject], position[item.object]) for item in self.relations
        }
        relations = sorted(moved, key=lambda item: (item.kind, item.subject, item.object))
        return Requirement(tuple(self.objects[index] for index in order), tuple(relations), self.background)


@dataclass(frozen=True)
class Group:
    """Objects of a scene that share their kind: what they are, and their indices in the scene."""

    colour: str
    shape: str
    texture: str
    size: str
    members: tuple[int, ...]


def groups_of(scene: Scene) -> list[Group]:
    """The scene's objects gathered by kind, in order of first appearance."""
    members: dict[tuple[str, str, str, str], list[int]] = {}
    for index, item in enumerate(scene.objects):
        members.setdefault(item.kind, []).append(index)
    return [Group(*kind, members=tuple(indices)) for kind, indices in members.items()]


def true_relations(scene: Scene, groups: list[Group]) -> list[Relation]:
    """Every relation between single objects that holds in the scene with a clear margin."""
    group_of = {group.members[0]: index for index, group in enumerate(groups) if len(group.members) == 1}
    found = [
        Relation.of(kind, group_of[first], group_of[second])
        for kind, pairs in (("inside", scene.inside), ("touching", scene.touching))
        for first, second in pairs
        if first in group_of and second in group_of
    ]
    singles = sorted(group_of)
    for position, first in enumerate(singles):
        for second in singles[position + 1 :]:
            if (first, second) in scene.inside or (second, first) in scene.inside:
                continue
            one, other = scene.objects[first], scene.objects[second]
            direction = clear_direction(one.x - other.x, one.y - other.y)
            if direction is not None:
                found.append(Relation.of(direction, group_of[first], group_of[second]))
    return found


def describe(scene: Scene, rng: np.random.Generator) -> Requirement:
    """Choose the facts that a caption of this scene states, after its category.

    Every object is accounted for, and a held-out combination always has its colour and its shape named.
    """
    groups = groups_of(scene)
    category, chance = scene.category, rng.random
    distinct_shapes = len({group.shape for group in groups}) == len(groups)
    each_once = all(len(group.members) == 1 for group in groups)
    drop_colours = category == "shape" and distinct_shapes and chance() < 0.4
    state_sizes = {"complex": chance() < 0.5, "non-spatial": chance() < 0.35}.get(category, False)
    state_textures = category in ("texture", "complex")
    objects = []
    for group in groups:
        bare = drop_colours and (group.colour, group.shape) not in HELD_OUT_PAIRS
        plain = group.texture == "solid" and chance() < 0.6
        objects.append(
            Described(
                count=len(group.members),
                colour=None if bare else group.colour,
                shape=group.shape,
                texture=group.texture if state_textures and not plain else None,
                size=group.size if state_sizes else None,
            )
        )
    relations = _chosen_relations(scene, true_relations(scene, groups), rng, least=0 if state_sizes else 1)
    uneventful = category == "non-spatial" and each_once and not state_sizes and not relations
    state_background = uneventful or chance() < {"complex": 0.5, "non-spatial": 0.4}.get(category, 0.2)
    return Requirement(tuple(objects), relations, scene.background if state_background else None)


def _chosen_relations(
    scene: Scene, true: list[Relation], rng: np.random.Generator, least: int
) -> tuple[Relation, ...]:
    """Which of the true relations a caption of this category states: ``least`` to two in a complex one."""
    joined = [item for item in true if item.kind in ("touching", "inside")]
    directions = [item for item in true if item.kind not in ("touching", "inside")]
    rng.shuffle(directions)
    if scene.category == "non-spatial":
        return tuple(joined)
    if scene.category == "spatial":
        wanted = 2 if len(scene.objects) > 2 and rng.random() < 0.5 else 1
        return tuple(directions[:wanted])
    if scene.category == "complex":
        wanted = int(rng.integers(least, 3))
        return (*joined, *directions[: max(wanted - len(joined), 0)])
    return ()
