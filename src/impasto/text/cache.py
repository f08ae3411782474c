"""Features kept on disk: a text is encoded once, and comes back bit for bit.

One SQLite file an encoder fingerprint, so a change of weights or conventions starts a new file. It is opened
for each call: nothing is shared over a fork or between threads, and several processes may read and write at
once (on a local disk; SQLite's write-ahead log does not work over a network file system).
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from impasto.text.features import TextEncoder, TextFeatures, check_texts

SCHEMA = """CREATE TABLE IF NOT EXISTS features (
    key BLOB PRIMARY KEY, positions INTEGER NOT NULL, valid INTEGER NOT NULL, eot_index INTEGER NOT NULL,
    tokens BLOB NOT NULL, pooled BLOB NOT NULL, checksum INTEGER NOT NULL)"""
SELECT = "SELECT key, positions, valid, eot_index, tokens, pooled, checksum FROM features WHERE key IN"
INSERT = "INSERT OR IGNORE INTO features VALUES (?, ?, ?, ?, ?, ?, ?)"
KEYS_A_QUERY = 500  # SQLite allows 999 in its older releases
WAIT_SECONDS = 60.0  # for another process to finish writing


class CacheError(ValueError):
    """The cache cannot be used; one line that names the file and the way out."""


class Row(NamedTuple):
    """The features of a text as the file keeps them."""

    key: bytes
    positions: int  # T kept of this text
    valid: int
    eot_index: int
    tokens: bytes  # [T,C] float32, little-endian
    pooled: bytes  # [C'] float32
    checksum: int

    def check(self) -> int:
        return zlib.crc32(self.pooled, zlib.crc32(self.tokens))


class WrappedEncoder:
    """What an encoder around another one takes over from it."""

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder

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
        self._encoder.to(target)
        return self


class CachedEncoder(WrappedEncoder):
    """Wraps any encoder whose features are float32; follows the same protocol.

    Trailing positions that are masked and exactly zero are padding and not stored, so the T of a result is
    the longest among its own texts (CLIP's padding positions carry features: all 77 are kept). batch_size
    bounds how many texts are encoded before they are written. Raises CacheError.
    """

    def __init__(self, encoder: TextEncoder, directory: Path | str, batch_size: int = 256) -> None:
        super().__init__(encoder)
        self._batch_size = batch_size
        self._directory = Path(directory)

    @property
    def path(self) -> Path:
        """The file of this encoder."""
        return self._directory / f"{self.fingerprint[:32]}.sqlite"

    def encode(self, texts: list[str]) -> TextFeatures:
        """As the wrapped encoder gave them the first time; only texts never seen are encoded, each once."""
        check_texts(texts)
        keys = [key_of(text) for text in texts]
        distinct = dict(zip(keys, texts, strict=True))
        with self._open() as connection:
            rows = read_rows(connection, distinct, self.width)
        missing = [key for key in distinct if key not in rows]
        for start in range(0, len(missing), self._batch_size):
            batch = missing[start : start + self._batch_size]
            new = to_rows(batch, self._encoder.encode([distinct[key] for key in batch]))
            with self._open() as connection:
                with connection:
                    connection.executemany(INSERT, new)
                # Another process may have been first: its row counts.
                rows |= read_rows(connection, batch, self.width)
        return to_features([rows[key] for key in keys], self.width).to(self.device)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection to the file, made where it is new; whatever SQLite reports comes out as CacheError."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=WAIT_SECONDS)) as connection:
                _use_write_ahead_log(connection)
                connection.execute(SCHEMA)
                yield connection
        except (sqlite3.OperationalError, OSError) as error:
            hint = "choose another directory"
            raise CacheError(f"cannot use the text cache {self.path} ({error}); {hint}") from error
        except sqlite3.DatabaseError as error:
            hint = "delete it, and it is filled again"
            raise CacheError(f"the text cache {self.path} is damaged ({error}); {hint}") from error


def read_rows(connection: sqlite3.Connection, keys: Iterable[bytes], width: int) -> dict[bytes, Row]:
    """Those of the keys that are there. sqlite3.DatabaseError for one that fails its checksum."""
    wanted = list(keys)
    rows: dict[bytes, Row] = {}
    for start in range(0, len(wanted), KEYS_A_QUERY):
        chunk = wanted[start : start + KEYS_A_QUERY]
        marks = ", ".join("?" * len(chunk))
        rows |= {row[0]: Row(*row) for row in connection.execute(f"{SELECT} ({marks})", chunk)}
    for row in rows.values():
        if row.check() != row.checksum or len(row.tokens) != row.positions * width * 4:
            raise sqlite3.DatabaseError("an entry fails its checksum")
    return rows


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """The switch to the write-ahead log does not wait for other processes by itself; all after it does."""
    give_up = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > give_up:
                raise
            time.sleep(0.01)


def key_of(text: str) -> bytes:
    """SHA-256 of a text: 32 bytes."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def to_rows(keys: list[bytes], features: TextFeatures, *, with_padding: bool = False) -> list[Row]:
    """One row a text, without trailing positions that are masked and zero unless `with_padding`. Raises
    ValueError for features that the file could not give back exactly."""
    if features.tokens.dtype != torch.float32 or features.pooled.dtype != torch.float32:
        raise ValueError(f"the text cache keeps float32 features, not {features.tokens.dtype}")
    features = features.to("cpu")
    lengths = features.mask.sum(dim=1)
    if not torch.equal(features.mask, torch.arange(features.mask.shape[1]) < lengths[:, None]):
        raise ValueError("the text cache needs masks whose valid positions come first")
    rows = []
    for i, key in enumerate(keys):
        kept = features.mask[i] | (features.tokens[i] != 0).any(dim=1) | with_padding
        positions = int(kept.nonzero().max()) + 1 if kept.any() else 0
        tokens, pooled = _to_bytes(features.tokens[i, :positions]), _to_bytes(features.pooled[i])
        row = Row(key, positions, int(lengths[i]), int(features.eot_index[i]), tokens, pooled, 0)
        rows.append(row._replace(checksum=row.check()))
    return rows


def to_features(rows: list[Row], width: int) -> TextFeatures:
    """Rows back to features of tokens `width` wide, T as long as the longest of them."""
    tokens = torch.zeros(len(rows), max(row.positions for row in rows), width)
    for i, row in enumerate(rows):
        tokens[i, : row.positions] = _from_bytes(row.tokens).view(row.positions, width)
    valid = torch.tensor([row.valid for row in rows])
    return TextFeatures(
        tokens,
        mask=torch.arange(tokens.shape[1]) < valid[:, None],
        eot_index=torch.tensor([row.eot_index for row in rows]),
        pooled=torch.stack([_from_bytes(row.pooled) for row in rows]),
    )


def _to_bytes(values: Tensor) -> bytes:
    return values.contiguous().numpy().astype("<f4", copy=False).tobytes()


def _from_bytes(data: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(data, dtype="<f4").astype(np.float32))
