"""Tensors to pictures: 8-bit conversion, labelled contact sheets, PNG files that remember their settings; and
stored pictures, whoever made them, to RGB."""

import io
import json
import unicodedata
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps, PngImagePlugin
from torch import Tensor

from impasto.runtime.files import atomic_path

PAPER, INK, MARGIN, LABEL_HEIGHT = (250, 249, 246), (40, 40, 40), 6, 18
METADATA_KEY = "impasto"
MOST_PIXELS = 1 << 26  # of a stored picture; more is taken for a decompression bomb
# Fonts with Chinese characters, as systems name their files; the font that Pillow brings has none.
CHINESE_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "NotoSansSC-Regular.otf",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "msyh.ttc",
    "simsun.ttc",
)


def to_images(batch: Tensor) -> list[Image.Image]:
    """[B, 3, H, W] in about [-1, 1] -> PIL images; (x + 1) / 2 * 255 rounded and clipped (published code)."""
    pixels = ((batch.detach().float() + 1) * 127.5 + 0.5).clamp(0, 255).byte()
    return [Image.fromarray(picture.permute(1, 2, 0).cpu().numpy()) for picture in pixels]


def from_images(pictures: Sequence[Image.Image]) -> Tensor:
    """PIL images of one size -> [N, 3, H, W] fp32 in [-1, 1]."""
    pixels = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


class PictureError(ValueError):
    """A file that gives no picture; the message is one of a few fixed reasons."""


def decode_picture(
    file: str | Path | BinaryIO,
    *,
    most_pixels: int = MOST_PIXELS,
    smallest_side: int = 1,
    formats: tuple[str, ...] | None = None,
) -> Image.Image:
    """A stored picture as RGB, turned as its EXIF orientation says, on white where it is transparent, 16 bits
    cut to 8, the first picture of several; formats: Pillow's names, None for all. Raises PictureError; the
    size is checked before anything large is unpacked. OSError for a file that cannot be opened."""
    with _opened(file) as stream:
        try:
            with Image.open(stream, formats=formats) as image:
                width, height = image.size
                if width * height > most_pixels:
                    raise PictureError("picture too large")
                if min(width, height) < smallest_side:
                    raise PictureError("picture too small")
                return _to_rgb(_upright(image))
        except PictureError:
            raise
        except Image.DecompressionBombError:
            raise PictureError("picture too large") from None
        except Exception:  # what Pillow's plugins raise on damaged files is not bounded
            raise PictureError("picture damaged") from None


def open_picture(path: str | Path) -> Image.Image:
    """An image file as `decode_picture` reads it. ValueError, in one line, for what is none."""
    try:
        return decode_picture(path)
    except (OSError, PictureError) as error:
        raise ValueError(f"{path}: {why_unreadable(error)}") from None


def why_unreadable(error: OSError | PictureError) -> str:
    """What to say of a picture that `decode_picture` did not read."""
    if isinstance(error, OSError):
        return "no such file" if isinstance(error, FileNotFoundError) else "a file that cannot be opened"
    if str(error) == "picture too large":
        return f"more than {MOST_PIXELS:,} pixels"
    return "not an image that can be read"


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]],
    labels: Sequence[str] = (),
    cell: int = 128,
    height: int | None = None,
) -> Image.Image:
    """A grid, one label above each row. Small pictures are enlarged to `cell` px (and `height`, if they are
    not square) by repeating pixels, so that what is seen is what was made."""
    tall = cell if height is None else height
    columns = max(len(row) for row in rows)
    label = LABEL_HEIGHT if labels else 0
    width = columns * (cell + MARGIN) + MARGIN
    sheet = Image.new("RGB", (width, len(rows) * (tall + MARGIN + label) + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, row in enumerate(rows):
        top = MARGIN + index * (tall + MARGIN + label)
        if labels:
            text, font = labels[index], label_font(labels[index])
            draw.text((MARGIN, top + 1), _shorten(text, font, width - 2 * MARGIN), INK, font)
        for column, picture in enumerate(row):
            position = (MARGIN + column * (cell + MARGIN), top + label)
            sheet.paste(picture.convert("RGB").resize((cell, tall), Image.Resampling.NEAREST), position)
    return sheet


def story_sheet(stories: Sequence[Sequence[str | Image.Image]], cell: int = 160) -> Image.Image:
    """A row for each story of texts and pictures: its pictures, its texts above them."""
    rows = [[part for part in story if not isinstance(part, str)] for story in stories]
    labels = [" | ".join(part for part in story if isinstance(part, str)) for story in stories]
    blank = Image.new("RGB", (cell, cell), PAPER)
    return contact_sheet([row or [blank] for row in rows], labels, cell=cell)


def captioned_sheet(
    pictures: Sequence[Image.Image], captions: Sequence[str], cell: int = 96, columns: int = 4, lines: int = 3
) -> Image.Image:
    """A grid of pictures, each with its caption beside it in at most so many lines; pictures are enlarged to
    `cell` px by repeating pixels."""
    text_width, line_height = 2 * cell, LABEL_HEIGHT - 2
    wide, tall = cell + text_width + 3 * MARGIN, max(cell, lines * line_height) + MARGIN
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * wide + MARGIN, rows * tall + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        left, top = MARGIN + index % columns * wide, MARGIN + index // columns * tall
        sheet.paste(picture.convert("RGB").resize((cell, cell), Image.Resampling.NEAREST), (left, top))
        font = label_font(caption)
        for number, line in enumerate(_wrapped(caption, font, text_width, lines)):
            draw.text((left + cell + MARGIN, top + number * line_height), line, INK, font)
    return sheet


# Colours that stay apart, also for most colour-blind readers (Okabe and Ito), then more for many experts.
PALETTE = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0),
    (204, 121, 167), (120, 120, 120), (90, 40, 130), (150, 200, 60), (250, 170, 160), (60, 60, 160),
    (160, 110, 60), (0, 200, 200), (180, 0, 60), (20, 60, 40),
)  # fmt: skip


