"""Sets of pictures to measure: how they are prepared, and their features.

Nothing is resized unless asked for: pictures of one set, and of all sets that are compared, have one size, or
`side` says to which square they are cropped and resized. A picture that cannot be read is counted by its
reason and left out; no other takes its place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from impasto.config import ConfigError
from impasto.data.options import DatasetOptions
from impasto.data.records import BadSampleError, DataError, Faults
from impasto.data.transforms import decode, fit
from impasto.metrics.extractors import Extractor
from impasto.metrics.picture_sources import PictureSet
from impasto.runtime.dist import Ranks

BATCH, WORKERS = 64, 2
ALONE = Ranks()
DECODING = DatasetOptions()  # its limits, a crop of the centre, Lanczos

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class SetFeatures:
    """The good pictures of a set: features [N, D] fp32, and for each its number in the set, its name and its
    prompt. `size`: (width, height) as stored where all have one, before any resizing; `enlarged`: how many
    were smaller than the side asked for; `content`: sha256 over names and bytes; `skipped`: files by
    reason."""

    features: Tensor
    indices: tuple[int, ...]
    names: tuple[str, ...]
    prompts: tuple[str | None, ...]
    size: tuple[int, int] | None
    enlarged: int
    content: str
    skipped: dict[str, list[str]] = field(default_factory=dict)


def preparation(side: int | None) -> dict[str, Any]:
    """How pictures are prepared, for reports and as part of a cache's key."""
    return {
        "resize": side,
        "crop": "none; the pictures are square" if side is None else "centre",
        "resampling": "none" if side is None else "lanczos (Pillow)",
        "transparency": "on white",
        "orientation": "as EXIF says",
    }


def prepare(data: bytes, name: str, side: int | None) -> tuple[Image.Image, tuple[int, int]]:
    """A picture as the extractor gets it, and the size it is stored at. Raises BadSampleError."""
    image = decode(data, name, DECODING)
    return (image if side is None else Image.fromarray(fit(image, side, DECODING))), image.size


def measure_features(
    pictures: PictureSet,
    extractor: Extractor,
    side: int | None = None,
    *,
    batch: int = BATCH,
    workers: int = WORKERS,
    progress: Progress = lambda done, total: None,
    ranks: Ranks = ALONE,
) -> SetFeatures:
    """Features of every picture that can be read; no more than two batches of pictures are held at once. Of
    several ranks each takes every so manieth batch, and all get the whole.

    Raises ConfigError where sizes are mixed or not square and no side is given, DataError where no picture
    can be read.
    """
    if side is not None and side < 1:
        raise ConfigError(f"--resize {side} should be a number of pixels")
    batches = list(range(0, len(pictures), batch))[ranks.rank :: ranks.world_size]
    numbers = [range(start, min(start + batch, len(pictures))) for start in batches]
    total = sum(map(len, numbers))
    bad, rows, done = [], _Rows(total, batch), 0
    kept: list[_Loaded] = []
    for loaded in _batches(pictures, side, numbers, workers):
        bad += [(item.reason, item.name) for item in loaded if isinstance(item, BadSampleError)]
        good = [item for item in loaded if isinstance(item, _Loaded)]
        for item in good if side is None else ():
            _check_size(item, kept[0] if kept else good[0])
        if good:
            rows.add(extractor, [item.pixels for item in good])
            kept += [item._replace(pixels=_NOTHING) for item in good]
        done += len(loaded)
        progress(done, total)
    parts = ranks.gather_objects((kept, bad, rows.filled())) if ranks.world_size > 1 else None
    if parts is None:
        return _joined(pictures, side, kept, bad, rows.filled())
    everything = [item for part, _, _ in parts for item in part]
    order = sorted(range(len(everything)), key=lambda place: everything[place].number)
    features = [found for _, _, found in parts if len(found)]
    return _joined(
        pictures,
        side,
        [everything[place] for place in order],
        [fault for _, faults, _ in parts for fault in faults],
        torch.cat(features)[order] if features else torch.empty(0, 0),
    )


