"""Stored pictures to squares of pixels: decoding with limits, cropping, antialiased resizing (Pillow)."""

import io

import numpy as np
from PIL import Image

from impasto.data.options import DatasetOptions
from impasto.data.records import BadSampleError
from impasto.pictures import PictureError, decode_picture

FORMATS = ("JPEG", "PNG", "WEBP")
RESAMPLING = {"lanczos": Image.Resampling.LANCZOS, "box": Image.Resampling.BOX}


def decode(data: bytes, name: str, options: DatasetOptions) -> Image.Image:
    """The bytes of a file as `decode_picture` reads them, within the options' limits. Raises
    BadSampleError."""
    try:
        return decode_picture(
            io.BytesIO(data),
            most_pixels=options.max_pixels,
            smallest_side=options.smallest_side,
            formats=FORMATS,
        )
    except PictureError as error:
        raise BadSampleError(str(error), name) from None


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
