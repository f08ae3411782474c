"""What the commands of the ablations have in common: cells, each trained with every seed, one JSON file each.

A command is repeated after it was stopped: cells whose file is there are skipped.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from impasto.config import ConfigError, first_line, nearest
from impasto.errors import ExpectedError
from impasto.runtime.files import atomic_write_text
from impasto.runtime.results import finite, read_result, versions


def study_parser(module: str, description: str, cells: Iterable[str], seeds: str) -> argparse.ArgumentParser:
    """Of `python -m MODULE`, with what all of them ask; `description` up to its first colon."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description.split(":")[0])
    parser.add_argument("--out", type=Path, help="folder of the runs")
    parser.add_argument("--cells", default=",".join(cells), help="which, by commas (default: all)")
    parser.add_argument("--seeds", default=seeds, help=f"by commas (default {seeds})")
    parser.add_argument("--results", type=Path, help="folder of the JSON files (default OUT/results)")
    parser.add_argument("--table", action="store_true", help="print a table of the results, and run nothing")
    return parser


def results_folder(arguments: argparse.Namespace) -> Path:
    """--results, or the folder in --out. ConfigError where the command needs --out and has none."""
    if arguments.out is None and (arguments.results is None or not arguments.table):
        raise ConfigError("--out is needed: the folder of the runs")
    return arguments.results or arguments.out / "results"


def chosen(arguments: argparse.Namespace, known: Iterable[str]) -> tuple[list[str], list[int]]:
    """--cells, each of them one of `known`, and --seeds. ConfigError for another cell, with the nearest, or
    for a seed that is no whole number."""
    cells, seeds, names = arguments.cells.split(","), arguments.seeds.split(","), list(known)
    for cell in cells:
        if cell not in names:
            raise ConfigError(f"no cell '{cell}'; {nearest(cell, names)}")
    if not all(seed.isdecimal() for seed in seeds):
        raise ConfigError(f"--seeds {arguments.seeds} should be whole numbers with commas between")
    return cells, list(map(int, seeds))


def run_cells(cells: Sequence[str], seeds: Iterable[int], run_cell: Callable[[str, int], str]) -> bool:
    """Every cell with the first seed, then with the next; run_cell returns "finished", or why it stopped.
    Whether all are finished; if not, it is said how to go on."""
    for seed in seeds:
        for cell in cells:
            reason = run_cell(cell, seed)
            if reason != "finished":
                print(f"stopped: {reason}; repeat the command to go on")
                return False
    return True


def is_finished(
    file: Path, described: Mapping[str, Any], read: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> bool:
    """Whether a cell's file is there. described: what decides its result; read makes today's settings of the
    file's, since those that came after it was written had their defaults in it. ConfigError where the file
    is of something else."""
    if not file.is_file():
        return False
    found, expected = read_result(file), json.loads(json.dumps(described))
    found["settings"] = json.loads(json.dumps(read(found.get("settings", {}))))
    for name, value in expected.items():
        if found.get(name) != value:
            raise ConfigError(f"{file} is of another {name}; choose another --results, or delete the file")
    print(f"{expected['cell']}, seed {expected['seed']}: finished before, {file}")
    return True


def write_result(file: Path, described: Mapping[str, Any], **found: Any) -> None:
    """A cell's file: what decides the result, what was found, versions. Numbers that are not finite become
    null."""
    document = finite({**described, **found, "versions": versions()})
    atomic_write_text(file, json.dumps(document, indent=1, allow_nan=False) + "\n")


def in_one_line(name: str, work: Callable[[], int]) -> int:
    """The exit status of a command; expected errors become one line on stderr and status 2."""
    try:
        return work()
    except (ExpectedError, ValueError, OSError) as error:
        print(f"{name}: error: {first_line(error)}", file=sys.stderr)
        return 2
