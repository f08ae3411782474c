"""Checkpoints of a run whose tensors are shared out among ranks, and reading them on any number of ranks.

A folder as in `checkpoint`, but `visual.safetensors` is `visual-00000-of-00002.safetensors` and so on, each
written by the rank that holds those rows, and index.json says which rows of which tensor lie where:

    {"format": 1, "ranks": 2, "groups": {"visual": {NAME: {"shape": [6, 4], "parts": [[FILE, 0, 3], ...]}}}}

What is not sharded (the optimiser's counters) is in the first rank's file. The run's folder must be on a disk
that all ranks share.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from impasto.runtime.checkpoint import (
    STATE,
    CheckpointError,
    Draft,
    Tensors,
    check_entries,
    checkpoint_path,
    damaged,
    fingerprint,
    flush,
    new_checkpoint,
    one_line,
    read_manifest,
    unreadable,
    verify_checkpoint,
    write_entry,
)
from impasto.runtime.dist import Ranks
from impasto.runtime.sharding import is_sharded, own_rows, row_range, sharded_like

INDEX, FORMAT, SUFFIX = "index.json", 1, ".safetensors"
T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """Rows start to stop of a tensor, in a file of the checkpoint."""

    file: str
    start: int
    stop: int


@dataclass(frozen=True)
class Saved:
    """A tensor's shape and where its rows are. A number has no rows and one part."""

    shape: tuple[int, ...]
    parts: tuple[Part, ...]


Index = dict[str, dict[str, Saved]]  # of groups of named tensors
Target = Callable[[str, str], Tensor | None]  # (group, name) -> the tensor that is to receive it


def save_sharded_checkpoint(
    run: Path,
    images: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    ranks: Ranks,
) -> Path:
    """As `save_checkpoint`, called by every rank: each writes its rows, the main one the index, and the whole
    takes its place at once. If one rank fails, all raise CheckpointError and nothing has changed. ValueError
    as for `check_entries`."""
    check_entries(tensors)
    with ExitStack() as stack:
        drafts: list[Draft] = []

        def begin() -> str:
            if ranks.is_main:
                drafts.append(stack.enter_context(new_checkpoint(run, images, state)))
            return str(drafts[0].folder) if drafts else ""

        def finish() -> None:
            for draft in drafts:
                _write_index(draft, written)
                stack.close()  # renames it to its place

        folder = Path(_together(ranks, begin)[0])
        written = _together(ranks, lambda: _write_parts(folder, tensors, ranks))
        _together(ranks, finish)
    return checkpoint_path(run, images)


