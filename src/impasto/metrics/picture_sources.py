"""Where pictures to measure come from: a folder of them, or any set that training reads."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, Protocol

from impasto.config import ConfigError
from impasto.data.glyphs.sample import SAMPLE_NAME
from impasto.data.opening import kind_of, open_data
from impasto.data.records import PICTURE_SUFFIXES, BadSampleError, DataError, Faults, Records
from impasto.pictures import read_settings

SHEETS = ("sheet.png", "pyramid.png")  # what `impasto generate` writes beside the pictures
A_SHEET, FIRST_PICTURE = "sheet of other pictures", "000000.png"


class Stored(NamedTuple):
    """A picture as it is kept: its name, the bytes of its file, its prompt if it has one."""

    name: str
    data: bytes
    prompt: str | None


class PictureSet(Protocol):
    """Numbered pictures. `faults`: what was left out on opening; `fingerprint`: of the folder, and of the
    names, sizes and times of modification of pictures and texts, without reading them."""

    @property
    def source(self) -> str: ...
    @property
    def faults(self) -> Faults: ...
    @property
    def fingerprint(self) -> str: ...
    def __len__(self) -> int: ...
    def training_networks(self) -> dict[str, str] | None:
        """{role: hash} of the frozen networks in the training of the models that made these pictures, as
        `impasto generate` writes it; None where no picture says."""
        ...

    def read(self, index: int) -> Stored:
        """Picture 0 <= index < len. Raises BadSampleError. Safe to call from several threads."""
        ...


class PictureFolder:
    """Every picture below a folder, in the order of the paths; prompts are those in the files' metadata, else
    the first line of a text file of the same name (`cat.png`, `cat.txt`)."""

    def __init__(self, folder: Path) -> None:
        self.source, self.folder, self.faults = str(folder), folder, Faults()
        names = sorted(_pictures_below(folder))
        generated = {str(PurePosixPath(name).parent) for name in names if _last(name) == FIRST_PICTURE}
        self.names = [
            name
            for name in names
            if not (_last(name) in SHEETS and str(PurePosixPath(name).parent) in generated)
        ]
        for name in set(names) - set(self.names):
            self.faults.add(A_SHEET, name)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def fingerprint(self) -> str:
        beside = [str(PurePosixPath(name).with_suffix(".txt")) for name in self.names]
        return _stat_digest(self.folder, [*self.names, *beside])

    def training_networks(self) -> dict[str, str] | None:
        found: dict[str, str] | None = None  # {hash: role}
        for name in self.names:
            told = _settings_in(self.folder / name).get("training_networks")
            if isinstance(told, dict):
                found = {**{digest: role for role, digest in told.items()}, **(found or {})}
        return None if found is None else {role: digest for digest, role in found.items()}

    def read(self, index: int) -> Stored:
        name = self.names[index]
        try:
            data = (self.folder / name).read_bytes()
        except OSError:
            raise BadSampleError("no picture", name) from None
        return Stored(name, data, _prompt_in(data) or self._prompt_beside(name))

    def _prompt_beside(self, name: str) -> str | None:
        try:
            text = (self.folder / name).with_suffix(".txt").read_text(encoding="utf-8-sig")
        except (OSError, ValueError):
            return None
        return next((line.strip() for line in text.splitlines() if line.strip()), None)


class CaptionedPictures:
    """A set that training reads; the prompt of a picture is its first caption."""

    def __init__(self, source: str, records: Records) -> None:
        self.source, self.records, self.faults = source, records, records.faults

    def __len__(self) -> int:
        return len(self.records)

    def training_networks(self) -> None:
        return None

    @property
    def fingerprint(self) -> str:
        path = Path(self.source)
        stats = _stat_digest(path.parent, [path.name])
        if path.is_dir():
            files = (file.relative_to(path) for file in path.rglob("*") if file.is_file())
            names = [str(file) for file in files if not any(part.startswith(".") for part in file.parts)]
            stats = _stat_digest(path, sorted(names))
        return hashlib.sha256((self.records.fingerprint + stats).encode()).hexdigest()

    def read(self, index: int) -> Stored:
        record = self.records.read(index)
        return Stored(record.name, record.picture, record.captions[0].text)


class ChosenPictures:
    """Some pictures of a set, in the order given. `source` says which."""

    def __init__(self, pictures: PictureSet, indices: Sequence[int], source: str) -> None:
        self._pictures, self._indices, self.source = pictures, list(indices), source
        self.faults = Faults()

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self._pictures.fingerprint} {self._indices}".encode()).hexdigest()

    def training_networks(self) -> dict[str, str] | None:
        return self._pictures.training_networks()

    def read(self, index: int) -> Stored:
        return self._pictures.read(self._indices[index])


def open_pictures(source: str) -> PictureSet:
    """A folder of pictures, or any set that `impasto.data` opens (tar files, a metadata table, `datasets`,
    scenes:COUNT:SIDE). Raises ConfigError or DataError, in one line, also for a set without pictures."""
    path = Path(source)
    if path.is_dir() and kind_of(path) == "folder":
        found: PictureSet = PictureFolder(path)
        if not len(found):
            raise DataError(f"{source} holds no pictures ({', '.join(PICTURE_SUFFIXES)})")
        return found
    if not path.exists() and not source.startswith("scenes:") and source != SAMPLE_NAME:
        raise ConfigError(f"{source}: there is no such folder of pictures")
    return CaptionedPictures(source, open_data(source))


def _last(name: str) -> str:
    return PurePosixPath(name).name


def _prompt_in(data: bytes) -> str | None:
    """What the file says it shows; None for a file that says nothing or is none."""
    prompt = _settings_in(io.BytesIO(data)).get("prompt")
    return prompt if isinstance(prompt, str) else None


def _settings_in(file: Path | BinaryIO) -> dict[str, Any]:
    """What `impasto generate` wrote into a file; nothing for other files."""
    try:
        settings = read_settings(file)
    except Exception:  # of Pillow's plugins on damaged files, which `decode` counts, and of foreign metadata
        return {}
    return settings if isinstance(settings, dict) else {}


def _pictures_below(folder: Path) -> Iterator[str]:
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and name.lower().endswith(PICTURE_SUFFIXES):
                yield os.path.relpath(os.path.join(place, name), folder)


def _stat_digest(folder: Path, names: list[str]) -> str:
    digest = hashlib.sha256(os.fsencode(folder.resolve()) + b"\0")
    for name in names:
        try:
            stat = (folder / name).stat()
        except OSError:
            continue
        digest.update(os.fsencode(name) + f"\0{stat.st_size} {stat.st_mtime_ns}\0".encode())
    return digest.hexdigest()
