"""The sets beside the core, in groups named by what they are: taken only where they are asked for.

Of Tux Paint's photographs the package says GPL, and its list of changes other licences of some (stamps.py);
so their group is named for that.
"""

from impasto.data.glyphs.packages import DebianPackage, GlyphSet, iconify

STAMPS = DebianPackage(
    name="tuxpaint-stamps-default",
    version="2022.06.04-1",
    sha256="6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
    release="bookworm",
)
OPTIONAL = (
    GlyphSet(
        style="openmoji",
        package=iconify(
            "openmoji", "1.2.29", "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5"
        ),
        kind="iconify",
        group="share-alike",
        licence="CC-BY-SA-4.0",
        author="OpenMoji, the open-source emoji and icon project",
        home="https://github.com/hfg-gmuend/openmoji",
        english="outline style",
        chinese="描边风格",
    ),
    GlyphSet(
        style="emojione-v1",
        package=iconify(
            "emojione-v1", "1.2.3", "6641d59d48a42823fdc2b84e7427e9f302944eb98d2c7d94d6e67c139e7b37b3"
        ),
        kind="iconify",
        group="share-alike",
        licence="CC-BY-SA-4.0",
        author="Emoji One (v1), Emoji One",
        home="https://github.com/joypixels/emojione-legacy",
        english="old emojione style",
        chinese="旧版EmojiOne风格",
    ),
    GlyphSet(
        style="streamline",
        package=iconify(
            "streamline-emojis", "1.2.4", "5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc"
        ),
        kind="iconify",
        group="icons",
        licence="CC-BY-4.0",
        author="Streamline Emojis, Streamline",
        home="https://github.com/webalys-hq/streamline-vectors",
        english="streamline style",
        chinese="Streamline风格",
    ),
    GlyphSet(
        style="game-icons",
        package=iconify(
            "game-icons", "1.2.4", "f5758efb34d91c4f50b941f355f16ee73938625e5996fabc25171288404460a4"
        ),
        kind="iconify",
        group="icons",
        licence="CC-BY-3.0",
        author="Game Icons, the authors of game-icons.net",
        home="https://github.com/game-icons/icons",
        english="silhouette",
        chinese="剪影",
        called="icon",
        tinted=True,
        skip=r"abstract-\d+",
    ),
    GlyphSet(
        style="flat-color-icons",
        package=iconify(
            "flat-color-icons", "1.2.3", "d8878a9b0f02d749bc8671eb7d47882eb711185cbcefbb365cbfb488773c4786"
        ),
        kind="iconify",
        group="icons",
        licence="MIT",
        author="Flat Color Icons, Icons8",
        home="https://github.com/icons8/flat-Color-icons",
        english="flat icon style",
        chinese="扁平图标风格",
        called="icon",
    ),
    GlyphSet(
        style="streamline-ultimate",
        package=iconify(
            "streamline-ultimate-color",
            "1.2.2",
            "46133a11f3734bcef29066391d7edc141ed1d8056242ddfa1b5d36ce286420b6",
        ),
        kind="iconify",
        group="icons",
        licence="CC-BY-4.0",
        author="Ultimate color icons, Streamline",
        home="https://github.com/webalys-hq/streamline-vectors",
        english="outlined color icon style",
        chinese="彩色线条图标风格",
        called="icon",
        skip=r".*\blogo\b.*",
    ),
    GlyphSet(
        style="streamline-freehand",
        package=iconify(
            "streamline-freehand-color",
            "1.2.2",
            "00d74cbddaf1bcf35c8614ac0544d10af69c7cee8801475473fe424ee0c0c642",
        ),
        kind="iconify",
        group="icons",
        licence="CC-BY-4.0",
        author="Freehand color icons, Streamline",
        home="https://github.com/webalys-hq/streamline-vectors",
        english="freehand icon style",
        chinese="手绘图标风格",
        called="icon",
        skip=r".*\blogo\b.*",
    ),
    GlyphSet(
        style="clip-art",
        package=DebianPackage(
            name="openclipart-svg",
            version="1:0.18+dfsg-19",
            sha256="989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
            release="bookworm",
        ),
        kind="clip art",
        group="public-domain",
        licence="public domain",
        author="Open Clip Art Library 0.18",
        home="https://openclipart.org",
        english="clip art style",
        chinese="剪贴画风格",
        called="drawing",
    ),
    GlyphSet(
        style="photo",
        package=STAMPS,
        kind="stamps",
        group="photographs-mixed-licences",
        licence="GPL-2.0-or-later",
        author="Tux Paint stamps, Bill Kendrick and contributors",
        home="https://tuxpaint.org",
        english="photo",
        chinese="照片",
        called="photograph",
    ),
)
