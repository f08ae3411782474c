"""Drawings that are painted, a style at a time, kept on disk until the whole set is known.

A style is two files: the pictures one after the other, and a table of what is where. The table is written
last, so that a build that was killed paints only the styles without one.
"""

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, NamedTuple

from impasto.data.glyphs.dedupe import Look
from impasto.data.glyphs.glyph import Glyph
from impasto.data.glyphs.packages import GlyphSet
from impasto.data.glyphs.render import BACKGROUNDS, Painted, Task, paint
from impasto.data.glyphs.splits import fraction
from impasto.data.records import DataError, Faults
from impasto.runtime.files import atomic_path, atomic_write_text

CHUNK = 16  # drawings handed to a process at once


class Kept(NamedTuple):
    """A painted drawing: its icon's name, the key of its concept, its background, where its picture lies."""

    name: str
    concept: str
    background: str
    offset: int
    size: int
    look: Look


class Spool(NamedTuple):
    """What one style gave. `pictures`: the file; `faults`: (reason, name) of what was left out."""

    pictures: Path
    kept: list[Kept]
    faults: list[tuple[str, str]]

    def read(self, kept: Kept) -> bytes:
        with open(self.pictures, "rb") as file:
            file.seek(kept.offset)
            return file.read(kept.size)


def background_of(concept: str, style: str, backgrounds: Sequence[str]) -> str:
    """One of several by a hash of the picture."""
    return backgrounds[int(fraction("openglyphs background", concept, style) * len(backgrounds))]


def find_spool(folder: Path, style: str) -> Spool | None:
    """A style that was painted before."""
    table, pictures = folder / f"{style}.json", folder / f"{style}.pictures"
    if not (table.is_file() and pictures.is_file()):
        return None
    told = json.loads(table.read_text("utf-8"))
    if told["bytes"] != pictures.stat().st_size:
        return None
    kept = [
        Kept(name, concept, background, offset, size, Look(digest, bytes.fromhex(thumbnail)))
        for name, concept, background, offset, size, digest, thumbnail in told["kept"]
    ]
    return Spool(pictures, kept, [(reason, name) for reason, name in told["faults"]])


def paint_style(
    glyph_set: GlyphSet,
    glyphs: Sequence[Glyph],
    faults: Faults,
    folder: Path,
    *,
    size: int,
    backgrounds: Sequence[str],
    workers: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Spool:
    """Paint a style into `folder`. The files are the same with any number of workers. progress(drawings
    done)."""
    table, pictures = folder / f"{glyph_set.style}.json", folder / f"{glyph_set.style}.pictures"
    chosen = [background_of(glyph.concept.key, glyph_set.style, backgrounds) for glyph in glyphs]
    tasks = [Task(g.drawing, size, BACKGROUNDS[b][0]) for g, b in zip(glyphs, chosen, strict=True)]
    kept: list[Kept] = []
    offset = 0
    with atomic_path(pictures) as temporary, open(temporary, "wb") as file:
        painted = _paint_all(tasks, workers)
        for number, (glyph, background, one) in enumerate(zip(glyphs, chosen, painted, strict=True), 1):
            progress(number)
            if one.fault:
                faults.add(one.fault, f"{glyph_set.style}:{glyph.name}")
                continue
            kept.append(Kept(glyph.name, glyph.concept.key, background, offset, len(one.png), one.look))
            file.write(one.png)
            offset += len(one.png)
    rows = [[*one[:5], one.look.digest, one.look.thumbnail.hex()] for one in kept]
    document: dict[str, Any] = {"bytes": offset, "kept": rows, "faults": list(faults)}
    atomic_write_text(table, json.dumps(document, ensure_ascii=False))
    return Spool(pictures, kept, list(faults))


def _paint_all(tasks: Sequence[Task], workers: int) -> Iterator[Painted]:
    """In order. Processes are started anew: a fork would copy threads that draw the progress bar."""
    if workers == 1 or len(tasks) < 2 * CHUNK:
        yield from map(paint, tasks)
        return
    with ExitStack() as stack:
        pool = stack.enter_context(
            ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_the_build)
        )
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        try:
            yield from pool.map(paint, tasks, chunksize=CHUNK)
        except BrokenProcessPool:
            raise DataError("a process that draws was ended; build again, with fewer --workers") from None


def _end_with_the_build() -> None:
    """A process that draws ends when the build is killed; by itself it would wait for work for ever."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
