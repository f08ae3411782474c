"""Where objects go: apart from each other, inside one another, or in contact, always within the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from impasto.data.scenes.shapes import gap_between, geometry, signed_distance
from impasto.data.scenes.world import GAP, MARGIN

RIM = 0.028  # least thickness of a container around its content
OVERLAP = 0.018  # how deep touching objects overlap, so that the contact can be seen
ATTEMPTS = 40


@dataclass(frozen=True)
class Body:
    """A shape of a given width that has no place yet."""

    shape: str
    width: float

    @property
    def half_width(self) -> float:
        """Half the width of the bounding box."""
        return geometry(self.shape).half_width * self.width / 2

    @property
    def half_height(self) -> float:
        """Half the height of the bounding box."""
        return geometry(self.shape).half_height * self.width / 2


@dataclass(frozen=True)
class Unit:
    """Objects that are placed together: offsets of their centres from the middle of their common box."""

    offsets: tuple[tuple[float, float], ...]
    half_width: float
    half_height: float


def single(body: Body) -> Unit:
    """One object on its own."""
    return Unit(((0.0, 0.0),), body.half_width, body.half_height)


def containment(rng: np.random.Generator, container: Body, content: Body) -> Unit | None:
    """``container`` with ``content`` near its middle, or None if the rim would be too thin."""
    content_outline, radius = geometry(content.shape), np.float32(container.width / 2)
    scale = np.float32(content.width / container.width)
    for reach in (0.05, 0.025, 0.0):
        x, y = (float(value) for value in rng.uniform(-reach, reach, 2))
        points_x = content_outline.outline_x * scale + np.float32(x) / radius
        points_y = content_outline.outline_y * scale + np.float32(y) / radius
        if float(signed_distance(container.shape, points_x, points_y).max() * radius) < -RIM:
            return Unit(((0.0, 0.0), (x, y)), container.half_width, container.half_height)
    return None


def contact(rng: np.random.Generator, first: Body, second: Body) -> Unit:
    """``first`` and ``second`` side by side in a random direction, just touching."""
    angle = float(rng.uniform(0, 2 * np.pi))
    step_x, step_y = float(np.cos(angle)), float(np.sin(angle))
    travel = first.width + second.width
    for _ in range(ATTEMPTS):  # walk towards the first shape by the distance that is surely free
        gap = gap_between(
            (first.shape, 0.0, 0.0, first.width),
            (second.shape, travel * step_x, travel * step_y, second.width),
        )
        if gap < 0.001:
            break
        travel -= gap
    travel -= OVERLAP
    x, y = travel * step_x, travel * step_y
    left, right = min(-first.half_width, x - second.half_width), max(first.half_width, x + second.half_width)
    top, bottom = (
        min(-first.half_height, y - second.half_height),
        max(first.half_height, y + second.half_height),
    )
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    offsets = ((-middle_x, -middle_y), (x - middle_x, y - middle_y))
    return Unit(offsets, (right - left) / 2, (bottom - top) / 2)


def arrange(rng: np.random.Generator, units: Sequence[Unit]) -> list[tuple[float, float]] | None:
    """Centres for the units, at least ``GAP`` apart and ``MARGIN`` from the edge; None if they do not fit."""
    if any(max(unit.half_width, unit.half_height) > 0.5 - MARGIN for unit in units):
        return None
    if len(units) == 1:
        return [_anywhere(rng, units[0])]
    if len(units) == 2:
        return _two_apart(rng, units[0], units[1])
    return _scattered(rng, units)


def _anywhere(rng: np.random.Generator, unit: Unit) -> tuple[float, float]:
    """A centre anywhere in the picture."""
    free_x, free_y = 0.5 - MARGIN - unit.half_width, 0.5 - MARGIN - unit.half_height
    u, v = rng.random(2)
    return 0.5 + free_x * float(2 * u - 1), 0.5 + free_y * float(2 * v - 1)


def _two_apart(rng: np.random.Generator, first: Unit, second: Unit) -> list[tuple[float, float]] | None:
    """Separate two units along one axis, sharing the free length at random; the other axis is free."""
    level = 1 - 2 * MARGIN - GAP - 2 * (first.half_width + second.half_width)
    upright = 1 - 2 * MARGIN - GAP - 2 * (first.half_height + second.half_height)
    if max(level, upright) < 0:
        return None
    horizontal = upright < 0 or (level >= 0 and rng.random() < 0.5)
    slack, swap = (level if horizontal else upright), rng.random() < 0.5
    before, leading = (second, first) if swap else (first, second)
    cuts = sorted(float(value) for value in rng.random(2) * slack)
    extent_before = before.half_width if horizontal else before.half_height
    extent_leading = leading.half_width if horizontal else leading.half_height
    at_before = MARGIN + cuts[0] + extent_before
    at_leading = at_before + extent_before + GAP + (cuts[1] - cuts[0]) + extent_leading
    free_before, free_leading = _anywhere(rng, before), _anywhere(rng, leading)
    if horizontal:
        places = [(at_before, free_before[1]), (at_leading, free_leading[1])]
    else:
        places = [(free_before[0], at_before), (free_leading[0], at_leading)]
    return places[::-1] if swap else places


def _apart(place: tuple[float, float], unit: Unit, other: tuple[float, float], other_unit: Unit) -> bool:
    """Whether two placed boxes are at least ``GAP`` apart."""
    return (
        abs(place[0] - other[0]) >= unit.half_width + other_unit.half_width + GAP
        or abs(place[1] - other[1]) >= unit.half_height + other_unit.half_height + GAP
    )


def _scattered(rng: np.random.Generator, units: Sequence[Unit]) -> list[tuple[float, float]] | None:
    """Three or more units by trial, the largest first; None when luck runs out."""
    order = sorted(range(len(units)), key=lambda index: -units[index].half_width * units[index].half_height)
    for _ in range(ATTEMPTS):
        places: dict[int, tuple[float, float]] = {}
        for index in order:
            free_x, free_y = 0.5 - MARGIN - units[index].half_width, 0.5 - MARGIN - units[index].half_height
            for u, v in rng.uniform(-1, 1, (ATTEMPTS // 4, 2)).tolist():
                place = (0.5 + free_x * u, 0.5 + free_y * v)
                if all(_apart(place, units[index], places[other], units[other]) for other in places):
                    places[index] = place
                    break
            else:
                break
        if len(places) == len(units):
            return [places[index] for index in range(len(units))]
    return None
