"""Name a region's texture from the rhythm of its light and dark pixels."""

from __future__ import annotations

import numpy as np

from impasto.data.scenes.render import CHECK_SIDE, DOT_PERIOD, STRIPE_PERIOD, pixel_centres
from impasto.data.scenes.segment import Array, Mask, eroded
from impasto.data.scenes.world import COLOURS, SHADE

LEAST_RHYTHM = 0.11  # strength of the shading's rhythm (0 shade, 1 full colour) below which a region is solid
LEAST_PIXELS = 12
AMPLE_PIXELS = 30  # with so many pixels two away from the edge, only those are looked at
_STRETCHES = (0.88, 1.0, 1.14)  # a pattern may be drawn a little finer or coarser
_PALETTE: Array = np.array(list(COLOURS.values()), dtype=np.float32)


def texture_of(pixels: Array, mask: Mask, colour: int) -> tuple[str, Array, Array]:
    """The texture of a region of pixels [S, S, 3] under a mask [S, S], and the RGB [3] of its two parts."""
    bright, dark = _PALETTE[colour], _PALETTE[colour] * np.float32(SHADE)
    inner = eroded(mask)
    deeper = eroded(inner)
    inner = deeper if deeper.sum() >= AMPLE_PIXELS else inner
    if inner.sum() < LEAST_PIXELS:
        return "solid", bright, dark
    along = bright - dark
    shading = np.clip(((pixels[inner] - dark) @ along) / float(along @ along), -0.3, 1.3)
    rows, columns = np.nonzero(inner)
    centres = pixel_centres(len(pixels))
    texture, strength = _rhythm(shading - shading.mean(), centres[columns], centres[rows])
    return texture if strength >= LEAST_RHYTHM else "solid", bright, dark


def _power(shading: Array, x: Array, y: Array, across: float, down: float) -> float:
    """Mean power of a wave (frequencies in waves a side) in the shading [N], whatever its phase."""
    phase = np.float32(2 * np.pi) * (np.float32(across) * x + np.float32(down) * y)
    return 2 * float((shading @ np.cos(phase)) ** 2 + (shading @ np.sin(phase)) ** 2) / len(shading) ** 2


def _rhythm(shading: Array, x: Array, y: Array) -> tuple[str, float]:
    """The strongest rhythm and its root mean square.

    Stripes repeat along one axis, dots along both, checks along the diagonals.
    """
    best, name = 0.0, "solid"
    for stretch in _STRETCHES:
        stripe, dot = 1 / (STRIPE_PERIOD * stretch), 1 / (DOT_PERIOD * stretch)
        check = 0.5 / (CHECK_SIDE * stretch)
        lopsided = abs(_power(shading, x, y, 0, stripe) - _power(shading, x, y, stripe, 0))
        both = 2 * min(_power(shading, x, y, dot, 0), _power(shading, x, y, 0, dot))
        diagonal = _power(shading, x, y, check, check) + _power(shading, x, y, check, -check)
        for power, texture in ((lopsided, "striped"), (both, "dotted"), (diagonal, "checkered")):
            if power > best:
                best, name = power, texture
    return name, best**0.5
