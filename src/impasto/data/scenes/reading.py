"""What a picture shows: objects with their looks and places, what touches what, the background."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from PIL import Image

from impasto.data.scenes.render import pixel_centres
from impasto.data.scenes.segment import Array, Mask, Region, Segmentation, connected, dilated, eroded, segment
from impasto.data.scenes.shapes import coverage, geometry
from impasto.data.scenes.texture import texture_of
from impasto.data.scenes.world import MAX_OBJECTS, SHAPES, SIZES, Scene

Pair = tuple[int, int]

MOST_OBJECTS = MAX_OBJECTS + 4  # more regions than this are clutter
MOST_UNEXPLAINED = 0.35
LEAST_LIKENESS = 0.62  # soft intersection over union with the best shape below which a shape stays unnamed
SOFTEST = 2  # how many times the model of a shape may be blurred to look like a soft picture
PLAIN = 24.0  # RGB distance from the background up to which a pixel shows nothing else
TOUCHING = 0.03  # gap as a fraction of the side up to which objects touch


@dataclass(frozen=True)
class SeenObject:
    """An object found in a picture; (x, y) is the centre of its box.

    ``shape`` is None if it looks like none of them; ``likeness``, 0..1, says how well the best one fits.
    """

    colour: str
    shape: str | None
    texture: str
    size: str
    x: float
    y: float
    width: float
    likeness: float = 1.0


@dataclass(frozen=True)
class Reading:
    """A picture put into facts; ``reason`` says why it is not readable. Pairs hold object indices."""

    objects: tuple[SeenObject, ...]
    background: str | None
    inside: frozenset[tuple[int, int]] = frozenset()
    touching: frozenset[tuple[int, int]] = frozenset()
    reason: str | None = None

    @property
    def readable(self) -> bool:
        """Whether anything sensible was found."""
        return self.reason is None


def reading_of(scene: Scene) -> Reading:
    """The reading that a perfect eye would make of a scene."""
    objects = tuple(
        SeenObject(item.colour, item.shape, item.texture, item.size, item.x, item.y, item.width)
        for item in scene.objects
    )
    touching = frozenset((min(pair), max(pair)) for pair in scene.touching)
    return Reading(objects, scene.background, frozenset(scene.inside), touching)


def read_image(image: Image.Image) -> Reading:
    """Read a picture of 8 pixels a side and more; one that is not square is squeezed."""
    parts = segment(image)
    if parts.background is None:
        return Reading((), None, reason="no plain background of a known colour")
    if not parts.regions:
        return Reading((), parts.background, reason="no object stands out from the background")
    if len(parts.regions) > MOST_OBJECTS:
        return Reading((), parts.background, reason=f"{len(parts.regions)} coloured regions")
    if parts.unexplained > MOST_UNEXPLAINED:
        return Reading(
            (), parts.background, reason=f"{parts.unexplained:.0%} of the foreground is no known colour"
        )
    regions, filled, inside = _nested(parts)
    objects = tuple(_see(parts, regions, filled, inside, index) for index in range(len(regions)))
    return Reading(objects, parts.background, inside, _contacts(filled, inside))


def _nested(parts: Segmentation) -> tuple[list[Region], list[Mask], frozenset[Pair]]:
    """The regions that are objects, their masks with contents counted in, and the (content, container) pairs.

    What fills most of a hole lies inside. Two things only look so: an object in the middle of a ring, which
    leaves background around it; and a container seen through the hole of the ring that it holds.
    """
    regions = list(parts.regions)
    if len(regions) == 1:
        return regions, [regions[0].mask], frozenset()
    holes = [_holes(region.mask) for region in regions]
    plain = ((parts.pixels - parts.background_rgb) ** 2).sum(axis=-1) < PLAIN**2
    inside = {
        (content, container)
        for content, region in enumerate(regions)
        for container, hole in enumerate(holes)
        if content != container
        and (region.mask & hole).sum() > 0.8 * region.mask.sum()
        and (plain & hole).sum() <= 0.3 * region.mask.sum()
    }
    seen_through = {
        content
        for content, container in inside
        for other, outer in inside
        if other == container and regions[outer].colour == regions[content].colour
    }
    kept = [index for index in range(len(regions)) if index not in seen_through]
    pairs = frozenset(
        (kept.index(one), kept.index(two)) for one, two in inside if one in kept and two in kept
    )
    holders = {kept[container] for _, container in pairs}
    filled = [
        regions[index].mask | holes[index] if index in holders else regions[index].mask for index in kept
    ]
    return [regions[index] for index in kept], filled, pairs


def _holes(mask: Mask) -> Mask:
    """The pixels that the mask cuts off from the picture's edge: [S, S]."""
    pieces, count = connected(mask.astype(np.int32))
    open_pieces = np.zeros(count, dtype=bool)
    for edge in (pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]):
        open_pieces[edge] = True
    return ~mask & ~open_pieces[pieces]


