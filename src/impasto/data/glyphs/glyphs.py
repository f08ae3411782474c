"""The drawings of a set, one by one, with what they show."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from impasto.data.glyphs.clipart import read_clip_art
from impasto.data.glyphs.concepts import Concepts
from impasto.data.glyphs.fetch import read_json, read_members
from impasto.data.glyphs.glyph import Glyph
from impasto.data.glyphs.packages import GlyphSet
from impasto.data.glyphs.render import LARGEST_ASPECT, Drawing, svg_text
from impasto.data.glyphs.splits import fraction
from impasto.data.glyphs.stamps import read_stamps
from impasto.data.records import Faults

LARGEST_SIDE = 10_000
# Colours for sets that have none: in English, in Chinese, in CSS.
TINTS = (
    ("black", "黑色", "#1c1c1c"),
    ("red", "红色", "#d92b2b"),
    ("orange", "橙色", "#ee8522"),
    ("green", "绿色", "#2c9440"),
    ("blue", "蓝色", "#2f6fd6"),
    ("purple", "紫色", "#8442b8"),
    ("brown", "棕色", "#7a4a26"),
    ("gray", "灰色", "#808080"),
)


def read_glyphs(glyph_set: GlyphSet, folder: Path, concepts: Concepts, faults: Faults) -> Iterator[Glyph]:
    """Every drawing of a set that has a name, in the package's order; the others go to `faults`.

    Icons that are marked hidden (older drawings kept for old addresses) and aliases are not looked at."""
    path = folder / glyph_set.package.file_name
    if glyph_set.kind == "iconify":
        yield from _iconify(path, glyph_set, concepts, faults)
    elif glyph_set.kind == "pictures":
        yield from _pictures(path, glyph_set, concepts, faults)
    elif glyph_set.kind == "clip art":
        yield from read_clip_art(path, glyph_set, concepts, faults)
    else:
        yield from read_stamps(path, glyph_set, concepts, faults)


def _iconify(path: Path, glyph_set: GlyphSet, concepts: Concepts, faults: Faults) -> Iterator[Glyph]:
    icons, named = read_json(path, "icons.json", "chars.json")
    codes: dict[str, str] = {}
    for hexcode, name in named.items():
        codes.setdefault(name, hexcode)
    for name, icon in icons.get("icons", {}).items():
        if icon.get("hidden"):
            continue
        if glyph_set.skip and re.fullmatch(glyph_set.skip, name):
            faults.add("left aside by name", f"{glyph_set.style}:{name}")
            continue
        box = _box(icon, icons)
        concept = concepts.find(name, codes.get(name, ""), glyph_set.run_together)
        if concept is None:
            faults.add("no readable name", f"{glyph_set.style}:{name}")
        elif box is None or not isinstance(icon.get("body"), str):
            faults.add("cannot be drawn", f"{glyph_set.style}:{name}")
        else:
            body, tint = icon["body"], ("", "")
            if glyph_set.tinted:
                english, chinese, colour = TINTS[int(fraction("openglyphs tint", name) * len(TINTS))]
                body, tint = body.replace("currentColor", colour), (english, chinese)
            yield Glyph(name, concept, Drawing(svg_text(body, *box), b""), tint=tint)


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