def routing_pictures(maps: Sequence[Tensor]) -> list[Image.Image]:
    """One picture per MoE layer from expert indices [h, w] int64: a colour for each expert."""
    palette = np.array(PALETTE, dtype=np.uint8)
    return [Image.fromarray(palette[(layer % len(palette)).cpu().numpy()]) for layer in maps]


def label_font(text: str) -> Any:
    """A font that has the characters of a text, if the system has one."""
    return _font(any(map(_is_wide, text)))


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF"


@cache
def _font(wide: bool) -> Any:
    """For labels; with Chinese characters if the system has a font of them (boxes are drawn where not)."""
    for name in CHINESE_FONTS if wide else ():
        try:
            return ImageFont.truetype(name, 12)
        except OSError:
            continue
    return ImageFont.load_default(size=12)


def _shorten(text: str, font: Any, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _wrapped(text: str, font: Any, width: int, most: int) -> list[str]:
    """At most so many lines, broken at blanks and within words that are wider than a line (Chinese has no
    blanks); the last one is shortened if there is more."""
    lines: list[str] = []
    rest = text.strip()
    while rest and len(lines) < most - 1 and font.getlength(rest) > width:
        end = next(n for n in range(len(rest), 0, -1) if n == 1 or font.getlength(rest[:n]) <= width)
        blank = rest.rfind(" ", 0, end + 1)
        end = blank if blank > 0 else end
        lines.append(rest[:end])
        rest = rest[end:].strip()
    return [*lines, _shorten(rest, font, width)]


def encode_png(image: Image.Image, settings: dict[str, Any] | None = None) -> bytes:
    """A PNG file; `settings` travel inside under the key "impasto" as JSON."""
    info, file = PngImagePlugin.PngInfo(), io.BytesIO()
    if settings is not None:
        info.add_itxt(METADATA_KEY, json.dumps(settings, ensure_ascii=False))
    image.save(file, format="PNG", pnginfo=info)
    return file.getvalue()


def save_png(image: Image.Image, path: Path, settings: dict[str, Any] | None = None) -> None:
    """`encode_png`, written atomically."""
    encoded = encode_png(image, settings)
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded)


def read_settings(file: Path | BinaryIO) -> dict[str, Any]:
    """The settings a picture was made with; {} for pictures that carry none. OSError for what is no picture,
    ValueError for settings that are not JSON."""
    with Image.open(file) as image:
        return json.loads(image.info.get(METADATA_KEY, "{}"))


def _opened(file: str | Path | BinaryIO) -> AbstractContextManager[BinaryIO]:
    return open(file, "rb") if isinstance(file, str | Path) else nullcontext(file)


def _upright(image: Image.Image) -> Image.Image:
    if "exif" not in image.info and image.format == "JPEG":  # asking for it costs more than looking
        return image
    return ImageOps.exif_transpose(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.int64) >> 8
        return Image.fromarray(levels.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")