def _contacts(filled: list[Mask], inside: frozenset[Pair]) -> frozenset[Pair]:
    """Pairs of objects, neither inside the other, that come within TOUCHING of each other."""
    size = len(filled[0])
    rims = [np.argwhere(mask & ~eroded(mask)).astype(np.float32) for mask in filled]
    found = set()
    for first, second in combinations(range(len(filled)), 2):
        if (first, second) in inside or (second, first) in inside:
            continue
        apart = ((rims[first][:, None] - rims[second][None]) ** 2).sum(axis=-1).min() ** 0.5
        if apart - 1 <= max(TOUCHING * size, 0.75):
            found.add((first, second))
    return frozenset(found)


def _see(
    parts: Segmentation, regions: list[Region], filled: list[Mask], inside: frozenset[Pair], index: int
) -> SeenObject:
    """Name what one region shows."""
    holder = next((container for content, container in inside if content == index), None)
    around = parts.background_rgb if holder is None else _main_colour(parts.pixels, regions[holder].mask)
    reach = dilated(filled[index])
    for other, region in enumerate(regions):
        if other not in (index, holder):
            reach &= ~region.mask | filled[index]
    share, texture = _share(parts.pixels, regions[index], filled[index], reach, around)
    centres = pixel_centres(len(share))
    if share.max() < 0.1:  # nothing but a blend of what is around: go by the outline
        share = regions[index].mask.astype(np.float32)
    total = float(share.sum())
    middle_x = float((share.sum(axis=0) * centres).sum()) / total
    middle_y = float((share.sum(axis=1) * centres).sum()) / total
    shape, likeness, width, x, y = _best_shape(share, total / share.size, middle_x, middle_y)
    name = shape if likeness >= LEAST_LIKENESS else None
    return SeenObject(regions[index].name, name, texture, _size_of(width), x, y, width, likeness)


def _main_colour(pixels: Array, mask: Mask) -> Array:
    """The median RGB [3] of a region, away from its edges if it has pixels that are."""
    core = eroded(mask)
    return np.median(pixels[core if core.any() else mask], axis=0).astype(np.float32)


def _share(pixels: Array, region: Region, filled: Mask, reach: Mask, around: Array) -> tuple[Array, str]:
    """How much of each pixel the object covers [S, S], and its texture; ``around`` is the RGB by it."""
    texture, bright, dark = texture_of(pixels, region.mask, region.colour)
    if texture == "solid":
        core = eroded(region.mask)
        share = _unmix(pixels, around, _main_colour(pixels, core) if core.sum() > 4 else bright)
        whole = filled & ~region.mask
    else:
        share = np.maximum(_unmix(pixels, around, bright), _unmix(pixels, around, dark))
        whole = eroded(filled)
    return np.where(whole, 1, np.where(reach, share, 0)).astype(np.float32), texture


def _unmix(pixels: Array, around: Array, colour: Array) -> Array:
    """The share of ``colour`` in a mixture of it with what is around, 0..1: [S, S]."""
    along = colour - around
    return np.clip(((pixels - around) @ along) / max(float(along @ along), 1.0), 0, 1)


def _best_shape(
    share: Array, area: float, middle_x: float, middle_y: float
) -> tuple[str, float, float, float, float]:
    """The shape that, at the same area and centre of mass, is most like the share.

    Returns its name, its likeness 0..1, and its width and centre.
    """
    size = len(share)
    rows, columns = np.flatnonzero(share.max(axis=1) > 0.02), np.flatnonzero(share.max(axis=0) > 0.02)
    top, bottom = max(rows[0] - 2, 0), min(rows[-1] + 3, size)
    left, right = max(columns[0] - 2, 0), min(columns[-1] + 3, size)
    window, centres = share[top:bottom, left:right], pixel_centres(size)
    fits, models = [], []
    for shape in SHAPES:
        measures = geometry(shape)
        width = 2 * (area / measures.area) ** 0.5
        x, y = middle_x - measures.centre_x * width / 2, middle_y - measures.centre_y * width / 2
        fits.append((width, x, y))
        models.append(coverage(shape, x, y, width, centres[left:right], centres[top:bottom], size))
    model = np.stack(models)
    likeness = _likeness(window, model)
    for _ in range(SOFTEST):
        model = _softened(model)
        likeness = np.maximum(likeness, _likeness(window, model))
    best = int(likeness.argmax())
    return SHAPES[best], float(likeness[best]), *fits[best]


def _likeness(window: Array, models: Array) -> Array:
    """Soft intersection over union of a window [H, W] with each of the models [N, H, W]: [N]."""
    common = np.minimum(window, models).sum(axis=(1, 2))
    return common / np.maximum(window.sum() + models.sum(axis=(1, 2)) - common, 1e-6)


def _softened(models: Array) -> Array:
    """Models [N, H, W] blurred with (1, 2, 1) / 4 along both axes; nothing lies beyond their windows."""
    rows = 2 * models
    rows[:, 1:] += models[:, :-1]
    rows[:, :-1] += models[:, 1:]
    both = 2 * rows
    both[:, :, 1:] += rows[:, :, :-1]
    both[:, :, :-1] += rows[:, :, 1:]
    return both / np.float32(16)


def _size_of(width: float) -> str:
    """The size whose nominal width is nearest, in ratio."""
    return min(SIZES, key=lambda name: abs(np.log(max(width, 1e-6) / SIZES[name])))
