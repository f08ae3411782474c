"""Which part of the set a picture belongs to: decided by a hash of what it shows and of its style.

Concepts are held out whole: no style and no skin tone of one is in `train`. Cells (a concept in a style) are
held out where the concept stays in `train` in another style.
"""

import hashlib
from collections.abc import Iterable

TRAIN, CONCEPTS, CELLS = "train", "heldout_concepts", "heldout_cells"
SPLITS = (TRAIN, CONCEPTS, CELLS)
CONCEPT_SHARE, CELL_SHARE = 0.05, 0.05
Cell = tuple[str, str]  # concept, style


def fraction(*names: str) -> float:
    """A number in [0, 1) that belongs to these names for good."""
    digest = hashlib.sha256("\0".join(names).encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64


def split_cells(cells_by_group: Iterable[Iterable[Cell]]) -> dict[Cell, str]:
    """{cell: split}. The groups are taken in their order, so that the core's split is the same whatever comes
    with it. The cell of a concept that would leave it without any in `train` stays in `train`."""
    found: dict[Cell, str] = {}
    trained: set[str] = set()
    for cells in cells_by_group:
        new = [cell for cell in sorted(set(cells), key=_last_drawn_first) if cell not in found]
        for concept, style in new:
            if fraction("openglyphs concept", concept) < CONCEPT_SHARE:
                split = CONCEPTS
            elif concept in trained and fraction("openglyphs cell", concept, style) < CELL_SHARE:
                split = CELLS
            else:
                split = TRAIN
                trained.add(concept)
            found[concept, style] = split
    return found


def _last_drawn_first(cell: Cell) -> tuple[str, float, str]:
    """Within a concept, those that surely stay in `train` come first."""
    concept, style = cell
    return concept, -fraction("openglyphs cell", concept, style), style
