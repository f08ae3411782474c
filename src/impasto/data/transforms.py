"""Stored pictures to squares of pixels: decoding with limits, cropping, antialiased resizing (Pillow)."""

import io

import numpy as np
from PIL import Image, ImageOps

from impasto.data.options import DatasetOptions
from impasto.data.records import BadSampleError

FORMATS = ("JPEG", "PNG", "WEBP")
RESAMPLING = {"lanczos": Image.Resampling.LANCZOS, "box": Image.Resampling.BOX}


def decode(data: bytes, name: str, options: DatasetOptions) -> Image.Image:
    """The bytes of a file as RGB, turned as its EXIF orientation says, on white where it is transparent, 16
    bits cut to 8, the first picture of several. Raises BadSampleError; the size is checked before anything
    large is unpacked."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > options.max_pixels:
                raise BadSampleError("picture too large", name)
            if min(width, height) < options.smallest_side:
                raise BadSampleError("picture too small", name)
            return _to_rgb(_upright(image))
    except BadSampleError:
        raise
    except Image.DecompressionBombError:
        raise BadSampleError("picture too large", name) from None
    except Exception:  # what Pillow's plugins raise on damaged files is not bounded
        raise BadSampleError("picture damaged", name) from None


def fit(
    image: Image.Image, side: int, options: DatasetOptions, rng: np.random.Generator | None = None
) -> np.ndarray:
    """[side, side, 3] of 8-bit values: crop, resize, maybe flip. `rng` is needed for what is random."""
    width, height = image.size
    if options.crop == "squash":
        box = (0, 0, width, height)
    else:
        edge, share = min(width, height), 0.5
        if options.crop == "random":
            assert rng is not None
            share = rng.random()
        left, top = int((width - edge) * share), int((height - edge) * share)
        box = (left, top, left + edge, top + edge)
    if box == (0, 0, side, side) == (0, 0, width, height):
        small = image
    else:
        small = image.resize((side, side), RESAMPLING[options.resize], box=box)
    pixels = np.asarray(small)
    if options.flips:
        assert rng is not None
        if rng.random() < 0.5:
            pixels = pixels[:, ::-1]
    return pixels


def is_random(options: DatasetOptions) -> bool:
    """Whether `fit` draws."""
    return options.flips or options.crop == "random"


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
