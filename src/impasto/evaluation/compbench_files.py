"""What a user supplies for T2I-CompBench: parses, detections, depth maps, lists of objects."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from impasto.config import ConfigError
from impasto.metrics.compbench import Detection

Rows = dict[str, Any]


def read_rows(name: str, key: str) -> dict[str, Rows]:
    """Lines of JSON by what stands under `key`. Raises ConfigError, naming file and line."""
    path = Path(name)
    if not path.is_file():
        raise ConfigError(f"{name}: no such file")
    rows = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            rows[str(row[key])] = row
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"{name}: line {number} is no JSON object with '{key}'") from None
    return rows


def row_of(rows: Mapping[str, Rows], key: str, file: str) -> Rows:
    """The row of a key. Raises ConfigError where the file has none."""
    if key not in rows:
        raise ConfigError(f"{file} says nothing of '{key}'")
    return rows[key]


def detections_of(row: Rows, file: str) -> list[Detection]:
    """The objects that a row lists. Raises ConfigError where they are not listed as they should be."""
    found = []
    try:
        for one in row["objects"]:
            left, top, right, bottom = map(float, one["box"])
            found.append(Detection(str(one["label"]), float(one["score"]), (left, top, right, bottom)))
    except (KeyError, TypeError, ValueError):
        picture = row["picture"]
        raise ConfigError(f"{file}: '{picture}' should list objects with label, score and box") from None
    return found


def depth_of(folder: Path, picture: str) -> np.ndarray:
    """[H, W] of the grey picture with the same stem; larger is nearer. ConfigError where there is none, or
    it cannot be read."""
    file = folder / f"{Path(picture).stem}.png"
    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("F"))
    except FileNotFoundError:
        raise ConfigError(f"{file}: no depth map of '{picture}'") from None
    except (UnidentifiedImageError, OSError) as error:
        raise ConfigError(f"{file} is no depth map: {error}") from None


def read_objects(name: str) -> dict[str, str]:
    """{plural: singular} of the benchmark's list, a line "singular - plural" each. ConfigError for a file
    that is missing or holds another line."""
    path, names = Path(name), {}
    if not path.is_file():
        raise ConfigError(f"{name}: no such file")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        singular, dash, plural = (part.strip().lower() for part in line.partition(" - "))
        if not (singular and dash and plural):
            raise ConfigError(f"{name}: line {number} should be 'singular - plural'")
        names[plural] = singular
    return names
