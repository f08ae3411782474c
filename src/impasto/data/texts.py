"""Text features of a set: made by `impasto data texts`, read where `dataset.text_features` names them."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from impasto.config import ConfigError
from impasto.data.opening import resolve, too_many_bad
from impasto.data.options import DatasetOptions
from impasto.data.records import BadSampleError, Faults, Records
from impasto.data.shard_index import user_cache
from impasto.data.source import allowed_captions
from impasto.text import TextEncoder
from impasto.text.stored import SingleEncoder, StoredEncoder, features_path, write_features

FOLDER = ".impasto-text"


class Written(NamedTuple):
    """The file, how many captions it holds, and the samples that gave none."""

    path: Path
    captions: int
    faults: Faults


def texts_reader(
    encoder: TextEncoder, records: Records, options: DatasetOptions, dtype: torch.dtype
) -> TextEncoder:
    """What encodes the captions of a set in training; `dtype` is that of the encoder's weights. CacheError,
    in one line, if the features that `options.text_features` names are of another encoder or set."""
    if not options.text_features:
        return SingleEncoder(encoder)
    path = features_path(Path(options.text_features), encoder, dtype)
    return StoredEncoder(encoder, path, dtype, records.fingerprint, options.source)


def write_texts(
    source: str,
    options: DatasetOptions,
    encoder: TextEncoder,
    dtype: torch.dtype,
    out: Path | None = None,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> Written:
    """Encode all captions of a set that `options` allow into a file of `out`, which is a folder
    beside the set if not given. Samples whose captions cannot be read are counted; DataError, in one line,
    for more than `options.max_bad` of them, CacheError where the file cannot be written."""
    records, options = resolve(source, options)
    faults, folder = Faults(), out or folder_beside(source)
    path = features_path(folder, encoder, dtype)
    count = write_features(
        path, encoder, dtype, records.fingerprint, _captions(records, options, faults),
        lambda done: progress(done, None),
    )  # fmt: skip
    return Written(path, count, faults)


def folder_beside(source: str) -> Path:
    """Where the text features of a set are kept: in it, or beside its tar file, or in the user's cache for
    one that is not on disk. ConfigError for a folder that cannot be written to."""
    path = Path(source)
    if not path.exists():
        return user_cache().with_name("text")
    folder = path if path.is_dir() else path.parent
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{folder} cannot be written to; name a folder with --out")
    return folder / FOLDER


def _captions(records: Records, options: DatasetOptions, faults: Faults) -> Iterator[str]:
    for index in range(len(records)):
        try:
            captions = records.read(index).captions
        except BadSampleError as bad:
            faults.add(bad.reason, bad.name)
            if len(faults) > options.max_bad * len(records):
                raise too_many_bad(
                    options.source, len(faults), len(records), options.max_bad, faults.summary()
                ) from None
            continue
        yield from (caption.text for _, caption in allowed_captions(captions, options))
