"""Rows of LAION's and COYO's metadata by rules, into the parquet files that img2dataset takes.

Every file is read once to count what each rule drops, and once more for the rows that are left; these go into
a database on disk, where duplicates are found and rows are sorted by a hash of seed and address. So the
result is a function of rows and options, not of the order of files or of threads, and memory stays below a
bound. Everything is made in a folder beside the output and renamed at the end.
"""

import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import impasto
from impasto.config import to_dict
from impasto.data.records import DataError
from impasto.data.select_columns import check_kept, find_columns
from impasto.data.select_folder import (
    DESCRIPTION,
    MADE_BY,
    check_place,
    find_files,
    finished,
    whole,
    workspace,
)
from impasto.data.select_rows import (
    Table,
    drop_duplicates,
    open_database,
    output_columns,
    read_rows,
    shape,
    write_parts,
)
from impasto.data.select_rules import Rule, SelectionOptions, needs, row_rules
from impasto.runtime.files import atomic_write_text

VERSION = 1


def select(
    sources: list[str],
    out: Path,
    options: SelectionOptions | None = None,
    *,
    threads: int = 2,
    memory: str = "1GB",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Write the selection to `out`; returns what selection.json says: rows, kept, dropped by rule. If it is
    there already, whole, of the same files and options, nothing is done.

    progress(rows done, rows to do): the rows read, with the rows written on top. `memory` bounds DuckDB's own
    buffers. Raises ConfigError for options that do not fit the files, DataError for files and folders."""
    options, out = options or SelectionOptions(), Path(out)
    files = find_files(sources)
    check_place(out, files)
    with workspace(out) as work, open_database(work, threads, memory) as database:
        tables, rules = _plan(database, files, options)
        made_of = {
            "made_by": MADE_BY,
            "version": VERSION,
            "options": to_dict(options),
            "inputs": [to_dict(table) for table in tables],
        }
        done = finished(out)
        if done and done["made_of"] == made_of and whole(out, done):
            return done
        (work / "selection").mkdir()
        dropped = read_rows(database, tables, rules, options, progress)
        dropped |= drop_duplicates(database, options)
        total = sum(table.rows for table in tables)
        parts = write_parts(database, tables, options, work / "selection", total, progress)
        kept, gone = sum(part["rows"] for part in parts), sum(dropped.values())
        if total != kept + gone:
            raise DataError(
                f"{total} rows are not {kept} kept and {gone} dropped; did a file change meanwhile?"
            )
        document = {
            "impasto": impasto.__version__,
            "rows": total,
            "kept": kept,
            "dropped": dropped,
            "parts": parts,
            "command": command(out, [name for name, _ in output_columns(tables, options)]),
            "made_of": made_of,
        }
        text = json.dumps(document, indent=2, ensure_ascii=False)
        atomic_write_text(work / "selection" / DESCRIPTION, text + "\n")
        if out.exists():
            os.replace(out, work / "replaced")
        os.replace(work / "selection", out)
    return document


def report(selection: dict[str, Any]) -> str:
    """Rows read, dropped by rule and kept, for a person to read."""
    rows = [("rows read", selection["rows"])]
    rows += [(f"  dropped: {name}", count) for name, count in selection["dropped"].items()]
    rows.append(("kept", selection["kept"]))
    width = max(len(name) for name, _ in rows)
    share = 100 / max(1, selection["rows"])
    return "\n".join(f"{name:{width}s} {count:15,} {count * share:6.2f} %" for name, count in rows)


def command(out: Path, columns: list[str]) -> str:
    """The command that downloads a selection; sizes and counts as on img2dataset's page about COYO-700M."""
    extra = [name for name in columns if name not in ("url", "caption", "width", "height")]
    return (
        f"img2dataset --url_list {shlex.quote(str(out))} --input_format parquet"
        f" --url_col url --caption_col caption"
        f" --save_additional_columns '{json.dumps(extra, separators=(',', ':'))}'"
        f" --output_format webdataset --output_folder {shlex.quote(f'{out}-shards')}"
        " --processes_count 16 --thread_count 64 --image_size 384 --resize_mode keep_ratio"
        " --resize_only_if_bigger True --skip_reencode True"
    )


def _plan(database: Any, files: list[str], options: SelectionOptions) -> tuple[list[Table], list[Rule]]:
    """What every file has, checked against the rules before anything is read."""
    shapes = {file: shape(database, file) for file in files}
    by_column = options.language_from == "column" or (
        options.language_from == "auto"
        and all(
            "language" in find_columns(file, names, options.preset, options.columns, {})
            for file, (_, names) in shapes.items()
        )
    )
    rules, tables = row_rules(options, by_column), []
    for file, (rows, names) in shapes.items():
        columns = find_columns(file, names, options.preset, options.columns, needs(rules, options))
        check_kept(file, options.keep, names)
        status = os.stat(file)
        tables.append(Table(file, status.st_size, status.st_mtime_ns, rows, columns))
    return tables, rules
