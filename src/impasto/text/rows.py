"""Rows of an SQLite file that hold the features of texts, and give them back bit for bit."""

from __future__ import annotations

import hashlib
import sqlite3
import zlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from impasto.text.features import TextFeatures

SCHEMA = """CREATE TABLE IF NOT EXISTS features (
    key BLOB PRIMARY KEY, positions INTEGER NOT NULL, valid INTEGER NOT NULL, eot_index INTEGER NOT NULL,
    tokens BLOB NOT NULL, pooled BLOB NOT NULL, checksum INTEGER NOT NULL)"""
SELECT = "SELECT key, positions, valid, eot_index, tokens, pooled, checksum FROM features WHERE key IN"
INSERT = "INSERT OR IGNORE INTO features VALUES (?, ?, ?, ?, ?, ?, ?)"
KEYS_A_QUERY = 500  # SQLite allows 999 in its older releases


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


def key_of(text: str) -> bytes:
    """SHA-256 of a text: 32 bytes."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def to_rows(keys: list[bytes], features: TextFeatures, *, with_padding: bool = False) -> list[Row]:
    """One row a text, without trailing positions that are masked and zero unless `with_padding`. Raises
    ValueError for features that the file could not give back exactly."""
    if features.tokens.dtype != torch.float32 or features.pooled.dtype != torch.float32:
        raise ValueError(f"stored features are float32, not {features.tokens.dtype}")
    features = features.to("cpu")
    lengths = features.mask.sum(dim=1)
    if not torch.equal(features.mask, torch.arange(features.mask.shape[1]) < lengths[:, None]):
        raise ValueError("stored features need masks whose valid positions come first")
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
