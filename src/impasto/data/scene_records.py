"""Scenes as a set that ends: so many of them, drawn at one size, with a caption in each language."""

import io
import re

import numpy as np

from impasto.data.options import Format
from impasto.data.records import Caption, DataError, Faults, Record
from impasto.data.scenes import caption, render, sample_scene

NAME = re.compile(r"scenes:([1-9]\d*)(?::([1-9]\d*))?")
SIDE = 64


class SceneRecords:
    """Scene n, as a PNG file of `side` pixels, is a function of (seed, n)."""

    format: Format = "scenes"

    def __init__(self, count: int, side: int = SIDE, seed: int = 0) -> None:
        self.count, self.side, self.seed, self.faults = count, side, seed, Faults()

    @classmethod
    def named(cls, source: str) -> "SceneRecords":
        """From 'scenes:COUNT' or 'scenes:COUNT:SIDE', the side in pixels. DataError for anything else."""
        match = NAME.fullmatch(source)
        if match is None:
            raise DataError(f"'{source}' should be scenes:COUNT or scenes:COUNT:SIDE, such as scenes:1000:64")
        return cls(int(match[1]), int(match[2] or SIDE))

    @property
    def fingerprint(self) -> str:
        return f"scenes:{self.count}:{self.side}:{self.seed}"

    def __len__(self) -> int:
        return self.count

    def key(self, index: int) -> str:
        return f"scene {index}"

    def read(self, index: int) -> Record:
        rng = np.random.default_rng((self.seed, index))
        scene = sample_scene(rng)
        captions = tuple(Caption(caption(scene, rng, language=name), name) for name in ("en", "zh"))
        file = io.BytesIO()
        render(scene, size=self.side).save(file, format="PNG")
        details = {"licence": "Apache-2.0"}
        return Record(self.key(index), file.getvalue(), captions, details)
