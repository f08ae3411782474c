"""Find the background and the coloured regions of a picture, from its pixels alone.

Every foreground pixel is explained as a mixture: it lies near a line between a palette colour, that colour's
shade (in patterns) and the background. Blends along antialiased edges are then no mystery.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from impasto.data.scenes.shapes import geometry
from impasto.data.scenes.world import BACKGROUNDS, COLOURS, SHADE, SHAPES, SIZES

Array = NDArray[np.float32]
Labels = NDArray[np.int32]
Mask = NDArray[np.bool_]

ANALYSIS_SIZE = 64  # larger pictures are averaged down to this many pixels a side
SMALLEST_PICTURE = 8
BACKGROUND_REACH = 75.0  # RGB distance within which the border names a background
BORDER_SPREAD = 45.0  # a border pixel further than this from the border's median does not agree with it
BORDER_AGREEMENT = 0.7
FOREGROUND = 30.0  # RGB distance from the background from which a pixel counts as foreground
NOISE_FACTOR = 2.3  # ... or this many times the typical distance in the border, if that is more
EXPLAINED = 60.0  # RGB distance from every mixture up to which a pixel counts as explained
CORE = 42.0  # RGB distance from a pure colour or shade up to which a pixel votes for that colour
LEAST_SHARE = 0.3  # a region smaller than this share of the smallest possible object is a speck

_PALETTE: Array = np.array(list(COLOURS.values()), dtype=np.float32)
_COLOUR_NAMES = tuple(COLOURS)
_BACKGROUND_NAMES = tuple(BACKGROUNDS)
_BACKGROUND_PALETTE: Array = np.array(list(BACKGROUNDS.values()), dtype=np.float32)


@dataclass(frozen=True)
class Region:
    """A connected region of one colour: its index in COLOURS and its mask [S, S] bool."""

    colour: int
    mask: Mask

    @property
    def name(self) -> str:
        """The colour's name."""
        return _COLOUR_NAMES[self.colour]


@dataclass(frozen=True)
class Segmentation:
    """A picture taken apart: pixels [S, S, 3], the background (name or None, and its RGB [3]), the regions.

    ``unexplained`` is the fraction of foreground pixels that no mixture of known colours explains or that lie
    in specks too small to be objects.
    """

    pixels: Array
    background: str | None
    background_rgb: Array
    regions: tuple[Region, ...]
    unexplained: float


def as_pixels(image: Image.Image) -> Array:
    """The picture as square float pixels of 8 to ANALYSIS_SIZE a side: [S, S, 3] in 0..255."""
    picture = image.convert("RGB")
    size = min(max(min(picture.size), SMALLEST_PICTURE), ANALYSIS_SIZE)
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BOX)
    return np.asarray(picture, dtype=np.float32)


@lru_cache(maxsize=1)
def smallest_object_area() -> float:
    """Area of the smallest object of the world, as a fraction of the picture."""
    return min(geometry(shape).area for shape in SHAPES) * (min(SIZES.values()) / 2) ** 2


def segment(image: Image.Image) -> Segmentation:
    """Take a picture apart; without a plain border of a known colour it has no background and no regions."""
    pixels = as_pixels(image)
    name, rgb, noise = _background(pixels)
    if name is None:
        return Segmentation(pixels, None, rgb, (), 1.0)
    foreground = np.sqrt(((pixels - rgb) ** 2).sum(axis=-1)) > max(FOREGROUND, NOISE_FACTOR * noise)
    if not foreground.any():
        return Segmentation(pixels, name, rgb, (), 0.0)
    points = pixels[foreground]
    distances, cores = _explain(points, rgb)
    labels = _labels(foreground, points, distances, cores)
    unexplained = distances.min(axis=1) > EXPLAINED
    regions, specks = _regions(labels)
    return Segmentation(pixels, name, rgb, regions, (specks + int(unexplained.sum())) / int(foreground.sum()))


def _background(pixels: Array) -> tuple[str | None, Array, float]:
    """Name (None if the border does not agree on one), RGB, and its pixels' typical distance to that."""
    frame = max(1, round(len(pixels) / 48))
    inner = np.zeros(pixels.shape[:2], dtype=bool)
    inner[frame:-frame, frame:-frame] = True
    border = pixels[~inner]
    middle = np.median(border, axis=0).astype(np.float32)
    strays = np.sqrt(((border - middle) ** 2).sum(axis=-1))
    agreeing, noise = strays < BORDER_SPREAD, float(np.median(strays))
    distances = np.sqrt(((_BACKGROUND_PALETTE - middle) ** 2).sum(axis=-1))
    nearest = int(distances.argmin())
    if agreeing.mean() < BORDER_AGREEMENT or distances[nearest] > BACKGROUND_REACH:
        return None, middle, noise
    return _BACKGROUND_NAMES[nearest], middle, noise


def _segment_distance(points: Array, start: Array, end: Array) -> Array:
    """Distance of points [N, 3] from the line pieces start..end [K, 3]: [N, K]."""
    along = end - start
    length = np.maximum((along * along).sum(axis=-1), np.float32(1e-6))
    # |p - s - t a|^2 with t = clip(<p - s, a> / |a|^2, 0, 1), expanded so that everything is a matrix product
    product = points @ along.T - (start * along).sum(axis=-1)
    t = np.clip(product / length, 0, 1)
    squared = (points * points).sum(axis=-1)[:, None] - 2 * (points @ start.T) + (start * start).sum(axis=-1)
    return np.sqrt(np.maximum(squared - 2 * t * product + t * t * length, 0))


