"""Packages as archives: npm's is a tar file, Debian's an ar file with a tar file in it."""

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

NPM_ROOT, DEBIAN_ROOT = "package/", "./"  # of every file inside
AR_MAGIC = b"!<arch>\n"
AR_HEADER, AR_NAME, AR_SIZE = 60, slice(0, 16), slice(48, 58)  # bytes of a member's header, and what is where
Mode = Literal["r:xz", "r:gz"]
DATA: dict[bytes, Mode] = {b"data.tar.xz": "r:xz", b"data.tar.gz": "r:gz"}  # a Debian package's files


@contextmanager
def open_archive(path: Path) -> Iterator[tuple[tarfile.TarFile, str]]:
    """The tar file of a package, by the end of its name, and what the names of its files begin with.
    tarfile.TarError or OSError if it is none."""
    if path.suffix != ".deb":
        with tarfile.open(path, "r:gz") as archive:
            yield archive, NPM_ROOT
        return
    with open(path, "rb") as file:
        mode = _seek_data(file)
        with tarfile.open(fileobj=file, mode=mode) as archive:
            yield archive, DEBIAN_ROOT


def _seek_data(file: IO[bytes]) -> Mode:
    """To where the files of a Debian package begin; returns how they are read."""
    if file.read(len(AR_MAGIC)) != AR_MAGIC:
        raise tarfile.ReadError("not a Debian package")
    while len(header := file.read(AR_HEADER)) == AR_HEADER:
        mode = DATA.get(header[AR_NAME].rstrip(b" /"))
        if mode is not None:
            return mode
        size = header[AR_SIZE].strip()
        if not size.isdigit():
            break
        file.seek(int(size) + int(size) % 2, 1)  # members begin at even places
    raise tarfile.ReadError("a Debian package without its files")
