"""What --data names as a stream: tar files by their addresses, opened and grouped by `webdataset`."""

import hashlib
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from impasto.config import ConfigError, first_line
from impasto.data.opening import REMOTE
from impasto.data.options import DatasetOptions
from impasto.data.records import PICTURE_SUFFIXES, BadSampleError, Faults, Record
from impasto.data.shards import make_record

CHUNK = 1 << 16  # bytes
DAMAGED = "tar file damaged or unreadable"


@dataclass(frozen=True)
class Stream:
    """Tar files by their addresses, and how they are told of: without passwords and signatures."""

    name: str
    addresses: tuple[str, ...]
    faults: Faults = field(default_factory=Faults)  # nothing is left out on opening

    @classmethod
    def named(cls, name: str) -> "Stream":
        """From an address with braces, such as https://host/{000..099}.tar, several with :: between them, or
        pipe:COMMAND. ConfigError, in one line, for what cannot be read here."""
        try:
            from webdataset.shardlists import expand_urls
        except ImportError:
            raise ConfigError(f"{public(name)} needs webdataset: pip install 'impasto[stream]'") from None
        try:
            addresses = tuple(expand_urls(name))
        except AssertionError:  # its way to say that a variable is missing
            where = "a variable ${NAME} should be set as WDS_NAME"
            raise ConfigError(f"--data {public(name)} cannot be expanded: {where}") from None
        except ValueError as error:
            raise ConfigError(f"--data {public(name)} cannot be expanded: {first_line(error)}") from None
        for address in addresses:
            if not address.startswith(REMOTE):
                raise ConfigError(f"--data {public(address)} is no address; name all of one kind")
            if address.startswith("s3:"):
                command = "pipe:aws s3 cp s3://BUCKET/{000..099}.tar -"
                raise ConfigError(f"--data {public(address)}: s3 is read by a command; write '{command}'")
        if any(address.startswith("http") for address in addresses) and shutil.which("curl") is None:
            raise ConfigError(f"--data {public(name)} is read by curl, which is not installed")
        return cls("::".join(public(part) for part in name.split("::")), addresses)

    def found(self, options: DatasetOptions) -> DatasetOptions:
        """The options with what is known of the stream. ConfigError for those that need a set on a disk."""
        if options.text_features:
            raise ConfigError(f"dataset.text_features needs a set on a disk, and {self.name} is a stream")
        listed = "\n".join(public(address) for address in self.addresses)
        fingerprint = hashlib.sha256(listed.encode()).hexdigest()
        return replace(options, source=self.name, format="stream", samples=0, fingerprint=fingerprint)

    @property
    def promise(self) -> str:
        """One line for a run's log."""
        return (
            f"{self.name} is a stream of {len(self.addresses)} tar files: a run that is stopped goes on with "
            f"its weights, but the stream begins anew, in another order"
        )


def is_stream(name: str) -> bool:
    """Whether --data names a stream."""
    return name.startswith(REMOTE)


class _Watched:
    """A stream that knows whether it ended as a tar file does; tarfile takes a cut one for a short one."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._last = stream, b""
        self._compressed: bool | None = None

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        if self._compressed is None:
            self._compressed = data.startswith(b"\x1f\x8b")
        self._last = (self._last + data)[-tarfile.BLOCKSIZE :]
        return data

    def finish(self) -> None:
        """Read what is left. OSError, or tarfile.ReadError, if the file or what read it was cut off."""
        while self.read(CHUNK):
            pass
        self._stream.close()
        if not self._compressed and self._last != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("the end is missing")


def samples_of(address: str, faults: Faults) -> Iterator[dict[str, Any]]:
    """The samples of a tar file, as webdataset groups its members. A damaged file is counted, and gives what
    lies before the damage."""
    from webdataset.gopen import gopen
    from webdataset.tariterators import group_by_keys, tar_file_expander

    def note(error: Exception) -> bool:
        faults.add(DAMAGED, public(address))
        return True

    stream = None
    try:
        stream = gopen(address)
        watched = _Watched(stream)
        members = tar_file_expander(iter([{"url": address, "stream": watched}]), handler=note)
        yield from group_by_keys(members, handler=note)
        watched.finish()
    except (OSError, ValueError, tarfile.TarError) as error:
        note(error)
    finally:
        if stream is not None:
            with suppress(OSError):
                stream.close()


def record_of(sample: Mapping[str, Any], address: str, caption_column: str) -> Record:
    """A sample as `webdataset` gives it, {suffix: bytes}. Raises BadSampleError."""
    name = f"{public(address)}:{sample['__key__']}"
    picture = next((sample[kind[1:]] for kind in PICTURE_SUFFIXES if kind[1:] in sample), None)
    if picture is None:
        raise BadSampleError("no picture", name)
    return make_record(name, picture, sample.get("txt"), sample.get("json"), caption_column)


def public(address: str) -> str:
    """An address without user, password and query, which may be secret. Commands stay as they are."""
    if not address.startswith("http"):
        return address
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
