"""Where every sample of a set of tar files lies: found once, kept in a file beside them, mapped from then
on."""

import hashlib
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from impasto.config import first_line
from impasto.data.records import PICTURE_SUFFIXES, DataError
from impasto.runtime.files import atomic_path, atomic_write_text

VERSION = 1
FOLDER = ".impasto-index"
BLOCK = tarfile.BLOCKSIZE
Fault = tuple[str, str]


class Index(NamedTuple):
    """`places`: one element a sample, with the number of its shard, its key, and of its picture, text and
    JSON the offset in bytes (-1: it has none) and the size; `faults`: (reason, name) of what was left out."""

    places: np.ndarray
    faults: list[Fault]
    fingerprint: str


class Place(NamedTuple):
    """One sample in the making."""

    key: str
    parts: dict[str, tuple[int, int]]  # picture, text, json: offset and size


def find_index(shards: Sequence[Path], cache: Path | None = None) -> Index:
    """The index of these files: read if it was written before, else made and written. It belongs to names,
    sizes and times of change, so that another set of files has another one. DataError for an index that is
    damaged."""
    stats = [(path, path.stat()) for path in shards]
    known = "".join(f"{path.name}\0{stat.st_size}\0{stat.st_mtime_ns}\n" for path, stat in stats)
    name = f"v{VERSION}-{hashlib.sha256(known.encode()).hexdigest()[:32]}"
    folder = cache or _writable_folder(shards[0].parent)
    places, document = folder / f"{name}.npy", folder / f"{name}.json"
    if not (places.is_file() and document.is_file()):
        _write(places, document, shards)
    try:
        told = json.loads(document.read_text("utf-8"))
        faults = [(reason, file) for reason, file in told["faults"]]
        array = np.load(places, mmap_mode="r" if told["samples"] else None, allow_pickle=False)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"the index {places} is damaged ({first_line(error)}); delete it") from None
    content = hashlib.sha256("".join(f"{p.name}\0{s.st_size}\n" for p, s in stats).encode())
    content.update(np.ascontiguousarray(array[:: max(1, len(array) // 4096)]).tobytes())
    return Index(array, faults, content.hexdigest())


def scan(shard: Path) -> tuple[list[Place], list[Fault]]:
    """The whole samples of a tar file, and what is wrong in it. A damaged or truncated file gives what lies
    before the damage."""
    found: list[Place] = []
    faults: list[Fault] = []
    current = Place("", {})

    def finish() -> None:
        if current.key:
            missing = "no picture" if "picture" not in current.parts else None
            if {"text", "json"}.isdisjoint(current.parts):
                missing = missing or "no caption"
            if missing:
                faults.append((missing, f"{shard.name}:{current.key}"))
            else:
                found.append(current)

    try:
        for member in _members(shard):
            key, kind = _split(member.name)
            if key != current.key or (kind is not None and kind in current.parts):
                finish()
                current = Place(key, {})
            if kind is not None:
                current.parts[kind] = (member.offset_data, member.size)
    except (tarfile.TarError, EOFError, OSError) as error:
        reason = "tar file truncated" if isinstance(error, _TruncatedError) else "tar file damaged"
        faults.append((reason, shard.name))
    finish()
    return found, faults


class _TruncatedError(tarfile.TarError):
    """The file ends before its archive does."""


def _members(shard: Path) -> Iterator[tarfile.TarInfo]:
    """The regular files in a tar file. Raises tarfile.TarError, _TruncatedError where the file is cut."""
    size = os.path.getsize(shard)
    with open(shard, "rb") as raw:
        if raw.read(2) == b"\x1f\x8b":
            raise DataError(f"{shard} is compressed: no sample in it can be found; unpack it with gunzip")
    try:
        archive = tarfile.open(shard, "r:")  # noqa: SIM115 - closed below; opening reads the first header
    except tarfile.ReadError as error:
        raise (_TruncatedError() if size < BLOCK else error) from None
    with archive:
        while True:
            try:
                member = archive.next()
            except tarfile.ReadError as error:
                raise (_TruncatedError() if archive.offset >= size else error) from None
            if member is None:
                break
            if member.offset_data + member.size > size:
                raise _TruncatedError
            archive.members = []  # type: ignore[attr-defined]  # it would keep all of them
            if member.isfile():
                yield member
        with open(shard, "rb") as raw:
            raw.seek(archive.offset)
            end = raw.read(BLOCK)
    if len(end) < BLOCK:
        raise _TruncatedError
    if any(end):
        raise tarfile.ReadError("not a tar header")


def _split(name: str) -> tuple[str, str | None]:
    """The key of a member's sample, and what it is to it; None: nothing that is read."""
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    suffix = suffix.lower()
    if f".{suffix}" in PICTURE_SUFFIXES:
        return folder + slash + stem, "picture"
    return folder + slash + stem, {"txt": "text", "json": "json"}.get(suffix)


def _write(places: Path, document: Path, shards: Sequence[Path]) -> None:
    found: list[tuple[int, Place]] = []
    faults: list[Fault] = []
    for number, shard in enumerate(shards):
        inside, wrong = scan(shard)
        found += [(number, place) for place in inside]
        faults += wrong
    keys = [place.key.encode("utf-8", "surrogateescape") for _, place in found]
    dtype = [("shard", "<i4"), ("key", f"S{max(map(len, keys), default=1)}")]
    for kind in ("picture", "text", "json"):
        dtype += [(kind, "<i8"), (f"{kind}_size", "<i8")]
    array = np.empty(len(found), dtype=dtype)
    array["shard"] = [number for number, _ in found]
    array["key"] = keys
    for kind in ("picture", "text", "json"):
        spans = [place.parts.get(kind, (-1, 0)) for _, place in found]
        array[kind] = [start for start, _ in spans]
        array[f"{kind}_size"] = [size for _, size in spans]
    with atomic_path(places) as temporary, open(temporary, "wb") as file:
        np.save(file, array, allow_pickle=False)
    atomic_write_text(document, json.dumps({"samples": len(found), "faults": faults}, ensure_ascii=True))


def _writable_folder(beside: Path) -> Path:
    """Beside the tar files; in the user's cache where those cannot be written to."""
    return beside / FOLDER if os.access(beside, os.W_OK) else user_cache()


def user_cache() -> Path:
    """The folder for indexes that do not lie beside their set."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "impasto" / "index"
