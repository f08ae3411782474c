"""Packages as archives: npm's is a tar file, Debian's an ar file with a tar file in it."""

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

NPM_ROOT, DEBIAN_ROOT = "package/", "./"  # of every file inside
AR_MAGIC = b"!<arch>\n"
AR_HEADER, AR_NAME, AR_SIZE = 60, slice(0, 16), slice(48, 58)  # bytes of a member's header, and what is where
COMPRESSIONS: tuple[Literal["xz", "gz"], ...] = ("xz", "gz")  # of Debian's that Python's tarfile reads


@contextmanager
def open_archive(path: Path) -> Iterator[tuple[tarfile.TarFile, str]]:
    """The tar file of a package, by the end of its name, and what the names of its files begin with.
    tarfile.TarError or OSError if it is none."""
    if path.suffix != ".deb":
        with tarfile.open(path, "r:gz") as archive:
            yield archive, NPM_ROOT
        return
    with open(path, "rb") as file:
        compression = _seek_data(file)
        with tarfile.open(fileobj=file, mode=f"r:{compression}") as archive:
            yield archive, DEBIAN_ROOT


def _seek_data(file: IO[bytes]) -> Literal["xz", "gz"]:
    """To where the files of a Debian package begin; returns how they are compressed."""
    if file.read(len(AR_MAGIC)) != AR_MAGIC:
        raise tarfile.ReadError("not a Debian package")
    while len(header := file.read(AR_HEADER)) == AR_HEADER:
        for compression in COMPRESSIONS:
            if header[AR_NAME].rstrip(b" /") == f"data.tar.{compression}".encode():
                return compression
        size = header[AR_SIZE].strip()
        if not size.isdigit():
            break
        file.seek(int(size) + int(size) % 2, 1)  # members begin at even places
    raise tarfile.ReadError("a Debian package without its files")
