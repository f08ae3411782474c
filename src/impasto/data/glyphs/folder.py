"""The folder that a set is built into: whose it is, and whether it is whole."""

import json
from pathlib import Path
from typing import Any

from impasto.data.pack import CHECKSUMS, checksum
from impasto.data.records import DataError
from impasto.runtime.files import atomic_write_text

DESCRIPTION, WORK = "build.json", ".work"


def claim(out: Path, made_of: dict[str, Any]) -> None:
    """The folder, for this build alone. DataError where it holds another one, or anything else."""
    started = out / WORK / DESCRIPTION
    if started.is_file():
        if json.loads(started.read_text("utf-8")) != made_of:
            raise DataError(f"{out} holds another build that is not finished; delete it or choose another")
        return
    if out.is_dir() and any(out.iterdir()):
        raise DataError(f"{out} is not empty; choose another folder, or delete it")
    atomic_write_text(started, dump(made_of))


def finished(out: Path, made_of: dict[str, Any]) -> dict[str, Any] | None:
    """The counts of the same build, if it is there whole; None if none is. DataError for another, or where a
    file is not what was built."""
    description = out / DESCRIPTION
    if not description.is_file():
        return None
    told = json.loads(description.read_text("utf-8"))
    if any(told["made_of"].get(name) != value for name, value in made_of.items()):
        raise DataError(f"{out} holds a build with other options; choose another folder, or delete it")
    for sums in sorted(out.glob(f"*/{CHECKSUMS}")):
        for line in sums.read_text("utf-8").splitlines():
            digest, name = line.split("  ", 1)
            path = sums.parent / name
            if not path.is_file() or checksum(path) != digest:
                raise DataError(f"{path} is not what was built; delete {out} and build again")
    return told["counts"]


def dump(document: Any) -> str:
    """JSON, always the same for the same."""
    return json.dumps(document, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
