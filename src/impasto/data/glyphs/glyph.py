"""One drawing of a set."""

from typing import NamedTuple

from impasto.data.glyphs.concepts import Concept
from impasto.data.glyphs.packages import GlyphSet
from impasto.data.glyphs.render import Drawing


class Glyph(NamedTuple):
    """`name`: of the icon or file within its package. `tint`: in English and Chinese, the colour that was
    chosen for it. `licence`, `author`: its own, where they are not its set's."""

    name: str
    concept: Concept
    drawing: Drawing
    tint: tuple[str, str] = ("", "")
    licence: str = ""
    author: str = ""

    def licence_in(self, glyph_set: GlyphSet) -> str:
        return self.licence or glyph_set.licence

    def attribution_in(self, glyph_set: GlyphSet) -> str:
        """One line: who made it, where it is from, under which licence."""
        if not (self.licence or self.author):
            return glyph_set.attribution
        maker = f"{self.author}; {glyph_set.author}" if self.author else glyph_set.author
        return f"{maker} ({glyph_set.home}), {self.licence_in(glyph_set)}"
