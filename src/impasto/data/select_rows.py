"""The work that DuckDB does for `impasto data select`: rows by the rules, duplicates, sorted part files."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from impasto.config import ConfigError, first_line
from impasto.data.records import DataError
from impasto.data.select_columns import KEY, ROLES, projection, quoted
from impasto.data.select_rules import Rule, SelectionOptions, rank, reason

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Table:
    """An input file. `columns`: {role: its name there}."""

    path: str
    bytes: int
    modified: int
    rows: int
    columns: dict[str, str]


@contextmanager
def open_database(work: Path, threads: int, memory: str) -> Iterator[Any]:
    """A database of DuckDB in `work`, no extension fetched. Raises ConfigError without DuckDB or for what it
    does not take, DataError where its memory is too little or a query fails."""
    try:
        import duckdb
    except ImportError:
        raise ConfigError("impasto data select needs DuckDB: pip install 'impasto[select]'") from None
    settings: dict[str, Any] = {
        "threads": threads,
        "memory_limit": memory,
        "temp_directory": str(work / "spilled"),
        "autoinstall_known_extensions": False,
    }
    try:
        database = duckdb.connect(str(work / "rows.duckdb"), config=settings)
    except duckdb.Error as error:
        raise ConfigError(f"--workers {threads} --memory {memory}: {first_line(error)}") from None
    try:
        yield database
    except duckdb.OutOfMemoryException as error:
        raise DataError(f"{memory} of memory is too little ({first_line(error)}); raise --memory") from None
    except duckdb.Error as error:
        raise DataError(f"the selection stopped: {first_line(error)}") from None
    finally:
        database.close()


@contextmanager
def reading(path: str) -> Iterator[None]:
    """DuckDB's complaints about a file, as a DataError of one line that names it; those about
    memory pass through."""
    import duckdb

    try:
        yield
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        raise DataError(f"{path} cannot be read ({first_line(error)}); get it anew or leave it out") from None


def shape(database: Any, path: str) -> tuple[int, tuple[str, ...]]:
    """Rows and column names of a parquet file, by its footer. DataError where it cannot be read."""
    with reading(path):
        count = database.execute("SELECT sum(num_rows) FROM parquet_file_metadata(?)", [_name(path)])
        rows = int(count.fetchone()[0] or 0)
        described = database.execute(f"DESCRIBE SELECT * FROM {_parquet(path)}").fetchall()
    return rows, tuple(name for name, *_ in described)


def read_rows(
    database: Any, tables: list[Table], rules: list[Rule], options: SelectionOptions, progress: Progress
) -> dict[str, int]:
    """Fill `candidates` with the rows that pass the rules; returns what each of these dropped."""
    dropped, done, total = {rule.name: 0 for rule in rules}, 0, sum(table.rows for table in tables)
    digest = ", ".join(
        f"coalesce(CAST({quoted(name)} AS VARCHAR), E'\\x1e')" for name in (*ROLES[1:], *options.keep)
    )
    for number, table in enumerate(tables):
        columns = projection(table.columns, options.keep)
        rows = f"(SELECT *, {reason(rules)} AS reason FROM (SELECT {columns} FROM {_parquet(table.path)}))"
        chosen = (
            f"SELECT * EXCLUDE (reason), {rank(options)} AS rank, "
            f"md5_number(concat_ws(E'\\x1f', {digest})) AS digest FROM {rows} WHERE reason IS NULL"
        )
        with reading(table.path):
            for which, count in database.execute(
                f"SELECT reason, count(*) FROM {rows} GROUP BY reason"
            ).fetchall():
                if which is not None:
                    dropped[rules[which].name] += count
            database.execute(
                f"{'INSERT INTO candidates' if number else 'CREATE TABLE candidates AS'} {chosen}"
            )
        done += table.rows
        progress(done, total)
    return dropped


def drop_duplicates(database: Any, options: SelectionOptions) -> dict[str, int]:
    """Make `chosen`: the places of the candidates to keep; returns what each kind of duplicate and the bound
    on rows dropped. Of several copies the one with the least digest stays, whichever file it is in."""
    database.execute(
        "CREATE TABLE chosen AS SELECT rowid AS place, rank, digest, "
        f"{'md5_number(caption)' if 'pair' in options.duplicates else 'NULL'} AS text, "
        f"{'hash' if 'hash' in options.duplicates else 'NULL'} AS hash FROM candidates"
    )
    groups = {"pair": "rank, text", "url": "rank", "hash": "hash, CASE WHEN hash IS NULL THEN place END"}
    dropped: dict[str, int] = {}
    before = _count(database)
    for way in dict.fromkeys(options.duplicates):
        kept = f"FROM chosen QUALIFY row_number() OVER (PARTITION BY {groups[way]} ORDER BY digest, rank) = 1"
        before = _replace_chosen(database, f"SELECT * {kept}", f"duplicate {way}", before, dropped)
    if options.maximum_rows is not None:
        first = f"SELECT * FROM chosen ORDER BY rank, digest LIMIT {options.maximum_rows}"
        _replace_chosen(database, first, "maximum_rows", before, dropped)
    return dropped


def _replace_chosen(database: Any, query: str, name: str, before: int, dropped: dict[str, int]) -> int:
    database.execute(f"CREATE TABLE fewer AS {query}")
    database.execute("DROP TABLE chosen")
    database.execute("ALTER TABLE fewer RENAME TO chosen")
    after = _count(database)
    dropped[name] = before - after
    return after


def _count(database: Any) -> int:
    return database.execute("SELECT count(*) FROM chosen").fetchone()[0]


def output_columns(tables: list[Table], options: SelectionOptions) -> list[tuple[str, str]]:
    """(name, SQL) of the columns of the selection."""
    found = {role for table in tables for role in table.columns} | {"url", "caption", "width", "height"}
    columns = [(role, role) for role in ROLES if role in found]
    return [*columns, *((name, quoted(name)) for name in options.keep), (KEY, "md5(url)")]


def write_parts(
    database: Any, tables: list[Table], options: SelectionOptions, folder: Path, base: int, progress: Progress
) -> list[dict[str, Any]]:
    """The part files, sorted; an empty one if nothing is left. Returns names, rows and bytes."""
    columns = ", ".join(f"{sql} AS {quoted(name)}" for name, sql in output_columns(tables, options))
    database.execute(
        "CREATE TABLE sorted AS SELECT candidates.* FROM candidates JOIN chosen "
        "ON candidates.rowid = chosen.place ORDER BY candidates.rank, candidates.digest"
    )
    database.execute("DROP TABLE candidates")
    count = _count(database)
    parts: list[dict[str, Any]] = []
    for start in range(0, max(1, count), options.part_rows):
        end = min(start + options.part_rows, count)
        name = f"part-{len(parts):05d}.parquet"
        query = (
            f"SELECT {columns} FROM sorted WHERE rowid >= {start} AND rowid < {end}"  # kept in their order
        )
        target = str(folder / name).replace("'", "''")
        database.execute(f"COPY ({query}) TO '{target}' (FORMAT parquet, COMPRESSION zstd)")
        parts.append({"file": name, "rows": end - start, "bytes": (folder / name).stat().st_size})
        progress(base + end, base + count)
    return parts


def _name(path: str) -> str:
    """A file's name as DuckDB takes it: marks of patterns stand for themselves."""
    return re.sub(r"([*?\[])", r"[\1]", path)


def _parquet(path: str) -> str:
    escaped = _name(path).replace("'", "''")
    return f"read_parquet('{escaped}', binary_as_string=true, hive_partitioning=false)"
