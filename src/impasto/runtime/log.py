"""metrics.jsonl, one JSON object a line, such that a resumed run leaves the file of an uninterrupted one."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy
from torch import Tensor

from impasto.errors import ExpectedError
from impasto.runtime.files import atomic_path

TIME = (
    "time"  # the key of what differs between two runs of one configuration: seconds, images a second, memory
)


class MetricsError(ExpectedError):
    """A metrics file or sink that cannot be used; the message is one line with the way out."""


class MetricsWriter:
    """Appends lines {"images": n, ..., "time": {...}} to `path`, each handed to the system at once.

    What belongs to image count n is written before the checkpoint of n is saved; a run resumed from it calls
    `truncate_to(n)`. A last line torn by a kill is dropped on opening. MetricsError where the file cannot be
    opened or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _drop_torn_line(self.path)
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def write(self, images: int, metrics: Mapping[str, Any], time: Mapping[str, Any] | None = None) -> None:
        """One line. Values are numbers, scalar tensors, text, or lists and tables of these; a number that is
        not finite becomes null. What may differ between equal runs goes into `time`. ValueError for a metric
        named "images" or "time", MetricsError where the line cannot be written."""
        for name in ("images", TIME):
            if name in metrics:
                raise ValueError(f"'{name}' is not a name for a metric")
        line = {"images": images, **metrics} | ({TIME: time} if time else {})
        data = (json.dumps(_plain(line), ensure_ascii=False, allow_nan=False) + "\n").encode()
        try:
            written = self._file.write(data)
            if written != len(data):
                raise OSError(f"{written} of {len(data)} bytes were written, the disk may be full")
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def truncate_to(self, images: int) -> int:
        """Drop the lines beyond `images`, atomically; return how many. MetricsError for a damaged line, or
        where the file cannot be written."""
        dropped = 0
        self._file.close()
        try:
            with atomic_path(self.path) as temporary, open(temporary, "wb") as kept:
                for line, document in _lines(self.path):
                    if document["images"] <= images:
                        kept.write(line)
                    else:
                        dropped += 1
        except OSError as error:
            raise _unwritable(self.path, error) from error
        finally:
            self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115
        return dropped

    def sync(self) -> None:
        """Wait until all lines are on the disk; call it before saving a checkpoint. MetricsError where the
        disk refuses."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(path: Path, *, with_time: bool = True) -> list[dict[str, Any]]:
    """The lines of a metrics file; a torn last line is left out. MetricsError for a line that is damaged,
    FileNotFoundError where there is no such file."""
    documents = [document for _, document in _lines(Path(path))]
    if not with_time:
        for document in documents:
            document.pop(TIME, None)
    return documents


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                document = json.loads(line)
                if not isinstance(document, dict) or "images" not in document:
                    raise ValueError("no 'images' in it")
            except ValueError as error:
                raise MetricsError(f"{path}: line {number} is damaged ({error}); delete that line") from None
            yield line, document


def _drop_torn_line(path: Path) -> None:
    """Cut off what follows the last newline, and whole trailing lines that are no JSON: after a power cut a
    file may end in zeros."""
    if not path.exists():
        return
    with open(path, "r+b") as file:
        data = file.read()
        end = data.rfind(b"\n") + 1
        while end and not _is_json(data[data.rfind(b"\n", 0, end - 1) + 1 : end]):
            end = data.rfind(b"\n", 0, end - 1) + 1
        if end != len(data):
            file.truncate(end)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (Tensor, numpy.ndarray)):
        value = value.tolist()
    elif isinstance(value, numpy.generic):
        value = value.item()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _unwritable(path: Path, error: OSError) -> MetricsError:
    reason = error.strerror or str(error)
    return MetricsError(f"{path} cannot be written: {reason}; make room on this disk, then resume")
