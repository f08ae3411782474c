"""How a set of captioned pictures is read: the part `dataset` of a run's configuration."""

from dataclasses import dataclass, field
from typing import Literal

from impasto.config import ConfigError
from impasto.pictures import MOST_PIXELS

Format = Literal["auto", "webdataset", "folder", "metadata", "datasets", "scenes", "stream"]
LARGEST_PICTURE = 178_956_970  # pixels; beyond this Pillow refuses by itself


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """`source`, `format`, `samples` and `fingerprint` are filled in from --data when a run starts.
    ConfigError for a value out of range."""

    source: str = ""  # as --data named it; empty: scenes
    format: Format = "auto"
    samples: int = 0  # in the order, after what was left out on opening
    fingerprint: str = ""  # of names and numbering, so that a resumed run notices another set
    split: str = "train"  # of a `datasets` directory that has several
    caption_column: str = ""  # empty: captions, caption, texts or text
    picture_column: str = ""  # of a `datasets` directory; empty: the first column of pictures
    languages: dict[str, float] = field(default_factory=dict)  # weights; empty: all captions alike
    phrasings: int = 0  # only the first so many captions of each language; 0: all
    exclude: tuple[str, ...] = ()  # leave out samples with a caption that contains one of these
    crop: Literal["center", "random", "squash"] = "center"  # the largest square; squash: the whole picture
    resize: Literal["lanczos", "box"] = (
        "lanczos"  # both antialiased: over all source pixels of a target pixel
    )
    flips: bool = False  # left-right; captions say left and right
    smallest_side: int = 1  # pixels; a picture with a shorter side is bad
    max_pixels: int = MOST_PIXELS  # of a stored picture; more is taken for a decompression bomb
    max_bad: float = 0.05  # share of bad samples beyond which a run stops
    workers: int = 2  # threads that read ahead; the result is the same in any number
    text_features: str = ""  # folder that `impasto data texts` filled; empty: encode as they come
    cache: str = ""  # folder for the index of tar files; empty: beside them, else the user's cache

    def __post_init__(self) -> None:
        if not 0 <= self.max_bad <= 1:
            raise ConfigError(f"dataset.max_bad={self.max_bad} should be a share, from 0 to 1")
        if not 0 < self.max_pixels <= LARGEST_PICTURE:
            raise ConfigError(f"dataset.max_pixels={self.max_pixels} should be 1 to {LARGEST_PICTURE}")
        if self.smallest_side < 1 or self.workers < 0 or self.phrasings < 0:
            raise ConfigError(
                "dataset.smallest_side should be at least 1, dataset.workers and dataset.phrasings at least 0"
            )
        if any(not words.strip() for words in self.exclude):
            raise ConfigError("dataset.exclude should hold words; an empty text is in every caption")
        weights = self.languages.values()
        if self.languages and (min(weights) < 0 or not 0 < sum(weights) < float("inf")):
            raise ConfigError(f"dataset.languages={self.languages} should be weights, not all zero")