def _explain(points: Array, background: Array) -> tuple[Array, Array]:
    """How far points [N, 3] are from each colour's mixtures, and from its pure forms: two of [N, K]."""
    shades = _PALETTE * np.float32(SHADE)
    backgrounds = np.broadcast_to(background, _PALETTE.shape).astype(np.float32)
    mixtures = [
        _segment_distance(points, start, end)
        for start, end in ((backgrounds, _PALETTE), (backgrounds, shades), (shades, _PALETTE))
    ]
    pure = [np.sqrt(((points[:, None] - palette[None]) ** 2).sum(axis=-1)) for palette in (_PALETTE, shades)]
    return np.minimum.reduce(mixtures), np.minimum(*pure)


def _labels(foreground: Mask, points: Array, distances: Array, cores: Array) -> Labels:
    """A colour index for every foreground pixel, -1 elsewhere: [S, S].

    Within each connected piece of foreground only colours with enough pure pixels of their own are taken, so
    that blends along an edge cannot pass for a third colour; nor may a thin line of the colour into which its
    neighbours blend.
    """
    pieces, count = connected(foreground.astype(np.int32))
    piece_of = pieces[foreground]
    nearest, pure = distances.argmin(axis=1), cores.min(axis=1) < CORE
    least = LEAST_SHARE * smallest_object_area() * foreground.size
    labels = np.full(foreground.shape, -1, dtype=np.int32)
    chosen = np.full(len(points), -1, dtype=np.int32)
    for piece in range(count):
        members = piece_of == piece
        if not members.any():
            continue
        kept = _plausible(nearest[members], pure[members], least)
        chosen[members] = kept[distances[members][:, kept].argmin(axis=1)]
        for colour in kept if len(kept) > 2 else ():
            others, line = kept[kept != colour], members & (chosen == colour)
            labels[foreground] = np.where(line, colour, -1)
            if len(others) > 1 and not eroded(labels == colour).any() and _is_blend(points[line], others):
                kept = others
                chosen[members] = kept[distances[members][:, kept].argmin(axis=1)]
    labels[foreground] = chosen
    return labels


def _plausible(nearest: NDArray[np.intp], pure: Mask, least: float) -> NDArray[np.intp]:
    """The colours with enough pure pixels among pixels [N] whose nearest colours are given; at least one."""
    tally = np.bincount(nearest[pure] if pure.any() else nearest, minlength=len(_PALETTE))
    kept = np.flatnonzero(tally >= max(0.5 * least, 0.04 * tally.sum(), 1.0))
    return kept if len(kept) else np.array([tally.argmax()])


def _is_blend(points: Array, others: NDArray[np.intp]) -> bool:
    """Whether points [N, 3] lie, mostly, between two of the other palette colours."""
    if len(points) == 0:
        return True
    first, second = np.triu_indices(len(others), 1)
    between = _segment_distance(points, _PALETTE[others[first]], _PALETTE[others[second]])
    return bool(np.median(between, axis=0).min() < CORE)


def dilated(mask: Mask, steps: int = 1) -> Mask:
    """The mask grown by ``steps`` pixels up, down, left and right."""
    for _ in range(steps):
        grown = mask.copy()
        grown[1:] |= mask[:-1]
        grown[:-1] |= mask[1:]
        grown[:, 1:] |= mask[:, :-1]
        grown[:, :-1] |= mask[:, 1:]
        mask = grown
    return mask


def eroded(mask: Mask) -> Mask:
    """The pixels whose eight neighbours are all in the mask; what lies beyond the picture is not."""
    rows = np.zeros_like(mask)
    rows[:, 1:-1] = mask[:, :-2] & mask[:, 1:-1] & mask[:, 2:]
    inner = np.zeros_like(mask)
    inner[1:-1] = rows[:-2] & rows[1:-1] & rows[2:]
    return inner


def _regions(labels: Labels) -> tuple[tuple[Region, ...], int]:
    """Connected regions of one colour large enough to be objects, and the number of pixels in specks."""
    least = LEAST_SHARE * smallest_object_area() * labels.size
    pieces, count = connected(labels)
    areas = np.bincount(pieces.ravel(), minlength=count)
    regions, specks = [], 0
    for piece in range(count):
        mask = pieces == piece
        colour = int(labels.flat[int(mask.argmax())])
        if colour < 0:
            continue
        if areas[piece] < least:
            specks += int(areas[piece])
        else:
            regions.append(Region(colour, mask))
    return tuple(regions), specks


def connected(labels: Labels) -> tuple[Labels, int]:
    """Number the 4-connected pieces of equal label: [S, S] of 0..count-1, and count.

    Works on runs of equal labels within rows; runs of neighbouring rows that overlap are joined.
    """
    height, width = labels.shape
    starts = np.ones(labels.shape, dtype=bool)
    starts[:, 1:] = labels[:, 1:] != labels[:, :-1]
    runs = np.cumsum(starts.ravel()).reshape(height, width) - 1
    overlapping = labels[1:] == labels[:-1]
    upper, lower = runs[:-1][overlapping], runs[1:][overlapping]
    fresh = np.ones(len(upper), dtype=bool)  # the same two runs overlap in consecutive pixels: keep the first
    fresh[1:] = (upper[1:] != upper[:-1]) | (lower[1:] != lower[:-1])
    parent = list(range(int(runs[-1, -1]) + 1))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    for first, second in zip(upper[fresh].tolist(), lower[fresh].tolist(), strict=True):
        one, other = root(first), root(second)
        if one != other:
            parent[max(one, other)] = min(one, other)
    roots = np.array(parent)
    while (roots[roots] != roots).any():
        roots = roots[roots]
    numbers = np.cumsum(roots == np.arange(len(roots))) - 1
    return numbers[roots][runs].astype(np.int32), int(numbers[-1]) + 1
