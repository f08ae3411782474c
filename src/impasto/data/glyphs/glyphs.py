"""The drawings of a set, one by one, with what they show."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from impasto.data.glyphs.concepts import Concept, Concepts
from impasto.data.glyphs.fetch import read_json, read_members
from impasto.data.glyphs.render import Drawing, svg_text
from impasto.data.glyphs.sources import GlyphSet
from impasto.data.records import Faults

LARGEST_SIDE, LARGEST_ASPECT = 10_000, 6.0


class Glyph(NamedTuple):
    """`name`: of the icon or file within its package."""

    name: str
    concept: Concept
    drawing: Drawing


def read_glyphs(glyph_set: GlyphSet, folder: Path, concepts: Concepts, faults: Faults) -> Iterator[Glyph]:
    """Every drawing of a set that has a name, in the package's order; the others go to `faults`.

    Icons that are marked hidden (older drawings kept for old addresses) and aliases are not looked at."""
    path = folder / glyph_set.package.file_name
    if glyph_set.kind == "iconify":
        yield from _iconify(path, glyph_set, concepts, faults)
    else:
        yield from _pictures(path, glyph_set, concepts, faults)


def _iconify(path: Path, glyph_set: GlyphSet, concepts: Concepts, faults: Faults) -> Iterator[Glyph]:
    icons, named = read_json(path, "icons.json", "chars.json")
    codes: dict[str, str] = {}
    for hexcode, name in named.items():
        codes.setdefault(name, hexcode)
    for name, icon in icons.get("icons", {}).items():
        if icon.get("hidden"):
            continue
        box = _box(icon, icons)
        concept = concepts.find(name, codes.get(name, ""), glyph_set.run_together)
        if concept is None:
            faults.add("no readable name", f"{glyph_set.style}:{name}")
        elif box is None or not isinstance(icon.get("body"), str):
            faults.add("cannot be drawn", f"{glyph_set.style}:{name}")
        else:
            yield Glyph(name, concept, Drawing(svg_text(icon["body"], *box), b""))


def _pictures(path: Path, glyph_set: GlyphSet, concepts: Concepts, faults: Faults) -> Iterator[Glyph]:
    members = read_members(path, lambda name: name.startswith("assets/") and name.endswith(".webp"))
    for name, data in sorted(members):
        concept = concepts.find("", PurePosixPath(name).stem)
        if concept is None:
            faults.add("no readable name", f"{glyph_set.style}:{name}")
        else:
            yield Glyph(name, concept, Drawing("", data))


def _box(icon: Mapping[str, Any], icons: Mapping[str, Any]) -> tuple[float, float, float, float] | None:
    """left, top, width, height of a drawing; None if they cannot be."""
    sides = (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    values = [icon.get(side, icons.get(side, usual)) for side, usual in sides]
    if not all(isinstance(value, (int, float)) for value in values):
        return None
    left, top, width, height = values
    if not (0 < width <= LARGEST_SIDE and 0 < height <= LARGEST_SIDE):
        return None
    return None if max(width, height) > LARGEST_ASPECT * min(width, height) else (left, top, width, height)
