"""The eight shapes as signed-distance functions, with the facts about them that placing and reading need.

A shape lives in its own coordinates: its bounding box is centred on the origin, y grows downwards, and a
shape of nominal width ``w`` is the unit shape times ``w / 2``. Distances are negative inside. They are exact
or a lower bound of the true distance outside, enough for antialiasing and for sliding shapes into contact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

SQUARE_HALF = 0.88
DIAMOND_HALF = 1.08
TRIANGLE_HALF_BASE, TRIANGLE_HALF_HEIGHT = 1.05, 0.95
CROSS_HALF, CROSS_ARM_HALF = 1.0, 0.36
STAR_TIP, STAR_WAIST = 1.10, 0.48  # radii of the outer and of the inner vertices
RING_MIDDLE, RING_HALF = 0.75, 0.25
HEART_SCALE = 1.72


def _circle(x: Array, y: Array) -> Array:
    return np.sqrt(x * x + y * y) - np.float32(1)


def _ring(x: Array, y: Array) -> Array:
    return np.abs(np.sqrt(x * x + y * y) - np.float32(RING_MIDDLE)) - np.float32(RING_HALF)


def _square(x: Array, y: Array) -> Array:
    return np.maximum(np.abs(x), np.abs(y)) - np.float32(SQUARE_HALF)


def _diamond(x: Array, y: Array) -> Array:
    return (np.abs(x) + np.abs(y) - np.float32(DIAMOND_HALF)) * np.float32(0.5**0.5)


def _triangle(x: Array, y: Array) -> Array:
    height, base = 2 * TRIANGLE_HALF_HEIGHT, TRIANGLE_HALF_BASE
    length = (height**2 + base**2) ** 0.5
    slope = (
        np.abs(x) * np.float32(height) - (y + np.float32(TRIANGLE_HALF_HEIGHT)) * np.float32(base)
    ) / length
    return np.maximum(slope, y - np.float32(TRIANGLE_HALF_HEIGHT)).astype(np.float32)


def _cross(x: Array, y: Array) -> Array:
    across, along = np.abs(x), np.abs(y)
    upright = np.maximum(across - np.float32(CROSS_ARM_HALF), along - np.float32(CROSS_HALF))
    level = np.maximum(across - np.float32(CROSS_HALF), along - np.float32(CROSS_ARM_HALF))
    return np.minimum(upright, level)


def _star(x: Array, y: Array) -> Array:
    """Fold the plane into one tenth of the star, where its outline is a single straight edge."""
    lift = (
        STAR_TIP * (1 - np.cos(np.pi / 5)) / 2
    )  # the box of a five-pointed star is not centred on its middle
    y = y - np.float32(lift)
    sector = np.float32(2 * np.pi / 5)
    angle = np.arctan2(x, -y)
    angle = np.abs(angle - sector * np.round(angle / sector))
    radius = np.sqrt(x * x + y * y)
    along, across = radius * np.cos(angle), radius * np.sin(angle)
    waist_x, waist_y = STAR_WAIST * np.cos(np.pi / 5), STAR_WAIST * np.sin(np.pi / 5)
    length = ((STAR_TIP - waist_x) ** 2 + waist_y**2) ** 0.5
    normal_x, normal_y = waist_y / length, (STAR_TIP - waist_x) / length
    return (
        along * np.float32(normal_x) + across * np.float32(normal_y) - np.float32(normal_x * STAR_TIP)
    ).astype(np.float32)


def _heart(x: Array, y: Array) -> Array:
    """Two circular lobes on a square standing on its corner."""
    across = np.abs(x) / np.float32(HEART_SCALE)
    up = np.float32((0.75 + 0.125**0.5) / 2) - y / np.float32(HEART_SCALE)
    lobe = np.sqrt((across - np.float32(0.25)) ** 2 + (up - np.float32(0.75)) ** 2) - np.float32(0.125**0.5)
    diagonal = 0.5 * np.maximum(across + up, 0)
    edge = np.minimum(across**2 + (up - 1) ** 2, (across - diagonal) ** 2 + (up - diagonal) ** 2)
    body = np.sqrt(edge) * np.sign(across - up)
    return (np.where(across + up > 1, lobe, body) * np.float32(HEART_SCALE)).astype(np.float32)


_FIELDS: dict[str, Callable[[Array, Array], Array]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "diamond": _diamond,
    "cross": _cross,
    "star": _star,
    "heart": _heart,
    "ring": _ring,
}


def signed_distance(shape: str, x: Array, y: Array) -> Array:
    """Distance of the points (x, y) from the outline of the unit shape, negative inside, in the
    units of x and y (1: half the nominal width). Arrays broadcast: [H or 1, W or 1] each to [H, W]."""
    return _FIELDS[shape](x, y)


def coverage(shape: str, x: float, y: float, width: float, columns: Array, rows: Array, size: int) -> Array:
    """How much of each pixel an object covers, in 0..1: [len(rows), len(columns)].

    ``columns`` and ``rows`` are pixel centres as fractions of the side, ``size`` the number of pixels a side.
    """
    radius = np.float32(width / 2)
    distance = signed_distance(
        shape, (columns - np.float32(x))[None, :] / radius, (rows - np.float32(y))[:, None] / radius
    )
    return np.clip(np.float32(0.5) - distance * (radius * np.float32(size)), 0, 1)


@dataclass(frozen=True)
class Geometry:
    """Measures of a unit shape: area, centre of mass, half width and height, points of its outline [N]."""

    area: float
    centre_x: float
    centre_y: float
    half_width: float
    half_height: float
    outline_x: Array
    outline_y: Array


@cache
def geometry(shape: str, resolution: int = 480) -> Geometry:
    """Measure a unit shape numerically, once."""
    step = 2.4 / resolution
    axis = ((np.arange(resolution) + 0.5) * step - 1.2).astype(np.float32)
    x, y = np.meshgrid(axis, axis)
    distance = signed_distance(shape, x, y)
    inside = distance < 0
    edge = np.abs(distance) < 0.6 * step
    order = np.argsort(np.arctan2(y[edge], x[edge]), kind="stable")[::12]
    return Geometry(
        area=float(inside.sum() * step**2),
        centre_x=float(x[inside].mean()),
        centre_y=float(y[inside].mean()),
        half_width=float(np.abs(x[inside]).max() + step / 2),
        half_height=float(np.abs(y[inside]).max() + step / 2),
        outline_x=x[edge][order],
        outline_y=y[edge][order],
    )


Placed = tuple[str, float, float, float]
"""A shape somewhere in a picture: its name, centre x and y, and nominal width."""


def gap_between(first: Placed, second: Placed) -> float:
    """Distance between two placed shapes as a fraction of the side; negative where they overlap."""
    there, back = _outline_distance(first, second), _outline_distance(second, first)
    return min(there, back) if min(there, back) < 0 else max(there, back)  # apart, both are lower bounds


def _outline_distance(points_of: Placed, field_of: Placed) -> float:
    """Smallest signed distance from the outline of one placed shape to another placed shape."""
    shape, x, y, width = points_of
    other, other_x, other_y, other_width = field_of
    outline, other_radius = geometry(shape), np.float32(other_width / 2)
    points_x = (outline.outline_x * np.float32(width / 2) + np.float32(x - other_x)) / other_radius
    points_y = (outline.outline_y * np.float32(width / 2) + np.float32(y - other_y)) / other_radius
    return float(signed_distance(other, points_x, points_y).min() * other_radius)
