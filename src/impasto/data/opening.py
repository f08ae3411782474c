"""One door to every kind of set: `open_data(source)`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from impasto.config import ConfigError
from impasto.data.folder import FolderRecords
from impasto.data.glyphs.sample import SAMPLE_NAME, sample_folder
from impasto.data.huggingface import MARKS, DatasetRecords
from impasto.data.metadata import TABLES, MetadataRecords
from impasto.data.options import DatasetOptions, Format
from impasto.data.records import BadSampleError, DataError, Part, Records, named_in
from impasto.data.scene_records import SceneRecords
from impasto.data.shard_index import user_cache
from impasto.data.shards import ShardRecords

REMOTE = ("http:", "https:", "s3:", "gs:", "hf:", "pipe:")


def open_data(source: str | Path, options: DatasetOptions | None = None) -> Records:
    """The set at a path: tar files of a web dataset (a folder of them, or one), a folder with a metadata
    table, a folder with texts of the same names, a directory of Hugging Face `datasets`; or
    scenes:COUNT[:SIDE]; or openglyphs:sample, the pictures that come with the package. Without what
    `options.exclude` names.

    `options.format` "auto" tells them apart by what is there. Raises ConfigError or DataError, in one line.
    """
    options = options or DatasetOptions()
    records = _whole(source, options)
    return without(records, options.exclude, str(source)) if options.exclude else records


def _whole(source: str | Path, options: DatasetOptions) -> Records:
    name, path = str(source), Path(source)
    if name.startswith(REMOTE):
        raise ConfigError(
            f"{name.partition('?')[0]} is a stream, which only Aurora trains on; copy the tar files to a "
            f"local disk, where any can be read again"
        )
    if name.startswith("scenes:"):
        return SceneRecords.named(name)
    if name == SAMPLE_NAME:
        cache = Path(options.cache) if options.cache else user_cache()
        return ShardRecords(sample_folder(), cache, options.caption_column)
    if not path.exists():
        raise ConfigError(f"--data {name}: there is no such file or folder (or write scenes)")
    kind = kind_of(path) if options.format == "auto" else options.format
    records = _open(kind, path, options)
    if not len(records):
        raise DataError(f"{name} holds no good sample; bad: {records.faults.summary()}")
    return records


def kind_of(path: Path) -> Format:
    """The kind of set at a path. ConfigError if it is none."""
    if path.is_file():
        if path.suffix == ".tar":
            return "webdataset"
        raise ConfigError(f"{path} is a file, but not a .tar; name the folder of the set")
    if any((path / name).is_file() for name in MARKS):
        return "datasets"
    if next(path.glob("*.tar"), None) is not None:
        return "webdataset"
    if any((path / name).is_file() for name in TABLES):
        return "metadata"
    return "folder"


def resolve(source: str, options: DatasetOptions) -> tuple[Records, DatasetOptions]:
    """A set, and the options that say which one it was found to be. Raises as `open_data`, and DataError if
    more than `options.max_bad` of it was left out."""
    moved = bool(options.source) and options.source != source
    records = open_data(source, replace(options, format="auto") if moved else options)
    total = len(records) + len(records.faults)
    if len(records.faults) > options.max_bad * total:
        raise too_many_bad(source, len(records.faults), total, options.max_bad, records.faults.summary())
    found = replace(
        options,
        source=source,
        format=records.format,
        samples=len(records),
        fingerprint=records.fingerprint,
    )
    return records, found


def without(records: Records, words: Sequence[str], source: str) -> Part:
    """The samples none of whose captions contains one of the words; reads all captions once. A sample whose
    captions cannot be read stays, to be counted where it is met. DataError if none is left."""

    def stays(index: int) -> bool:
        try:
            return not named_in(records.read(index).captions, words)
        except BadSampleError:
            return True

    kept = np.array([index for index in range(len(records)) if stays(index)], dtype=np.int64)
    if not len(kept):
        raise DataError(f"{source}: dataset.exclude={list(words)} leaves no sample")
    return Part(records, kept)


def too_many_bad(source: str, bad: int, total: int, allowed: float, summary: str) -> DataError:
    """The error that stops a run."""
    return DataError(
        f"{source}: {bad} of {total} samples are bad, more than dataset.max_bad={allowed:g} allows: "
        f"{summary}; see `impasto data check {source}`"
    )


def _open(kind: Format, path: Path, options: DatasetOptions) -> Records:
    column = options.caption_column
    if kind == "webdataset":
        return ShardRecords(path, Path(options.cache) if options.cache else None, column)
    if kind == "metadata":
        return MetadataRecords(path, column)
    if kind == "datasets":
        return DatasetRecords(path, options.split, options.picture_column, column)
    if kind == "folder":
        return FolderRecords(path)
    raise ConfigError(f"dataset.format={kind} does not fit {path}; leave it at auto")
