"""Checkpoints of a training run: whole and checked, or absent.

`RUN/checkpoints/000000012345/` (the number is the images seen) holds one safetensors file per group of
tensors, state.json, and manifest.json with the size and SHA-256 of each. It is written under a hidden name,
flushed to disk and renamed, so a process killed at any moment leaves every earlier checkpoint as it was.
"""

import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from impasto.errors import ExpectedError
from impasto.runtime.files import atomic_directory

CHECKPOINTS, STATE, MANIFEST, LOCK = "checkpoints", "state.json", "manifest.json", ".lock"
FORMAT = 1
_COMPLETE = re.compile(r"\d{12}")
_LEFTOVER = re.compile(r"\.(?P<name>\d{12})\.[0-9a-f]{8}\.(?P<kind>tmp|old|removed)")
_ENTRY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_logger = logging.getLogger(__name__)

Tensors = dict[str, dict[str, Tensor]]


class CheckpointError(ExpectedError):
    """A checkpoint that cannot be written or read; the message is one line with the way out."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint whose files are not those that were written. Not: one that may not be read just now."""


def checkpoint_path(run: Path, images: int) -> Path:
    """Where the checkpoint taken after `images` images lies."""
    return Path(run) / CHECKPOINTS / f"{images:012d}"


def images_of(path: Path) -> int:
    """The images seen when the checkpoint at `path` was taken."""
    return int(Path(path).name)


def checkpoints(run: Path) -> list[Path]:
    """Checkpoint folders of a run, oldest first; names only, nothing is verified."""
    folder = Path(run) / CHECKPOINTS
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _COMPLETE.fullmatch(path.name) and path.is_dir())


def save_checkpoint(
    run: Path, images: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> Path:
    """Write a checkpoint atomically and return its folder. `tensors` maps a file name such as "generator" to
    named tensors; `state` is JSON. Replaces a checkpoint of the same image count. Tensors of any shape.
    Errors as for `check_entries` and `new_checkpoint`."""
    check_entries(tensors)
    with new_checkpoint(run, images, state) as draft:
        for entry, group in tensors.items():
            write_entry(draft.folder / f"{entry}.safetensors", group)
    return checkpoint_path(run, images)


@dataclass(frozen=True)
class Draft:
    """A checkpoint in the making: a hidden folder, and fingerprints of files that are known already."""

    folder: Path
    known: dict[str, dict[str, Any]]


@contextmanager
def new_checkpoint(run: Path, images: int, state: Mapping[str, Any]) -> Iterator[Draft]:
    """Yield a folder to put files in; on success state.json and the manifest join them, all is flushed to
    disk and renamed to its place. Holds the lock of the run's checkpoints. CheckpointError if it fails;
    ValueError for a state that is not JSON."""
    try:
        document = json.dumps(state, indent=1) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(f"the state of a checkpoint should be JSON: {one_line(error)}") from error
    path = checkpoint_path(run, images)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path.parent), atomic_directory(path) as folder:
            draft = Draft(folder, {})
            yield draft
            (folder / STATE).write_text(document, encoding="utf-8")
            files = {file.name: draft.known.get(file.name) for file in sorted(folder.iterdir())}
            files = {name: known or fingerprint(folder / name) for name, known in files.items()}
            manifest = {"format": FORMAT, "images": images, "files": files}
            (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
            for file in folder.iterdir():
                flush(file)
            flush(folder)
        flush(path.parent)
    except ConnectionError:  # another rank is gone, which is not this disk's fault
        raise
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be written: {one_line(error)}; earlier checkpoints are intact, "
            f"make room on this disk, then resume"
        ) from error


def check_entries(entries: Iterable[str]) -> None:
    """ValueError for what cannot name a file of a checkpoint."""
    for entry in entries:
        if not _ENTRY.fullmatch(entry):
            raise ValueError(f"'{entry}' cannot name a file of a checkpoint; use letters, digits, _ and -")


def write_entry(file: Path, group: Mapping[str, Tensor]) -> None:
    """Named tensors, of any shape and on any device, as a safetensors file. OSError or SafetensorError if
    that fails."""
    save_file(_plain(group), file, metadata={"format": "pt"})


