"""Contact sheets of a report on sets of pictures, named for what they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from impasto.evaluation.page import Sheet
from impasto.metrics.alignment import Scorer
from impasto.metrics.comparison import Comparison
from impasto.metrics.picture_sets import SetFeatures, prepare
from impasto.metrics.picture_sources import PictureSet
from impasto.metrics.sets import nearest
from impasto.pictures import captioned_sheet, contact_sheet

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
    members: dict[str, Member],
    comparison: Comparison,
    *,
    seed: int,
    side: int | None,
    scorer: Scorer | None = None,
) -> dict[str, Sheet]:
    """Contact sheets by file name, each with what it is; with a scorer also one of pictures with prompts."""
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
    if scorer is not None and any(pictures.found.prompts[row] is not None for row in shown):
        words = f"Random, as above: each with its prompt, and their cosine by {scorer.name}"
        sheets["prompts"] = words, _with_prompts(pictures, shown, scorer, side)
    copied = comparison.copies
    if copied is not None:
        order, neighbours = copied.order[:SHOWN].tolist(), copied.neighbour[:SHOWN].tolist()
        closest = [cells(pictures, order), cells(members["training"], neighbours)]
        title = "Closest pairs: the pictures nearest to a training picture, and that training picture below"
        sheets["closest"] = (title, contact_sheet(closest, ("pictures", "training pictures"), cell=CELL))
    return sheets


def _with_prompts(pictures: Member, rows: list[int], scorer: Scorer, side: int | None) -> Image.Image:
    told = [(row, prompt) for row in rows if (prompt := pictures.found.prompts[row]) is not None]
    images, prompts = [pictures.image(row, side) for row, _ in told], [prompt for _, prompt in told]
    cosines = torch.cosine_similarity(scorer.embed_pictures(images), scorer.embed_prompts(prompts)).tolist()
    labels = [f"{cosine:.2f} {prompt}" for cosine, prompt in zip(cosines, prompts, strict=True)]
    return captioned_sheet([_cell(image) for image in images], labels, cell=CELL)


def _cell(image: Image.Image) -> Image.Image:
    """Large pictures made small properly; small ones are enlarged by the sheet, by repeating pixels."""
    return image if image.width <= CELL else image.resize((CELL, CELL), Image.Resampling.LANCZOS)
