"""Any set to web dataset shards: tar files that are the same bytes for the same set, checked picture by
picture.

A shard holds the samples of a range of numbers, `KEY.jpg`, `KEY.txt` (the first caption) and `KEY.json` (all
captions that the options allow, size, SHA-256 of the picture, what the set says of it). Pictures are copied
byte for byte. Bad samples are left out; the others keep their numbers as keys. Every finished shard leaves
a note with its checksum, so a pack that was killed goes on with the shards that are missing or not what the
note says.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from PIL import Image

from impasto.data.opening import open_data, too_many_bad
from impasto.data.options import DatasetOptions
from impasto.data.records import UNKNOWN_LANGUAGE, BadSampleError, DataError, Faults, Record, Records
from impasto.data.source import candidates_of
from impasto.data.transforms import FORMATS, decode
from impasto.runtime.files import atomic_path, atomic_write_text

VERSION = 1
DESCRIPTION, CHECKSUMS, NOTES = "pack.json", "SHA256SUMS", ".progress"
Progress = Callable[[int, int], None]


def pack(
    source: str,
    out: Path,
    options: DatasetOptions | None = None,
    *,
    shard_size: int = 1000,
    workers: int = 2,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Write the set to `out`; returns what pack.json says: samples, shards, bad samples by reason.

    progress(shards done, shards in all). Raises DataError where `out` holds something else, or when more than
    `options.max_bad` of the samples are bad (the shards stay: pack again with a higher ceiling)."""
    options = options or DatasetOptions()
    records = open_data(source, options)
    return pack_records(records, source, out, options, shard_size, workers, progress)


def pack_records(
    records: Records,
    source: str,
    out: Path,
    options: DatasetOptions,
    shard_size: int = 1000,
    workers: int = 2,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """`pack` for a set that is open; `source` is its name in messages. DataError as there, and for a
    `shard_size` or `workers` below 1."""
    if shard_size < 1 or workers < 1:
        raise DataError("--shard-size and --workers should be at least 1")
    out = Path(out)
    made_of = {
        "version": VERSION,
        "format": records.format,
        "fingerprint": records.fingerprint,
        "numbered": len(records),
        "shard_size": shard_size,
        "caption_column": options.caption_column,
        "max_pixels": options.max_pixels,
        "smallest_side": options.smallest_side,
        "exclude": list(options.exclude),
        "phrasings": options.phrasings,
        "languages": sorted(name for name, weight in options.languages.items() if weight > 0),
    }
    _claim(out, made_of)
    count = -(-len(records) // shard_size)
    notes: dict[int, dict[str, Any]] = {}
    with ThreadPoolExecutor(workers, "pack") as pool:
        futures = {pool.submit(_shard, records, out, n, shard_size, options): n for n in range(count)}
        try:
            for future in as_completed(futures):
                notes[futures[future]] = future.result()
                progress(len(notes), count)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return _finish(source, out, records, made_of, [notes[n] for n in range(count)], options)


def shard_name(number: int) -> str:
    """As img2dataset names them."""
    return f"{number:05d}.tar"


def _claim(out: Path, made_of: dict[str, Any]) -> None:
    """The folder, for this set alone."""
    description = out / NOTES / DESCRIPTION
    if not description.is_file():
        if out.is_dir() and any(out.iterdir()):
            raise DataError(f"{out} is not empty and holds no pack to go on with; choose another folder")
        atomic_write_text(description, json.dumps({"made_of": made_of}))
        return
    try:
        found = json.loads(description.read_text("utf-8"))["made_of"]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{description} is damaged; delete {out} and pack anew") from None
    changed = [name for name, value in made_of.items() if found.get(name) != value]
    if changed:
        raise DataError(f"{out} was packed with another {changed[0]}; choose another folder, or delete it")
    for leftover in (*out.glob(".*.tmp"), *(out / NOTES).glob(".*.tmp")):  # of a pack that was killed
        leftover.unlink()


def _shard(records: Records, out: Path, number: int, size: int, options: DatasetOptions) -> dict[str, Any]:
    """One shard, written unless it is there; returns its note: checksum, samples, bad ones."""
    path, note_path = out / shard_name(number), out / NOTES / f"{number:05d}.json"
    if note_path.is_file() and path.is_file():
        note = json.loads(note_path.read_text("utf-8"))
        if note["sha256"] == checksum(path):
            return note
    bad: list[tuple[str, str]] = []
    samples = 0
    with atomic_path(path) as temporary, tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as archive:
        for index in range(number * size, min((number + 1) * size, len(records))):
            try:
                members = _members(records.read(index), f"{index:09d}", options)
            except BadSampleError as error:
                bad.append((error.reason, error.name))
                continue
            samples += 1
            for name, data in members:
                header = tarfile.TarInfo(name)  # no time, no owner: the same bytes every time
                header.size, header.mode = len(data), 0o644
                archive.addfile(header, io.BytesIO(data))
    note = {"sha256": checksum(path), "samples": samples, "bad": bad}
    atomic_write_text(note_path, json.dumps(note))
    return note


def _members(record: Record, key: str, options: DatasetOptions) -> list[tuple[str, bytes]]:
    """(name, contents) of a sample's files. Raises BadSampleError."""
    decode(record.picture, record.name, options)
    with Image.open(io.BytesIO(record.picture), formats=FORMATS) as image:
        kind, (width, height) = str(image.format).lower(), image.size
    told = [caption for _, caption in candidates_of(record, options)]
    captions = [
        {"text": text} if language == UNKNOWN_LANGUAGE else {"text": text, "language": language}
        for text, language in told
    ]
    details = {
        **record.details,
        "key": key,
        "captions": captions,
        "width": width,
        "height": height,
        "sha256": hashlib.sha256(record.picture).hexdigest(),
        "source": record.details.get("source", record.name),
    }
    text = json.dumps(details, ensure_ascii=False, sort_keys=True)
    return [
        (f"{key}.{'jpg' if kind == 'jpeg' else kind}", record.picture),
        (f"{key}.txt", told[0].text.encode("utf-8")),
        (f"{key}.json", text.encode("utf-8", "backslashreplace")),
    ]


def _finish(
    source: str,
    out: Path,
    records: Records,
    made_of: dict[str, Any],
    notes: list[dict[str, Any]],
    options: DatasetOptions,
) -> dict[str, Any]:
    """SHA256SUMS, as `sha256sum --check` reads it, and pack.json."""
    faults = Faults()
    for reason, name in [*records.faults, *((r, n) for note in notes for r, n in note["bad"])]:
        faults.add(reason, name)
    total = len(records) + len(records.faults)
    if len(faults) > options.max_bad * total:
        raise too_many_bad(source, len(faults), total, options.max_bad, faults.summary())
    lines = [f"{note['sha256']}  {shard_name(number)}\n" for number, note in enumerate(notes)]
    document = {
        "made_of": made_of,
        "samples": sum(note["samples"] for note in notes),
        "shards": len(notes),
        "bad": faults.files(),
    }
    atomic_write_text(out / CHECKSUMS, "".join(lines))
    text = json.dumps(document, indent=2, ensure_ascii=False, sort_keys=True)
    atomic_write_text(out / DESCRIPTION, text + "\n")
    return document


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