def verify_checkpoint(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint whose every file has the right size and checksum. DamagedCheckpointError
    for another, CheckpointError for one that cannot be read or is of another format."""
    path = Path(path)
    manifest = read_manifest(path)
    for name, expected in manifest["files"].items():
        try:
            found = fingerprint(path / name)
        except FileNotFoundError:
            raise damaged(path, f"{name} is missing") from None
        except OSError as error:
            raise unreadable(path / name, error) from error
        if found != expected:
            same_size = found["bytes"] == expected["bytes"]
            sizes = f"{found['bytes']} bytes instead of {expected['bytes']}"
            raise damaged(path, f"{name} has {'the wrong checksum' if same_size else sizes}")
    return manifest


def load_checkpoint(path: Path, *, verified: bool = False) -> tuple[Tensors, dict[str, Any]]:
    """(tensors, state) of a checkpoint, on the CPU. Checksums are verified unless `verified` says that
    `latest_checkpoint` just did so. Tensors have the shapes they were saved with. Errors as for
    `verify_checkpoint`, and CheckpointError where `path` is no folder."""
    path = Path(path)
    if not path.is_dir():
        raise CheckpointError(
            f"{path} is not a folder; give one of the folders under {CHECKPOINTS}/ of a run"
        )
    manifest = read_manifest(path) if verified else verify_checkpoint(path)
    tensors: Tensors = {}
    try:
        for name in manifest["files"]:
            if name.endswith(".safetensors"):
                tensors[name.removesuffix(".safetensors")] = load_file(path / name)
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
    except OSError as error:
        raise unreadable(path, error) from error
    except (SafetensorError, ValueError) as error:
        raise damaged(path, one_line(error)) from error
    return tensors, state


def latest_checkpoint(run: Path, warn: Callable[[str], None] = _logger.warning) -> Path | None:
    """The newest checkpoint of a run that is complete and has the right checksums; None if it has none yet.
    Damaged ones are reported by `warn` and passed over. CheckpointError if all are damaged, so that a run is
    never begun again by accident, and for one that cannot be read just now."""
    clean_leftovers(run)
    found = checkpoints(run)
    for path in reversed(found):
        try:
            verify_checkpoint(path)
        except DamagedCheckpointError as error:
            warn(f"{error}; trying the one before")
        else:
            return path
    if found:
        raise CheckpointError(f"{found[0].parent}: every checkpoint is damaged; move it away to begin again")
    return None


def prune(run: Path, keep_last: int = 2, keep: Iterable[Path] = ()) -> list[Path]:
    """Remove all but the newest `keep_last` whole checkpoints and those in `keep` (the best one, say); return
    what was removed. The one written last always stays, also when a damaged or abandoned one has a higher
    number. ValueError for a `keep_last` below 1, CheckpointError where one cannot be removed."""
    if keep_last < 1:
        raise ValueError(f"keep_last={keep_last} should be at least 1")
    found = checkpoints(run)
    whole = [path for path in found if _looks_whole(path)]
    if not whole:
        return []
    written_last = max(whole, key=lambda path: (path / MANIFEST).stat().st_mtime_ns)
    names = {path.name for path in (*whole[-keep_last:], written_last)} | {Path(path).name for path in keep}
    return _remove(path for path in found if path.name not in names)


def remove_after(run: Path, images: int) -> list[Path]:
    """Remove the checkpoints beyond `images`: what a run resumed from an earlier one leaves behind. Returns
    them; CheckpointError where one cannot be removed."""
    return _remove(path for path in checkpoints(run) if images_of(path) > images)


def clean_leftovers(run: Path) -> list[str]:
    """Remove what processes that died left half written or half removed; return the names. Nothing is touched
    while a living process writes here (it holds the lock, which dies with it)."""
    folder, cleaned = Path(run) / CHECKPOINTS, []
    if not folder.is_dir():
        return []
    try:
        with _lock(folder, wait=False) as locked:
            for path in sorted(folder.iterdir()) if locked else ():
                match = _LEFTOVER.fullmatch(path.name)
                if not match:
                    continue
                if match["kind"] == "old" and not (folder / match["name"]).exists():
                    os.replace(
                        path, folder / match["name"]
                    )  # killed between the two renames of a replacement
                else:
                    shutil.rmtree(path, ignore_errors=True)
                cleaned.append(path.name)
    except OSError:  # a run on a read-only disk can still be read
        pass
    return cleaned


def _remove(paths: Iterable[Path]) -> list[Path]:
    """Rename first: a checkpoint that is half removed must not look like one."""
    removed = []
    for path in paths:
        hidden = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.removed")
        try:
            os.replace(path, hidden)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be removed: {one_line(error)}; check its owner") from error
        shutil.rmtree(hidden, ignore_errors=True)
        removed.append(path)
    return removed


@contextmanager
def _lock(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a checkpoints folder; the kernel lets go of it when a process dies. Yields whether it
    is held: not if another process has it (and not `wait`), nor on a disk that knows no locks."""
    with open(folder / LOCK, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held = True
        except BlockingIOError:
            held = False
        except OSError as error:
            if error.errno not in _NO_LOCKS_HERE:
                raise
            held = False
        yield held


def _plain(group: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detached contiguous CPU tensors; those sharing memory are copied, which safetensors asks for."""
    plain, seen = {}, set()
    for name, tensor in group.items():
        tensor = tensor.detach().to("cpu").contiguous()
        memory = tensor.untyped_storage().data_ptr()
        plain[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return plain


def fingerprint(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file."""
    with open(path, "rb") as file:
        return {
            "bytes": os.fstat(file.fileno()).st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def read_manifest(path: Path) -> dict[str, Any]:
    """What a checkpoint's folder should hold. DamagedCheckpointError where it does not say, CheckpointError
    where it cannot be read or is of another format."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        version = manifest["format"]
        if version == FORMAT and not {STATE} <= manifest["files"].keys():
            raise KeyError(STATE)
    except FileNotFoundError:
        raise damaged(path, f"it has no {MANIFEST}") from None
    except OSError as error:
        raise unreadable(path / MANIFEST, error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(path, f"{MANIFEST} cannot be read: {one_line(error)}") from error
    if version != FORMAT:
        raise CheckpointError(
            f"{path} is of format {version}, this version reads {FORMAT}; use the one that wrote it"
        )
    return manifest


def _looks_whole(path: Path) -> bool:
    """All files are there with their sizes; checksums are not computed."""
    try:
        files = read_manifest(path)["files"]
        return all((path / name).stat().st_size == entry["bytes"] for name, entry in files.items())
    except (CheckpointError, OSError):
        return False


def damaged(path: Path, why: str) -> DamagedCheckpointError:
    """The error for a checkpoint that is not what was written."""
    return DamagedCheckpointError(
        f"{path} is damaged: {why}; delete it and resume from an earlier checkpoint"
    )


def unreadable(path: Path, error: OSError) -> CheckpointError:
    """The error for a file that the disk or its owner withholds."""
    return CheckpointError(f"{path} cannot be read: {one_line(error)}; check its permissions and the disk")


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def one_line(error: BaseException) -> str:
    """The message of an error without its line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
