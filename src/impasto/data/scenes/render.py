"""Paint a scene: signed distances give every pixel its antialiased share of each object."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from impasto.data.scenes.shapes import coverage, geometry
from impasto.data.scenes.world import SHADE, Scene, SceneObject

Array = NDArray[np.float32]

SMALLEST_SIZE, LARGEST_SIZE = 8, 1024
STRIPE_PERIOD = 0.115  # of the picture's side; stripes run level
DOT_PERIOD, DOT_RADIUS = 0.115, 0.036
CHECK_SIDE = 0.075


@lru_cache(maxsize=16)
def pixel_centres(size: int) -> Array:
    """Centres of the pixels of a row as fractions of the side: [size]."""
    return ((np.arange(size) + 0.5) / size).astype(np.float32)


def _wave(position: Array, period: float) -> Array:
    """Signed distance from the dark half of a pattern that repeats every ``period`` and is dark around 0."""
    offset = np.abs(position - np.float32(period) * np.round(position / np.float32(period)))
    return offset - np.float32(period / 4)


def pattern(texture: str, x: Array, y: Array, size: int) -> Array:
    """How dark a pattern is, 0..1, at offsets x [W] and y [H] from the object's centre: [H or 1, W]."""
    if texture == "striped":
        return np.clip(np.float32(0.5) - _wave(y, STRIPE_PERIOD)[:, None] * np.float32(size), 0, 1)
    if texture == "dotted":
        cell_x = x - np.float32(DOT_PERIOD) * np.round(x / np.float32(DOT_PERIOD))
        cell_y = y - np.float32(DOT_PERIOD) * np.round(y / np.float32(DOT_PERIOD))
        distance = np.sqrt((cell_x * cell_x)[None, :] + (cell_y * cell_y)[:, None]) - np.float32(DOT_RADIUS)
        return np.clip(np.float32(0.5) - distance * np.float32(size), 0, 1)
    # Half-period offset so that a corner of the checks, not the middle of one, lies at the object's centre.
    shift = np.float32(CHECK_SIDE / 2)
    across = np.clip(_wave(x + shift, 2 * CHECK_SIDE) * np.float32(2 * size), -1, 1)
    along = np.clip(_wave(y + shift, 2 * CHECK_SIDE) * np.float32(2 * size), -1, 1)
    return np.float32(0.5) + np.float32(0.5) * across[None, :] * along[:, None]


def _paint(canvas: Array, item: SceneObject) -> None:
    """Blend one object into ``canvas`` [size, size, 3], in place and only where it can reach."""
    size = canvas.shape[0]
    outline = geometry(item.shape)
    half_width, half_height = outline.half_width * item.width / 2, outline.half_height * item.width / 2
    left, right = max(int((item.x - half_width) * size) - 1, 0), int((item.x + half_width) * size) + 2
    top, bottom = max(int((item.y - half_height) * size) - 1, 0), int((item.y + half_height) * size) + 2
    centres = pixel_centres(size)
    columns, rows = centres[left:right], centres[top:bottom]
    share = coverage(item.shape, item.x, item.y, item.width, columns, rows, size)[:, :, None]
    colour = np.array(item.rgb, dtype=np.float32)
    if item.texture != "solid":
        dark = pattern(item.texture, columns - np.float32(item.x), rows - np.float32(item.y), size)[
            :, :, None
        ]
        colour = colour * (1 - np.float32(1 - SHADE) * dark)
    window = canvas[top:bottom, left:right]
    window += share * (colour - window)


def render_array(scene: Scene, size: int = 64) -> NDArray[np.uint8]:
    """The scene as [size, size, 3] uint8. ValueError for a side that is not 8 to 1024 pixels."""
    if not SMALLEST_SIZE <= size <= LARGEST_SIZE:
        raise ValueError(f"cannot render a scene at {size} pixels: choose {SMALLEST_SIZE} to {LARGEST_SIZE}")
    canvas = np.empty((size, size, 3), dtype=np.float32)
    canvas[:] = np.array(scene.background_rgb, dtype=np.float32)
    for item in scene.objects:
        _paint(canvas, item)
    return (canvas + np.float32(0.5)).astype(np.uint8)


def render(scene: Scene, size: int = 64) -> Image.Image:
    """The scene as a square RGB picture of ``size`` pixels a side. Errors as for `render_array`."""
    return Image.fromarray(render_array(scene, size))
