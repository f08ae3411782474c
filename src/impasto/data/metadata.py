"""A folder of pictures with one table of them: metadata.jsonl, .csv or .parquet, as Hugging Face's
imagefolder has it. The column `file_name` is a path within the folder; for captions see
`records.captions_of`."""

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from impasto.data.folder import read_file
from impasto.data.options import Format
from impasto.data.records import BadSampleError, DataError, Faults, Record, captions_of

TABLES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
FILE_COLUMN = "file_name"
LINES_A_BATCH = 4096


class MetadataRecords:
    """Numbered as the rows of the table. The table is held in memory. DataError where it cannot be read, or
    lacks a column asked for."""

    format: Format = "metadata"

    def __init__(self, folder: Path, caption_column: str = "") -> None:
        self.folder, self.faults = Path(folder), Faults()
        self.table = find_table(self.folder)
        self._caption_column = caption_column
        self._rows: list[Mapping[str, Any]] = []
        seen: set[str] = set()
        for number, row in _rows_of(self.table):
            seen |= row.keys()
            try:
                self._check(number, row)
            except BadSampleError as bad:
                self.faults.add(bad.reason, bad.name)
            else:
                self._rows.append(row)
        self._require(FILE_COLUMN, seen)
        if caption_column:
            self._require(caption_column, seen)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def fingerprint(self) -> str:
        with open(self.table, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def key(self, index: int) -> str:
        return self._rows[index][FILE_COLUMN]

    def read(self, index: int) -> Record:
        row = self._rows[index]
        file = row[FILE_COLUMN]
        captions = captions_of(row, file, self._caption_column)
        details = {
            key: value
            for key, value in row.items()
            if key != FILE_COLUMN and isinstance(value, (str, int, float, bool))
        }
        return Record(file, read_file(str(self.folder / file), file, "no picture"), captions, details)

    def _check(self, number: int, row: Mapping[str, Any]) -> None:
        place = f"{self.table.name} row {number}"
        file = row.get(FILE_COLUMN)
        if not isinstance(file, str) or not file:
            raise BadSampleError("row damaged", place)
        path = PurePosixPath(file)
        if path.is_absolute() or ".." in path.parts:
            raise BadSampleError("outside the folder", place)
        if not captions_of(row, file, self._caption_column):
            raise BadSampleError("no caption", file)

    def _require(self, column: str, seen: Iterable[str]) -> None:
        if column not in seen:
            raise DataError(
                f"{self.table} has no column '{column}'; it has {', '.join(sorted(seen)) or 'none'}"
            )


def find_table(folder: Path) -> Path:
    """The table of a folder. DataError if there is none, or more than one."""
    found = [folder / name for name in TABLES if (folder / name).is_file()]
    if len(found) != 1:
        names = " and ".join(path.name for path in found) or f"none of {', '.join(TABLES)}"
        raise DataError(f"{folder} should hold one table of its pictures; it holds {names}")
    return found[0]


def _rows_of(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows with their numbers. A row that cannot be read is empty; text that is not UTF-8 keeps its bytes as
    surrogates, which `captions_of` refuses."""
    if table.suffix == ".parquet":
        yield from enumerate(_parquet(table), 1)
        return
    with open(table, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        if table.suffix == ".jsonl":
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _json_row(line)
            return
        for number, row in enumerate(csv.DictReader(file), 1):
            yield number, {key: value for key, value in row.items() if key is not None}


def _json_row(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def _parquet(table: Path) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise DataError(f"{table} needs pyarrow: pip install 'impasto[data]'") from None
    try:
        for batch in parquet.ParquetFile(table).iter_batches(LINES_A_BATCH):
            yield from batch.to_pylist()
    except ArrowException as error:
        raise DataError(f"{table} cannot be read ({str(error).splitlines()[0]}); write it anew") from None