def load_sharded_checkpoint(
    path: Path, target: Target, *, verified: bool = False
) -> tuple[Tensors, dict[str, Any]]:
    """As `load_checkpoint`, of a checkpoint of either kind. Where `target(group, name)` is a sharded tensor
    of the saved shape [R, ...], this rank's rows [r, ...] alone are read, and come sharded in the same way;
    any other tensor comes whole. DamagedCheckpointError and CheckpointError as for `verify_checkpoint`."""
    path = Path(path)
    manifest = read_manifest(path) if verified else verify_checkpoint(path)
    names = [name for name in manifest["files"] if name.endswith(SUFFIX)]
    try:
        with ExitStack() as stack:
            files = {
                name: stack.enter_context(safe_open(path / name, framework="pt", device="cpu"))
                for name in names
            }
            index = _read_index(path) if INDEX in manifest["files"] else _index_of(files)
            tensors = {
                entry: {name: _read(files, name, saved, target(entry, name)) for name, saved in group.items()}
                for entry, group in index.items()
            }
        return tensors, json.loads((path / STATE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise damaged(path, one_line(error)) from error
    except OSError as error:
        raise unreadable(path, error) from error
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise damaged(path, one_line(error)) from error


def _together(ranks: Ranks, work: Callable[[], T]) -> list[T]:
    """The results of all ranks; CheckpointError on all of them if one could not do its work."""
    result, failure = None, None
    try:
        result = work()
    except (CheckpointError, OSError, SafetensorError) as error:
        failure = one_line(error)
    answers = ranks.gather_objects((result, failure))
    for rank, (_, found) in enumerate(answers):
        if found is not None:
            raise CheckpointError(
                f"rank {rank} could not save: {found}; the run's folder should be on a disk of all ranks"
            )
    return [answer for answer, _ in answers]  # type: ignore[misc]


def _write_parts(
    folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], ranks: Ranks
) -> dict[str, dict[str, Any]]:
    """Write this rank's rows: {"files": {NAME: size and checksum}, "groups": as in the index}."""
    files, groups = {}, {}
    for entry, group in tensors.items():
        name = f"{entry}-{ranks.rank:05d}-of-{ranks.world_size:05d}{SUFFIX}"
        held = {key: tensor for key, tensor in group.items() if _holds(tensor, ranks)}
        if held:
            write_entry(folder / name, {key: own_rows(tensor) for key, tensor in held.items()})
            flush(folder / name)
            files[name] = fingerprint(folder / name)
        groups[entry] = {
            key: {"shape": list(tensor.shape), "parts": [[name, *_range(tensor)]]}
            for key, tensor in held.items()
        }
    return {"files": files, "groups": groups}


def _holds(tensor: Tensor, ranks: Ranks) -> bool:
    return own_rows(tensor).numel() > 0 if is_sharded(tensor) else ranks.is_main


def _range(tensor: Tensor) -> tuple[int, int]:
    if is_sharded(tensor):
        return row_range(tensor)
    return 0, tensor.shape[0] if tensor.dim() else 0


def _write_index(draft: Draft, written: Sequence[Mapping[str, Any]]) -> None:
    """Put what the ranks wrote together."""
    groups: dict[str, dict[str, Any]] = {}
    for one in written:
        draft.known.update(one["files"])
        for entry, group in one["groups"].items():
            merged = groups.setdefault(entry, {})
            for name, saved in group.items():
                known = merged.setdefault(name, {**saved, "parts": []})
                known["parts"] += saved["parts"]
    index = {"format": FORMAT, "ranks": len(written), "groups": groups}
    (draft.folder / INDEX).write_text(json.dumps(index) + "\n", encoding="utf-8")


def _read_index(path: Path) -> Index:
    document = json.loads((path / INDEX).read_text(encoding="utf-8"))
    if document["format"] != FORMAT:
        raise CheckpointError(
            f"{path / INDEX} is of format {document['format']}, this version reads {FORMAT}; "
            f"use the one that wrote it"
        )
    return {
        entry: {
            name: Saved(tuple(saved["shape"]), tuple(Part(*part) for part in saved["parts"]))
            for name, saved in group.items()
        }
        for entry, group in document["groups"].items()
    }


def _index_of(files: Mapping[str, Any]) -> Index:
    """The index of a checkpoint that was not sharded: every tensor is one part."""
    index: Index = {}
    for file, opened in files.items():
        group = index.setdefault(file.removesuffix(SUFFIX), {})
        for name in opened.keys():  # noqa: SIM118  (not a dictionary)
            shape = tuple(opened.get_slice(name).get_shape())
            group[name] = Saved(shape, (Part(file, 0, shape[0] if shape else 0),))
    return index


def _read(files: Mapping[str, Any], name: str, saved: Saved, target: Tensor | None) -> Tensor:
    if target is None or not is_sharded(target) or tuple(target.shape) != saved.shape:
        return _read_rows(files, name, saved, 0, saved.shape[0] if saved.shape else 0)
    start, stop = row_range(target)
    if start == stop:
        return sharded_like(torch.empty(0, *saved.shape[1:], dtype=target.dtype), target)
    return sharded_like(_read_rows(files, name, saved, start, stop), target)


def _read_rows(files: Mapping[str, Any], name: str, saved: Saved, start: int, stop: int) -> Tensor:
    """Rows start to stop, from as many files as hold some of them."""
    if not saved.shape:
        return files[saved.parts[0].file].get_tensor(name)
    pieces, at = [], start
    for part in sorted(saved.parts, key=lambda part: part.start):
        end = min(stop, part.stop)
        if part.start <= at < end:
            pieces.append(files[part.file].get_slice(name)[at - part.start : end - part.start])
            at = end
    if at != stop:
        raise ValueError(f"{INDEX} names no file with row {at} of '{name}'")
    return torch.cat(pieces) if len(pieces) != 1 else pieces[0]
