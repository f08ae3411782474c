"""A folder of pictures, each with a text file of the same name: `cat.jpg`, and `cat.txt` with one caption a
line or `cat.en.txt` and `cat.zh.txt` with a language each. Folders within are read too."""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from impasto.data.options import Format
from impasto.data.records import (
    PICTURE_SUFFIXES,
    UNKNOWN_LANGUAGE,
    BadSampleError,
    Caption,
    DataError,
    Faults,
    Record,
    caption_lines,
    decode_text,
)

LANGUAGE_SUFFIX = re.compile(r"\.([a-z]{2}(?:-[A-Za-z]{2,4})?)\.txt\Z")


class FolderRecords:
    """Numbered by the path within the folder, in the order of its code points. DataError for a folder without
    pictures."""

    format: Format = "folder"

    def __init__(self, folder: Path) -> None:
        self.folder, self.faults = Path(folder), Faults()
        self._pairs: list[tuple[str, tuple[str, ...]]] = []  # picture, endings of its texts
        for picture, texts in sorted(_walk(self.folder)):
            if texts:
                self._pairs.append((picture, texts))
            else:
                self.faults.add("no caption", picture)
        if not self._pairs and not self.faults:
            raise DataError(f"{folder} holds no pictures ({', '.join(PICTURE_SUFFIXES)})")

    def __len__(self) -> int:
        return len(self._pairs)

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for picture, _ in self._pairs:
            digest.update(os.fsencode(picture) + b"\0")
        return digest.hexdigest()

    def key(self, index: int) -> str:
        return self._pairs[index][0]

    def read(self, index: int) -> Record:
        name, texts = self._pairs[index]
        stem = str(self.folder / name).rpartition(".")[0]
        captions: list[Caption] = []
        for ending in texts:
            match = LANGUAGE_SUFFIX.fullmatch(ending)
            text = decode_text(read_file(stem + ending, name, "no caption"), name)
            captions += caption_lines(text, name, match[1] if match else UNKNOWN_LANGUAGE)
        if not captions:
            raise BadSampleError("no caption", name)
        picture = read_file(str(self.folder / name), name, "no picture")
        return Record(name, picture, tuple(dict.fromkeys(captions)), {})


def read_file(path: str, name: str, reason: str) -> bytes:
    """The bytes of a file. Raises BadSampleError with the reason given."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        raise BadSampleError(reason, name) from None


def _walk(folder: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(picture, endings of the texts that belong to it), by paths within the folder. Hidden ones are left
    out."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        within = os.path.relpath(place, folder)
        texts: dict[str, list[str]] = {}
        for name in files:
            if name.endswith(".txt"):
                stem = LANGUAGE_SUFFIX.sub("", name) if LANGUAGE_SUFFIX.search(name) else name[:-4]
                texts.setdefault(stem, []).append(name[len(stem) :])
                texts.setdefault(name[:-4], []).append(".txt")  # a picture may be called a.en.jpg
        for name in files:
            stem, dot, suffix = name.rpartition(".")
            if name.startswith(".") or dot + suffix.lower() not in PICTURE_SUFFIXES:
                continue
            endings = tuple(sorted(set(texts.get(stem, ()))))
            yield (name if within == "." else f"{within}/{name}"), endings
