"""A drawing to a square of pixels: SVG by resvg, stored pictures by Pillow, on a stated background.

The drawing is painted at a larger size, put on the background there (so that half-transparent edges mix as
they should) with a margin, and made smaller by Lanczos. No fonts are used: text in a drawing would depend on
the machine.
"""

import io
import math
import re
from typing import NamedTuple

import numpy as np
from PIL import Image

from impasto.data.glyphs.dedupe import Look, look_of
from impasto.data.records import DataError

SIZES = (64, 128, 256)
MARGIN = 1 / 32  # of a side of the result, on each side
LEAST_CONTRAST = 3.0  # standard deviation, in levels, of the channel that varies most
LOOK_GROUND = (150, 165, 185)  # duplicates are looked for on this, where white and black drawings show
LARGEST_ASPECT = 6.0
LARGEST_SIDE = 2048  # to which a small drawing on a large sheet is painted
FAINT = 8  # levels of alpha that do not count when a drawing is cropped
REFERENCE = re.compile(r"""(?:href\s*=\s*["']|url\(\s*["']?)(?!#|data:)\s*[^\s"')]""")
BACKGROUNDS = {
    "white": ((255, 255, 255), "white", "白色"),
    "light gray": ((222, 222, 222), "light gray", "浅灰色"),
    "light blue": ((198, 224, 247), "light blue", "浅蓝色"),
    "light green": ((206, 236, 205), "light green", "浅绿色"),
    "light yellow": ((252, 243, 191), "light yellow", "浅黄色"),
    "pink": ((250, 214, 224), "pink", "粉色"),
    "dark blue": ((32, 44, 84), "dark blue", "深蓝色"),
    "black": ((0, 0, 0), "black", "黑色"),
}


class Drawing(NamedTuple):
    """What is painted: the text of an SVG, or the bytes of a stored picture. `crop`: what is empty around it
    goes, as on a sheet of paper with a small drawing."""

    svg: str
    picture: bytes
    crop: bool = False


class Task(NamedTuple):
    """A drawing to paint, its side in pixels, and what it stands on (RGB, 8 bits)."""

    drawing: Drawing
    size: int
    background: tuple[int, int, int]


class Painted(NamedTuple):
    """`png`: the file, empty where `fault` says why there is none."""

    png: bytes
    look: Look
    fault: str


def paint(task: Task) -> Painted:
    """Deterministic: the same task gives the same bytes, in any process."""
    side = max(128, task.size)
    try:
        layer = (_cropped if task.drawing.crop else _layer)(task.drawing, side)
    except Exception:  # what Pillow's plugins raise on damaged files is not bounded
        return _fault("cannot be drawn")
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # Rust's, which is no Exception
            raise
        return _fault("cannot be drawn")
    if layer is None:
        return _fault("refers to other files")
    if layer.getchannel("A").getbbox() is None:
        return _fault("nothing to see")
    if task.drawing.crop and max(layer.size) > LARGEST_ASPECT * min(layer.size):
        return _fault("too narrow")
    picture = _on(layer, task.background).resize((task.size, task.size), Image.Resampling.LANCZOS)
    if np.asarray(picture).reshape(-1, 3).std(axis=0).max() < LEAST_CONTRAST:
        return _fault("no contrast with the background")
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return Painted(file.getvalue(), look_of(_on(layer, LOOK_GROUND)), "")


def require_renderer() -> str:
    """The version of resvg's binding. DataError where it is not installed."""
    try:
        import resvg_py
    except ImportError:
        raise DataError("drawing SVG needs resvg-py: pip install 'impasto[glyphs]'") from None
    return str(resvg_py.__version__)


def svg_text(body: str, left: float, top: float, width: float, height: float) -> str:
    """A whole document around the contents of an icon."""
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left:g} {top:g} {width:g} {height:g}" width="{width:g}" height="{height:g}">{body}</svg>'
    )


def _layer(drawing: Drawing, side: int) -> Image.Image | None:
    """RGBA with straight alpha, its longer side `side`. None: it asks for files outside itself."""
    if drawing.picture:
        data = drawing.picture
    elif REFERENCE.search(drawing.svg):
        return None
    else:
        import resvg_py

        data = bytes(
            resvg_py.svg_to_bytes(svg_string=drawing.svg, skip_system_fonts=True, width=side, dpi=96)
        )
    with Image.open(io.BytesIO(data), formats=("PNG", "WEBP")) as stored:
        return stored.convert("RGBA")


def _cropped(drawing: Drawing, side: int) -> Image.Image | None:
    """Like `_layer`, without what is empty around the drawing; an SVG is painted again for that, larger."""
    layer = _layer(drawing, side)
    box = _visible(layer)
    if layer is None or box is None:
        return layer
    inside = max(box[2] - box[0], box[3] - box[1])
    if drawing.svg and inside < max(layer.size):
        width = min(LARGEST_SIDE, math.ceil(layer.width * side / inside))
        layer = _layer(drawing, width)
        box = _visible(layer)
    return layer.crop(box) if layer is not None and box is not None else layer


def _visible(layer: Image.Image | None) -> tuple[int, int, int, int] | None:
    """left, top, right, bottom of what can be seen; None for nothing."""
    return None if layer is None else layer.getchannel("A").point(lambda a: 255 * (a > FAINT)).getbbox()


def _on(layer: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """RGB: the layer in the middle of a square with a margin, painted over the background."""
    longer = max(layer.size)
    margin = round(longer * MARGIN / (1 - 2 * MARGIN))
    ground = Image.new("RGBA", (longer + 2 * margin, longer + 2 * margin), (*background, 255))
    place = ((ground.width - layer.width) // 2, (ground.height - layer.height) // 2)
    ground.alpha_composite(layer, place)
    return ground.convert("RGB")


def _fault(reason: str) -> Painted:
    return Painted(b"", Look("", b""), reason)
