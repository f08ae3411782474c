"""Pictures that are the same, or nearly: by the directions of their gradients and by their colours."""

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image

GRID, COLOURS = 16, 8  # cells a side
STEP = 24  # levels of a colour that count as the same
EDGE = 2  # levels a gradient has to have
SAME_CONCEPT = 1.5  # mean difference in levels below which two styles draw a thing alike


class Look(NamedTuple):
    """`digest`: the same for pictures that look the same; `thumbnail`: 8 x 8 x 3 levels as bytes."""

    digest: str
    thumbnail: bytes


def look_of(picture: Image.Image) -> Look:
    """Of an RGB picture, whatever its size."""
    gray = np.asarray(picture.convert("L").resize((GRID + 1, GRID), Image.Resampling.BOX), dtype=np.int16)
    small = picture.resize((COLOURS, COLOURS), Image.Resampling.BOX)
    coarse = np.asarray(picture.resize((4, 4), Image.Resampling.BOX)) // STEP
    edges = np.packbits((gray[:, 1:] - gray[:, :-1]) > EDGE).tobytes()
    return Look(hashlib.sha256(edges + coarse.tobytes()).hexdigest()[:32], small.tobytes())


def duplicates(pictures: Iterable[tuple[str, Look]]) -> dict[int, int]:
    """{number of a repeat: number of the first}, for (what it shows, how it looks) in order of preference.

    Repeats look the same, or show the same and differ by less than a level or two."""
    first: dict[str, int] = {}
    kept: dict[str, list[tuple[int, np.ndarray]]] = {}
    found: dict[int, int] = {}
    for number, (shown, look) in enumerate(pictures):
        colours = np.frombuffer(look.thumbnail, dtype=np.uint8).astype(np.int16)
        alike = first.get(look.digest)
        if alike is None:
            close = (n for n, other in kept.get(shown, ()) if np.abs(colours - other).mean() < SAME_CONCEPT)
            alike = next(close, None)
        if alike is None:
            first[look.digest] = number
            kept.setdefault(shown, []).append((number, colours))
        else:
            found[number] = alike
    return found
