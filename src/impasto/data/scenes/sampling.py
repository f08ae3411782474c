"""Draw scenes without end, of a split and a category."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from impasto.data.scenes.placement import Body, Unit, arrange, contact, containment, single
from impasto.data.scenes.requirement import groups_of, true_relations
from impasto.data.scenes.world import (
    BACKGROUND_JITTER,
    BACKGROUNDS,
    CATEGORIES,
    COLOUR_JITTER,
    COLOURS,
    CONTAINERS,
    HELD_OUT_PAIRS,
    MAX_OBJECTS,
    RGB,
    SHAPES,
    SIZE_JITTER,
    SIZES,
    SPLITS,
    TEXTURED_SIZES,
    TEXTURES,
    TRAIN_PAIRS,
    Scene,
    SceneObject,
)

Pair = tuple[str, str]
_ALL_PAIRS: tuple[Pair, ...] = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
_HELD_OUT: tuple[Pair, ...] = tuple(sorted(HELD_OUT_PAIRS))
_PATTERNS = tuple(texture for texture in TEXTURES if texture != "solid")
_TWO_SIZES = (
    ("small", "small"), ("small", "medium"), ("medium", "small"),
    ("medium", "medium"), ("large", "small"), ("small", "large"),
)  # fmt: skip
_TRIES = 200


@dataclass(frozen=True)
class _Plan:
    """What a scene is to hold before colours, shapes and places are chosen.

    ``counts`` has one entry a kind; ``joined`` says how the first two objects are placed together.
    """

    counts: tuple[int, ...]
    joined: str | None = None  # None, "touching" or "inside" (the second object inside the first)
    patterned: bool = False  # at least one object has a pattern

    @property
    def total(self) -> int:
        return sum(self.counts)


Option = TypeVar("Option")


def _choice(rng: np.random.Generator, options: Sequence[Option]) -> Option:
    """One of the options, each as likely (faster than ``rng.choice``)."""
    return options[int(rng.random() * len(options))]


def sample_scene(
    rng: np.random.Generator,
    split: str = "train",
    *,
    category: str | Sequence[str] | None = None,
    max_objects: int = MAX_OBJECTS,
    textures: bool = True,
    backgrounds: Sequence[str] = tuple(BACKGROUNDS),
) -> Scene:
    """Draw a scene.

    "train" scenes hold no pair of HELD_OUT_PAIRS, "heldout" scenes at least one, "any" scenes what comes.
    ``category`` narrows the choice to one or several of CATEGORIES; ``max_objects`` (1 to 4), ``textures``
    and ``backgrounds`` make an easier world. ValueError for a choice that is not there, RuntimeError if no
    such scene could be placed (a bug).
    """
    if split not in SPLITS:
        raise ValueError(f"no split called {split!r}: choose from {', '.join(SPLITS)}")
    if not 1 <= max_objects <= MAX_OBJECTS:
        raise ValueError(f"max_objects is {max_objects}: choose 1 to {MAX_OBJECTS}")
    unknown = [name for name in backgrounds if name not in BACKGROUNDS]
    if unknown or not backgrounds:
        raise ValueError(f"no background called {unknown or '(none)'}: choose from {', '.join(BACKGROUNDS)}")
    chosen = _choice(rng, _categories(category, max_objects, textures))
    for _ in range(_TRIES):
        plan = _plan(rng, chosen, max_objects, textures)
        kinds = _kinds(rng, plan, split)
        blanks = [kind for kind, count in zip(kinds, plan.counts, strict=True) for _ in range(count)]
        scene = build(rng, blanks, plan.joined, _choice(rng, backgrounds), chosen)
        if scene is not None and not (chosen == "spatial" and not true_relations(scene, groups_of(scene))):
            return scene
    raise RuntimeError(
        f"no {chosen} scene of at most {max_objects} objects could be placed: report this as a bug"
    )


def _categories(category: str | Sequence[str] | None, max_objects: int, textures: bool) -> list[str]:
    """The categories asked for that are possible in the world asked for."""
    asked = CATEGORIES if category is None else (category,) if isinstance(category, str) else tuple(category)
    unknown = [name for name in asked if name not in CATEGORIES]
    if unknown:
        raise ValueError(f"no category called {unknown[0]!r}: choose from {', '.join(CATEGORIES)}")
    possible = [
        name
        for name in asked
        if (textures or name != "texture") and (max_objects > 1 or name not in ("spatial", "complex"))
    ]
    if not possible:
        raise ValueError(
            f"{', '.join(asked)} needs more than max_objects={max_objects}, textures={textures} allow"
        )
    return possible


def _plan(rng: np.random.Generator, category: str, max_objects: int, textures: bool) -> _Plan:
    """Choose how many objects of how many kinds a scene of this category holds."""

    def up_to(most: int) -> tuple[int, ...]:
        return (1,) * (1 + int(rng.random() * min(most, max_objects)))

    if category in ("color", "shape"):
        return _Plan(up_to(3))
    if category == "texture":
        return _Plan(up_to(2), patterned=True)
    if category == "spatial":
        return _Plan((1,) * (3 if max_objects > 2 and rng.random() < 0.35 else 2))
    if category == "non-spatial":
        return _non_spatial_plan(rng, max_objects)
    patterned = textures and rng.random() < 0.6
    total = 2 + int(rng.random() * (max_objects - 1))
    if total <= 3 and rng.random() < 0.35:
        return _Plan((1,) * total, _choice(rng, ("touching", "inside")), patterned and total == 2)
    if total >= 3 and rng.random() < 0.4:
        return _Plan((1, total - 1), None, patterned)
    return _Plan((1,) * total, None, patterned)


def _non_spatial_plan(rng: np.random.Generator, max_objects: int) -> _Plan:
    """Counting, contact, containment, or one or two objects told by size and background."""
    theme = _choice(rng, ("count", "touching", "inside", "plain")) if max_objects > 1 else "plain"
    if theme in ("touching", "inside"):
        return _Plan((1, 1), str(theme))
    if theme == "plain":
        return _Plan((1,) * (1 + int(rng.random() * min(2, max_objects))))
    total = 2 + int(rng.random() * (max_objects - 1))
    first = 1 + int(rng.random() * total)
    return _Plan((first, total - first) if first < total else (total,))


def _kinds(rng: np.random.Generator, plan: _Plan, split: str) -> list[SceneObject]:
    """Choose colour, shape, texture and size for each kind of the plan; places are still blank."""
    pool = TRAIN_PAIRS if split == "train" else _ALL_PAIRS
    while True:
        pairs = [_choice(rng, pool) for _ in plan.counts]
        if split == "heldout":
            pairs[int(rng.random() * len(pairs))] = _choice(rng, _HELD_OUT)
        distinct = len(set(pairs)) == len(pairs)
        seen_apart = plan.joined is None or len({colour for colour, _ in pairs}) == len(pairs)
        holds_content = plan.joined != "inside" or pairs[0][1] in CONTAINERS
        if distinct and seen_apart and holds_content:
            break
    sizes = _sizes(rng, plan)
    textures = _textures(rng, plan, sizes)
    return [
        SceneObject(colour, shape, texture, size, 0.0, 0.0, 0.0, (0, 0, 0))
        for (colour, shape), texture, size in zip(pairs, textures, sizes, strict=True)
    ]


def _sizes(rng: np.random.Generator, plan: _Plan) -> tuple[str, ...]:
    """A size for each kind, such that the objects have room; patterns need a medium or large object."""
    if plan.joined == "inside":
        return ("large", "small", "small")[: len(plan.counts)]
    if plan.joined == "touching" and len(plan.counts) > 2:
        return ("small",) * len(plan.counts)
    if plan.total == 1:
        return (_choice(rng, TEXTURED_SIZES if plan.patterned else tuple(SIZES)),)
    if plan.counts == (2,):
        return (_choice(rng, ("small", "medium")),)
    if plan.total == 2:
        options = _TWO_SIZES[:4] if plan.joined == "touching" else _TWO_SIZES
        both = _choice(rng, options)
        return both if not plan.patterned or both != ("small", "small") else ("medium", "medium")
    sizes = ["small"] * len(plan.counts)
    singles = [index for index, count in enumerate(plan.counts) if count == 1]
    if singles and (plan.patterned or rng.random() < 0.5):
        sizes[_choice(rng, singles)] = "medium"
    return tuple(sizes)


def _textures(rng: np.random.Generator, plan: _Plan, sizes: tuple[str, ...]) -> list[str]:
    """A texture for each kind; in a patterned plan at least one that is not solid. Containers stay solid."""
    textures = ["solid"] * len(sizes)
    if not plan.patterned or plan.joined == "inside":
        return textures
    able = [index for index, size in enumerate(sizes) if size in TEXTURED_SIZES]
    if able:
        textures[able[int(rng.random() * len(able))]] = _choice(rng, _PATTERNS)
        for index in able:
            if textures[index] == "solid" and rng.random() < 0.7:
                textures[index] = _choice(rng, _PATTERNS)
    return textures


def _jittered(rng: np.random.Generator, rgb: RGB, most: int) -> RGB:
    """A colour moved by up to ``most`` levels a channel."""
    shifts = rng.uniform(-most, most, 3).tolist()
    red, green, blue = (
        min(max(round(level + shift), 0), 255) for level, shift in zip(rgb, shifts, strict=True)
    )
    return red, green, blue


def build(
    rng: np.random.Generator,
    blanks: Sequence[SceneObject],
    joined: str | None,
    background: str,
    category: str,
) -> Scene | None:
    """Give every blank object a width, a place and a colour; None if they do not fit.

    ``joined`` places the first two objects together: "touching", or "inside" (the second inside the first).
    """
    jitter = 1 + SIZE_JITTER * (2 * rng.random(len(blanks)) - 1)
    bodies = [
        Body(item.shape, SIZES[item.size] * float(factor))
        for item, factor in zip(blanks, jitter, strict=True)
    ]
    units: list[Unit] = []
    if joined is not None:
        pair = containment(rng, *bodies[:2]) if joined == "inside" else contact(rng, *bodies[:2])
        if pair is None:
            return None
        units.append(pair)
    units += [single(body) for body in bodies[2 * len(units) :]]
    places = arrange(rng, units)
    if places is None:
        return None
    centres = [
        (x + dx, y + dy) for unit, (x, y) in zip(units, places, strict=True) for dx, dy in unit.offsets
    ]
    objects = tuple(
        replace(item, x=x, y=y, width=body.width, rgb=_jittered(rng, COLOURS[item.colour], COLOUR_JITTER))
        for item, body, (x, y) in zip(blanks, bodies, centres, strict=True)
    )
    return Scene(
        objects,
        background,
        _jittered(rng, BACKGROUNDS[background], BACKGROUND_JITTER),
        category,
        inside=((1, 0),) if joined == "inside" else (),
        touching=((0, 1),) if joined == "touching" else (),
    )
