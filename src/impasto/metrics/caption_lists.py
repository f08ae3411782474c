"""Lists of captions in files, so that a protocol always draws the same."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from impasto.config import ConfigError

CAPTION_COLUMNS, PICTURE_COLUMNS = ("caption", "text", "prompt"), ("image_id", "file_name")


@dataclass(frozen=True)
class CaptionList:
    """captions: in the order of the file; pictures: the stem of the file name, or the number, of the picture
    that each belongs to, where the list says so; sha256: of the file's bytes."""

    captions: tuple[str, ...]
    pictures: tuple[str, ...] | None
    sha256: str


def read_captions(path: Path) -> CaptionList:
    """A .txt file with one caption a line; a .csv or .tsv with a head, or a .jsonl, with a column `caption`,
    `text` or `prompt` and maybe `image_id` or `file_name`. Raises ConfigError, in one line, with the line of
    what is wrong."""
    if not path.is_file():
        raise ConfigError(f"--captions {path}: no such file")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"--captions {path} is not UTF-8") from None
    if path.suffix == ".txt":
        rows: Iterable[Any] = ({"caption": line} for line in text.splitlines() if line.strip())
    elif path.suffix in (".csv", ".tsv"):
        rows = csv.DictReader(text.splitlines(), delimiter="," if path.suffix == ".csv" else "\t")
    elif path.suffix == ".jsonl":
        rows = (_object(line, path, n) for n, line in enumerate(text.splitlines(), start=1) if line.strip())
    else:
        raise ConfigError(f"--captions {path} should be a .txt, .csv, .tsv or .jsonl file")
    captions, pictures = [], []
    for number, row in enumerate(rows, start=1):
        caption = next((row[name] for name in CAPTION_COLUMNS if row.get(name)), None)
        if not isinstance(caption, str) or not caption.strip():
            raise ConfigError(f"--captions {path}: row {number} has no {' or '.join(CAPTION_COLUMNS)}")
        captions.append(" ".join(caption.split()))
        picture = next((row[name] for name in PICTURE_COLUMNS if row.get(name) not in (None, "")), None)
        if picture is not None:
            pictures.append(Path(str(picture)).stem)
    if not captions:
        raise ConfigError(f"--captions {path} holds no caption")
    known = tuple(pictures) if len(pictures) == len(captions) else None
    return CaptionList(tuple(captions), known, hashlib.sha256(data).hexdigest())


def _object(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ConfigError(f"--captions {path}: line {number} is no JSON object")
    return found