def _joined(
    pictures: PictureSet,
    side: int | None,
    kept: list[_Loaded],
    bad: list[tuple[str, str]],
    features: Tensor,
) -> SetFeatures:
    """What all ranks found, in the order of the set."""
    skipped, digest = Faults(), hashlib.sha256()
    for reason, name in [*pictures.faults, *sorted(bad, key=lambda fault: fault[1])]:
        skipped.add(reason, name)
    for item in kept:
        digest.update(item.name.encode("utf-8", "surrogateescape") + b"\0" + item.digest)
        if side is None:
            _check_size(item, kept[0])
    if not kept:
        raise DataError(f"{pictures.source} holds no picture that can be read: {skipped.summary()}")
    sizes = {item.size for item in kept}
    return SetFeatures(
        features=features,
        indices=tuple(item.number for item in kept),
        names=tuple(item.name for item in kept),
        prompts=tuple(item.prompt for item in kept),
        size=sizes.pop() if len(sizes) == 1 else None,
        enlarged=sum(min(item.size) < side for item in kept) if side is not None else 0,
        content=digest.hexdigest(),
        skipped=skipped.files(),
    )


class _Loaded(NamedTuple):
    number: int
    name: str
    prompt: str | None
    size: tuple[int, int]
    digest: bytes
    pixels: np.ndarray


class _Rows:
    """Features as they come. The memory is taken once: batches and features that are allocated in turn leave
    holes in the heap that grow by a batch each time (measured with glibc)."""

    def __init__(self, most: int, batch: int) -> None:
        self._most, self._batch, self._count = most, batch, 0
        self._images: Tensor | None = None
        self._features: Tensor | None = None

    def add(self, extractor: Extractor, pictures: list[np.ndarray]) -> None:
        if self._images is None:
            self._images = torch.empty(min(self._batch, self._most), 3, *pictures[0].shape[:2])
        images = self._images[: len(pictures)]
        for image, pixels in zip(images, pictures, strict=True):
            image.copy_(torch.from_numpy(pixels.copy()).permute(2, 0, 1))
        found = extractor.features(images.div_(127.5).sub_(1))
        if self._features is None:
            self._features = torch.empty(self._most, found.shape[1])
        self._features[self._count : self._count + len(found)] = found
        self._count += len(found)

    def filled(self) -> Tensor:
        if self._features is None:
            return torch.empty(0, 0)
        return self._features if self._count == self._most else self._features[: self._count].clone()


_NOTHING = np.empty(0, dtype=np.uint8)


def _load(pictures: PictureSet, index: int, side: int | None) -> _Loaded | BadSampleError:
    try:
        stored = pictures.read(index)
        image, size = prepare(stored.data, stored.name, side)
    except BadSampleError as bad:
        return bad
    digest = hashlib.sha256(stored.data).digest()
    return _Loaded(index, stored.name, stored.prompt, size, digest, np.asarray(image))


def _batches(
    pictures: PictureSet, side: int | None, numbers: list[range], workers: int
) -> Iterator[list[_Loaded | BadSampleError]]:
    """Batches in order, the next one read while one is used."""
    with ThreadPoolExecutor(max(1, workers), "pictures") as pool:
        pending: list = []
        for indices in numbers:
            ahead = [pool.submit(_load, pictures, index, side) for index in indices]
            if pending:
                yield [task.result() for task in pending]
            pending = ahead
        yield [task.result() for task in pending]


def _check_size(item: _Loaded, first: _Loaded) -> None:
    if item.size != first.size:
        one, other = (f"{x.name} is {x.size[0]}x{x.size[1]}" for x in (first, item))
        raise ConfigError(f"sizes are mixed ({one}, {other}); --resize SIDE crops and resizes them")
    if item.size[0] != item.size[1]:
        size = f"{item.size[0]}x{item.size[1]}"
        raise ConfigError(f"{item.name} is {size}, not square; --resize SIDE crops and resizes all")
