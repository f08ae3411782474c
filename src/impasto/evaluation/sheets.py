"""Contact sheets of a report on sets of pictures, named for what they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from impasto.evaluation.page import Sheet
from impasto.metrics.comparison import Comparison
from impasto.metrics.picture_sets import SetFeatures, prepare
from impasto.metrics.picture_sources import PictureSet
from impasto.metrics.sets import nearest
from impasto.pictures import contact_sheet

SHOWN, NEIGHBOURS_SHOWN, CELL = 12, 4, 96


@dataclass(frozen=True)
class Member:
    """One of the sets, with what was measured of it."""

    pictures: PictureSet
    found: SetFeatures
    from_cache: bool

    def image(self, row: int, side: int | None) -> Image.Image:
        stored = self.pictures.read(self.found.indices[row])
        return prepare(stored.data, stored.name, side)[0]


def set_sheets(
    members: dict[str, Member], comparison: Comparison, *, seed: int, side: int | None
) -> dict[str, Sheet]:
    """Contact sheets by file name, each with what it is."""
    rng = np.random.default_rng(seed)
    pictures, reference = members["pictures"], members["reference"]

    def drawn(member: Member) -> list[int]:
        count = len(member.found.names)
        return sorted(rng.choice(count, min(SHOWN, count), replace=False).tolist())

    shown, real = drawn(pictures), drawn(reference)

    def cells(member: Member, rows: list[int]) -> list[Image.Image]:
        return [_cell(member.image(row, side)) for row in rows]

    random = contact_sheet(
        [cells(pictures, shown), cells(reference, real)], ("pictures", "reference"), cell=CELL
    )
    among = nearest(
        pictures.found.features[shown].double(),
        reference.found.features.double(),
        min(NEIGHBOURS_SHOWN, len(reference.found.names)),
    )[1]
    columns = [
        [cell, *cells(reference, near)]
        for cell, near in zip(cells(pictures, shown), among.tolist(), strict=True)
    ]
    sheets = {
        "random": (f"Random: drawn with seed {seed}, not picked", random),
        "nearest": (
            "Nearest neighbours: the pictures of the first row, each above the reference pictures nearest to "
            "it in features, nearest first",
            contact_sheet([list(row) for row in zip(*columns, strict=True)], cell=CELL),
        ),
    }
    far = nearest(pictures.found.features.double(), reference.found.features.double())[0][:, 0].argsort()
    for name, words, picked in (("worst", "furthest from", far.flip(0)), ("best", "nearest to", far)):
        title = f"{name.capitalize()}, picked: the pictures {words} any reference picture in features"
        sheets[name] = (title, contact_sheet([cells(pictures, picked[:SHOWN].tolist())], cell=CELL))
    copied = comparison.copies
    if copied is not None:
        order, neighbours = copied.order[:SHOWN].tolist(), copied.neighbour[:SHOWN].tolist()
        closest = [cells(pictures, order), cells(members["training"], neighbours)]
        title = "Closest pairs: the pictures nearest to a training picture, and that training picture below"
        sheets["closest"] = (title, contact_sheet(closest, ("pictures", "training pictures"), cell=CELL))
    return sheets


def _cell(image: Image.Image) -> Image.Image:
    """Large pictures made small properly; small ones are enlarged by the sheet, by repeating pixels."""
    return image if image.width <= CELL else image.resize((CELL, CELL), Image.Resampling.LANCZOS)
