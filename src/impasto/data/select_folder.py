"""Where a selection is read from and written to: files, the folder, the work beside it."""

import fcntl
import glob
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from impasto.data.records import DataError

DESCRIPTION, MADE_BY = "selection.json", "impasto data select"


def find_files(sources: list[str]) -> list[str]:
    """Parquet files of files, folders (within too, hidden ones apart) and patterns, each once, sorted.
    DataError for a source that holds none."""
    found: dict[Path, str] = {}
    for source in sources:
        folder = Path(source)
        if folder.is_dir():
            inside = [file.relative_to(folder) for file in folder.rglob("*.parquet") if file.is_file()]
            files = [str(folder / file) for file in inside if not any(p.startswith(".") for p in file.parts)]
        elif folder.is_file():
            files = [source]
        else:
            files = [name for name in glob.glob(source, recursive=True) if os.path.isfile(name)]
        if not files:
            raise DataError(f"{source}: no parquet file there")
        for file in files:
            found.setdefault(Path(file).resolve(), file)
    return sorted(found.values())


@contextmanager
def workspace(out: Path) -> Iterator[Path]:
    """A folder beside `out` for this process alone, gone at the end; what a killed run left is dropped.
    DataError while another selection is written there."""
    work = out.resolve().with_name(f".{out.resolve().name}.select.tmp")
    work.mkdir(parents=True, exist_ok=True)
    with open(work / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"another selection is being written to {out}; wait for it") from None
        for left in work.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
            elif left.name != "lock":
                left.unlink()
        try:
            yield work
        finally:
            shutil.rmtree(work)


def finished(out: Path) -> dict[str, Any] | None:
    """What the folder says of the selection it holds; None if it holds none."""
    try:
        document = json.loads((out / DESCRIPTION).read_text("utf-8"))
        return document if document["made_of"]["made_by"] == MADE_BY else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def whole(out: Path, document: dict[str, Any]) -> bool:
    """Whether every part of a finished selection is there, with as many bytes as were written."""
    try:
        return all((out / part["file"]).stat().st_size == part["bytes"] for part in document["parts"])
    except (OSError, KeyError):
        return False


def check_place(out: Path, files: list[str]) -> None:
    """DataError unless `out` is free or holds a selection and nothing else."""
    inside = [file for file in files if Path(file).resolve().is_relative_to(out.resolve())]
    if inside:
        raise DataError(
            f"{inside[0]} is to be read and lies in {out}, where the selection goes; choose another folder"
        )
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    part = re.compile(r"part-\d{5}\.parquet")
    others = {p.name for p in out.iterdir() if not part.fullmatch(p.name)} if out.is_dir() else set()
    if others != {DESCRIPTION} or not finished(out):
        raise DataError(f"{out} holds something else than a selection; choose another folder")
