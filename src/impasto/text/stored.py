"""Features of all captions of a set, computed once and kept in one file beside it.

On a CPU a text is always encoded by itself, here and where a run has no such file: what an encoder gives a
text depends on its batch in the last bits. So a run with the file equals a run without it, bit for bit, on
the same machine with the same number of threads.
"""

from __future__ import annotations

import os
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Self
from urllib.parse import quote

import torch

from impasto.text.features import TextEncoder, TextFeatures, check_texts
from impasto.text.rows import INSERT, SCHEMA, key_of, read_rows, to_features, to_rows

ABOUT = "CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL)"
BATCH = 256  # texts between two commits
MEMO_BYTES = 64 << 20  # of texts that are encoded again and again


class CacheError(ValueError):
    """A file of features cannot be used; one line that names the file and the way out."""


class SingleEncoder:
    """Any encoder, so that the features of a text depend on nothing else: on a CPU each distinct text goes
    through it alone, and the last ones (64 MiB) are remembered. Elsewhere it is the encoder itself. Methods
    and errors as in `TextEncoder`."""

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self._known: OrderedDict[str, TextFeatures] = OrderedDict()
        self._bytes = 0

    @property
    def width(self) -> int:
        return self._encoder.width

    @property
    def fingerprint(self) -> str:
        return self._encoder.fingerprint

    @property
    def device(self) -> torch.device:
        return self._encoder.device

    def to(self, target: torch.device | torch.dtype | str) -> Self:
        self._known.clear()
        self._bytes = 0
        self._encoder.to(target)
        return self

    def encode(self, texts: list[str]) -> TextFeatures:
        check_texts(texts)
        if self.device.type != "cpu":
            return self._encoder.encode(texts)
        found = {text: self._one(text) for text in dict.fromkeys(texts)}
        return TextFeatures.concatenate([found[text] for text in texts])

    def _one(self, text: str) -> TextFeatures:
        known = self._known.get(text)
        if known is None:
            known = self._known[text] = self._encoder.encode([text])
            self._bytes += known.tokens.nbytes
        self._known.move_to_end(text)
        while self._bytes > MEMO_BYTES and len(self._known) > 1:
            self._bytes -= self._known.popitem(last=False)[1].tokens.nbytes
        return known


class StoredEncoder(SingleEncoder):
    """Features from the file that `write_features` made; the encoder is only asked what it is. `set_name` is
    for messages."""

    def __init__(
        self, encoder: TextEncoder, path: Path, dtype: torch.dtype, made_of: str, set_name: str
    ) -> None:
        """CacheError, in one line, if the file is absent, or of another encoder, dtype or set (`made_of`)."""
        super().__init__(encoder)
        self.path, self._again = path, f"make it with `{command_for(set_name)}`"
        if not path.is_file():
            kind = f"{encoder.fingerprint[:12]}... in {_name(dtype)}"
            raise CacheError(f"{path.parent} has no text features of encoder {kind}; {self._again}")
        with _opened(path, read_only=True) as connection:
            told = dict(connection.execute("SELECT name, value FROM about"))
        for name, value in _about(encoder, dtype, made_of).items():
            if told.get(name) != value:
                raise CacheError(f"{path} was made with another {name}; {self._again}")

    def encode(self, texts: list[str]) -> TextFeatures:
        """CacheError for a text that is not in the file, or a file that cannot be read; ValueError for an
        empty list, TypeError for a bare string."""
        check_texts(texts)
        keys = [key_of(text) for text in texts]
        with _opened(self.path, read_only=True) as connection:
            rows = read_rows(connection, dict.fromkeys(keys), self.width)
        for key, text in zip(keys, texts, strict=True):
            if key not in rows:
                raise CacheError(f"{self.path} has no features of the caption {text[:60]!r}; {self._again}")
        return to_features([rows[key] for key in keys], self.width).to(self.device)


def features_path(folder: Path, encoder: TextEncoder, dtype: torch.dtype) -> Path:
    """The file of an encoder in a folder of text features."""
    return folder / f"{encoder.fingerprint[:32]}-{_name(dtype)}.sqlite"


def command_for(set_name: str) -> str:
    """What makes the features of a set."""
    return f"impasto data texts {set_name}"


def write_features(
    path: Path,
    encoder: TextEncoder,
    dtype: torch.dtype,
    made_of: str,
    texts: Iterable[str],
    progress: Callable[[int], None] = lambda done: None,
) -> int:
    """Encode the distinct texts of a set into a file, unless it is there; returns their number. `dtype` is
    that of the encoder's weights, `made_of` the fingerprint of the set. It is built under another name, from
    which a build that was stopped goes on, and renamed when it is whole. Raises CacheError in one line."""
    about = _about(encoder, dtype, made_of)
    if path.is_file():
        with _opened(path, read_only=True) as connection:
            told = dict(connection.execute("SELECT name, value FROM about"))
        if about.items() <= told.items():
            return int(told["captions"])
    partial = path.with_name(f".{path.name}.partial")
    reader, count = SingleEncoder(encoder), 0
    with _opened(partial) as connection:
        connection.execute(SCHEMA)
        connection.execute(ABOUT)
        for batch in _batches(texts):
            _add(connection, reader, batch)
            (count,) = connection.execute("SELECT count(*) FROM features").fetchone()
            progress(count)
        with connection:
            told = {**about, "captions": str(count)}
            connection.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", told.items())
    os.replace(partial, path)
    return count


def _add(connection: sqlite3.Connection, reader: SingleEncoder, texts: Sequence[str]) -> None:
    """The texts that are not there yet."""
    distinct = {key_of(text): text for text in texts}
    there = read_rows(connection, distinct, reader.width)
    keys = [key for key in distinct if key not in there]
    if reader.device.type == "cpu":
        parts = [([key], reader.encode([distinct[key]])) for key in keys]
    else:
        parts = [(keys, reader.encode([distinct[key] for key in keys]))] if keys else []
    with connection:
        for some, features in parts:
            alone = reader.device.type == "cpu"
            connection.executemany(INSERT, to_rows(some, features, with_padding=alone))


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(texts)
    while batch := list(islice(rest, BATCH)):
        yield batch


def _about(encoder: TextEncoder, dtype: torch.dtype, made_of: str) -> dict[str, str]:
    return {"encoder": encoder.fingerprint, "dtype": _name(dtype), "set of captions": made_of}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@contextmanager
def _opened(path: Path, *, read_only: bool = False) -> Iterator[sqlite3.Connection]:
    """A connection to the file; whatever SQLite reports comes out as CacheError."""
    try:
        if not read_only:
            path.parent.mkdir(parents=True, exist_ok=True)
        address = f"file:{quote(str(path.absolute()))}?mode={'ro' if read_only else 'rwc'}"
        with closing(sqlite3.connect(address, uri=True)) as connection:
            yield connection
    except (sqlite3.OperationalError, OSError) as error:
        raise CacheError(f"cannot use {path} ({error}); choose another folder") from error
    except sqlite3.DatabaseError as error:
        raise CacheError(f"{path} is damaged ({error}); delete it and make it again") from error
