"""Pictures of the finished set: what is said of each, and in which order they are written."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from impasto.data.glyphs.captions import captions_of
from impasto.data.glyphs.concepts import Concept
from impasto.data.glyphs.glyph import Glyph
from impasto.data.glyphs.packages import GlyphSet
from impasto.data.glyphs.render import BACKGROUNDS
from impasto.data.glyphs.splits import Cell, fraction
from impasto.data.glyphs.spool import Kept, Spool
from impasto.data.options import Format
from impasto.data.records import Caption, Faults, Record


class Picture(NamedTuple):
    """One picture of the finished set."""

    glyph_set: GlyphSet
    spool: Spool
    kept: Kept
    glyph: Glyph
    split: str

    @property
    def concept(self) -> Concept:
        return self.glyph.concept

    @property
    def cell(self) -> Cell:
        """What is held out together."""
        return self.concept.base, self.glyph_set.family

    @property
    def licence(self) -> str:
        return self.glyph.licence_in(self.glyph_set)


class GlyphRecords:
    """The pictures of one split, in an order that mixes styles and subjects."""

    format: Format = "webdataset"

    def __init__(self, pictures: Sequence[Picture], fingerprint: str) -> None:
        self.pictures = sorted(pictures, key=_mixed)
        self.faults, self.fingerprint = Faults(), fingerprint

    def __len__(self) -> int:
        return len(self.pictures)

    def key(self, index: int) -> str:
        picture = self.pictures[index]
        return f"{picture.glyph_set.style}:{picture.kept.name}"

    def read(self, index: int) -> Record:
        picture = self.pictures[index]
        return Record(
            self.key(index),
            picture.spool.read(picture.kept),
            captions_of_picture(picture),
            details_of(picture),
        )


def captions_of_picture(picture: Picture) -> tuple[Caption, ...]:
    """In English and Chinese, the first one with the style."""
    _, english, chinese = BACKGROUNDS[picture.kept.background]
    return captions_of(picture.concept, picture.glyph_set, (english, chinese), picture.glyph.tint)


def details_of(picture: Picture) -> dict[str, Any]:
    """What the set says of a picture, besides its captions: goes into its JSON."""
    glyph_set, concept, package = picture.glyph_set, picture.concept, picture.glyph_set.package
    details = {
        "style": glyph_set.style,
        "concept": concept.base_name,
        "concept_key": concept.base,
        "shown": concept.key,
        "split": picture.split,
        "group": glyph_set.group,
        "background": picture.kept.background,
        "licence": picture.licence,
        "attribution": picture.glyph.attribution_in(glyph_set),
        "package": package.name,
        "package_version": package.version,
        "source": f"{package.requirement}:{picture.kept.name}",
    }
    return details | ({"colour": picture.glyph.tint[0]} if picture.glyph.tint[0] else {})


def _mixed(picture: Picture) -> tuple[float, str, str]:
    place = fraction("openglyphs order", picture.kept.name, picture.glyph_set.style)
    return place, picture.glyph_set.style, picture.kept.name
