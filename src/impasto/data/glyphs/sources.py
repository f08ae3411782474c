"""The sets that Open Glyphs has: exact versions, checksums, licences, authors, words for a style.

The core's are here. Its licences are MIT, Apache-2.0 and CC-BY; the other groups are in optional.py.
"""

from impasto.data.glyphs.optional import OPTIONAL
from impasto.data.glyphs.packages import GlyphSet, Package, iconify

LABELS = Package(
    name="emojibase-data",
    version="17.0.0",
    sha256="d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
)
LABELS_ATTRIBUTION = "names and keywords: emojibase-data (MIT), from Unicode CLDR (Unicode-3.0)"

CORE = (
    GlyphSet(
        style="fluent-3d",
        package=Package(
            name="@lobehub/fluent-emoji-3d",
            version="1.1.0",
            sha256="c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        ),
        kind="pictures",
        group="core",
        licence="MIT",
        author="Fluent Emoji, Microsoft Corporation; packaged by LobeHub",
        home="https://github.com/microsoft/fluentui-emoji",
        english="3d style",
        chinese="3D风格",
    ),
    GlyphSet(
        style="noto",
        package=iconify("noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
        kind="iconify",
        group="core",
        licence="Apache-2.0",
        author="Noto Emoji, Google Inc",
        home="https://github.com/googlefonts/noto-emoji",
        english="noto style",
        chinese="Noto风格",
    ),
    GlyphSet(
        style="twemoji",
        package=iconify(
            "twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"
        ),
        kind="iconify",
        group="core",
        licence="CC-BY-4.0",
        author="Twemoji, Twitter Inc and other contributors",
        home="https://github.com/jdecked/twemoji",
        english="twemoji style",
        chinese="Twemoji风格",
    ),
    GlyphSet(
        style="fluent-flat",
        package=iconify(
            "fluent-emoji-flat", "1.2.6", "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175"
        ),
        kind="iconify",
        group="core",
        licence="MIT",
        author="Fluent Emoji, Microsoft Corporation",
        home="https://github.com/microsoft/fluentui-emoji",
        english="flat style",
        chinese="扁平风格",
    ),
    GlyphSet(
        style="fluent-gradient",
        package=iconify(
            "fluent-emoji", "1.2.7", "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b"
        ),
        kind="iconify",
        group="core",
        licence="MIT",
        author="Fluent Emoji, Microsoft Corporation",
        home="https://github.com/microsoft/fluentui-emoji",
        english="gradient style",
        chinese="渐变风格",
        like="fluent-3d",
    ),
    GlyphSet(
        style="noto-blob",
        package=iconify(
            "noto-v1", "1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37"
        ),
        kind="iconify",
        group="core",
        licence="Apache-2.0",
        author="Noto Emoji (v1), Google Inc",
        home="https://github.com/googlefonts/noto-emoji",
        english="blob style",
        chinese="团子风格",
    ),
    GlyphSet(
        style="emojione",
        package=iconify(
            "emojione", "1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e"
        ),
        kind="iconify",
        group="core",
        licence="CC-BY-4.0",
        author="Emoji One (EmojiTwo), Emoji One",
        home="https://github.com/EmojiTwo/emojitwo",
        english="emojione style",
        chinese="EmojiOne风格",
    ),
    GlyphSet(
        style="firefox",
        package=iconify(
            "fxemoji", "1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef"
        ),
        kind="iconify",
        group="core",
        licence="Apache-2.0",
        author="Firefox OS Emoji, Mozilla",
        home="https://github.com/mozilla/fxemoji",
        english="firefox style",
        chinese="火狐风格",
        run_together=True,
    ),
)
SETS = (*CORE, *OPTIONAL)


def groups() -> tuple[str, ...]:
    """Every group, core first."""
    return tuple(dict.fromkeys(glyph_set.group for glyph_set in SETS))
