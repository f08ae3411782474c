"""Web datasets: tar files of pictures, texts and JSON, as img2dataset writes them, read sample by sample.

Members that follow each other and share their name up to the first dot of its last part are one sample: a
picture (jpg, jpeg, png or webp), `txt` with a caption, `json` with what else is known. Captions are those in
the JSON's `captions`, else the text, else other captions of the JSON (`records.captions_of`).
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from impasto.data.options import Format
from impasto.data.records import (
    UNKNOWN_LANGUAGE,
    BadSampleError,
    Caption,
    DataError,
    Faults,
    Record,
    captions_of,
    decode_text,
)
from impasto.data.shard_index import find_index


class ShardRecords:
    """Numbered by the names of the tar files, then by their order within. Any sample is one read at a known
    place: `shard_index` holds the places, in a file that is mapped, not loaded. DataError where there are no
    tar files, or the index is damaged."""

    format: Format = "webdataset"

    def __init__(self, source: Path, cache: Path | None = None, caption_column: str = "") -> None:
        self.shards = find_shards(Path(source))
        found = find_index(self.shards, cache)
        self.fingerprint, self._places = found.fingerprint, found.places
        self._caption_column = caption_column
        self.faults = Faults()
        for reason, name in found.faults:
            self.faults.add(reason, name)

    def __len__(self) -> int:
        return len(self._places)

    def key(self, index: int) -> str:
        return self._places[index]["key"].decode("utf-8", "replace")

    def read(self, index: int) -> Record:
        place = self._places[index]
        shard = self.shards[int(place["shard"])]
        name = f"{shard.name}:{self.key(index)}"
        parts = {kind: (int(place[kind]), int(place[f"{kind}_size"])) for kind in ("picture", "text", "json")}
        spans = [(start, start + size) for start, size in parts.values() if start >= 0]
        first, last = min(start for start, _ in spans), max(end for _, end in spans)
        data = _read_span(shard, first, last, name)
        contents = {
            kind: data[start - first : start - first + size] if start >= 0 else None
            for kind, (start, size) in parts.items()
        }
        assert contents["picture"] is not None
        return make_record(
            name, contents["picture"], contents["text"], contents["json"], self._caption_column
        )


def make_record(
    name: str, picture: bytes, text: bytes | None, document: bytes | None, caption_column: str
) -> Record:
    """A sample from its members. Raises BadSampleError for captions that are absent or cannot be read."""
    details = _details(document, name)
    captions = _captions(text, details, name, caption_column)
    if not captions:
        raise BadSampleError("no caption", name)
    return Record(name, picture, captions, details)


def _captions(
    text: bytes | None, details: Mapping[str, Any], name: str, caption_column: str
) -> tuple[Caption, ...]:
    if not caption_column and "captions" not in details and text is not None:
        line = " ".join(decode_text(text, name).split())
        if line:
            return (Caption(line, UNKNOWN_LANGUAGE),)
    return captions_of(details, name, caption_column)


def find_shards(source: Path) -> list[Path]:
    """A tar file, or those of a folder, by name. DataError where there are none."""
    shards = [source] if source.is_file() else sorted(source.glob("*.tar"))
    if not shards:
        raise DataError(f"{source} holds no .tar files")
    return shards


def _details(data: bytes | None, name: str) -> dict[str, Any]:
    if data is None:
        return {}
    try:
        found = json.loads(data)
    except ValueError:
        raise BadSampleError("JSON damaged", name) from None
    return found if isinstance(found, dict) else {}


def _read_span(shard: Path, first: int, last: int, name: str) -> bytes:
    """Bytes first to last of a file. No file stays open: threads share nothing, and sets have many files."""
    try:
        descriptor = os.open(shard, os.O_RDONLY)
        try:
            data = os.pread(descriptor, last - first, first)
        finally:
            os.close(descriptor)
    except OSError:
        raise BadSampleError("tar file unreadable", name) from None
    if len(data) != last - first:
        raise BadSampleError("tar file truncated", name)
    return data
