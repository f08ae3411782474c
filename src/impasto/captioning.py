"""Captions of many pictures into one file, a line each, that is gone on with after a kill.

Lines stand in the order of the pictures and are written batch by batch; what was cut short in the middle of a
line goes when the work goes on. A picture that cannot be read is counted and has no line.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from impasto.config import ConfigError
from impasto.data.records import PICTURE_SUFFIXES, Faults
from impasto.pictures import PictureError, decode_picture, why_unreadable
from impasto.runtime.files import atomic_write_text

FIELDS = ("picture", "language", "caption")
Describer = Callable[[Sequence[Image.Image], str | None], list[str]]  # pictures and a language -> sentences
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Captioned:
    """How many pictures there are, how many lines were written now and before, what could not be read."""

    pictures: int
    written: int
    before: int
    faults: Faults


def find_pictures(places: Sequence[str], listed: str | None = None) -> list[Path]:
    """Files as they are named, the pictures of folders and of the folders within, by name, and those of a
    list: a path a line, from the list's folder on. Each once. ConfigError where there are none."""
    found: dict[Path, None] = {}
    for place in map(Path, places):
        if place.is_dir():
            inside = (path for path in place.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES)
            found.update(dict.fromkeys(sorted(inside)))
        else:
            found[place] = None
    if listed is not None:
        lines = _lines(Path(listed))
        found.update(dict.fromkeys(Path(listed).parent / line for line in lines))
    if not found:
        raise ConfigError(
            f"no pictures ({', '.join(PICTURE_SUFFIXES)}) in {', '.join([*places, listed or ''])}"
        )
    return list(found)


def caption_file(
    pictures: Sequence[Path],
    out: Path,
    describe: Callable[[], Describer],
    made: Mapping[str, Any],
    *,
    languages: Sequence[str | None] = (None,),
    batch: int = 32,
    max_bad: float = 0.05,
    progress: Progress = lambda name, done, total: None,
) -> Captioned:
    """Describe pictures in every language into OUT, .jsonl or .csv with the columns FIELDS; OUT.json says
    what made them, and at the end how many there are and which could not be read.

    `describe` gives the describer and is not called where nothing is missing; `made`: what decides the
    captions, ready for JSON. Raises ConfigError where OUT is of something else, and for more than `max_bad`
    of the pictures that cannot be read, with what was written kept.
    """
    if out.suffix not in (".jsonl", ".csv"):
        raise ConfigError(f"--out {out} should end in .jsonl or .csv")
    record = out.with_name(out.name + ".json")
    made = {**made, "languages": list(languages)}
    _claim(out, record, made)
    done = _told(out)
    missing = [path for path in pictures if any((str(path), name or "") not in done for name in languages)]
    faults, written, tell = Faults(), 0, describe() if missing else None
    for start in range(0, len(missing), batch):
        progress("describing", start, len(missing))
        readable = list(_readable(missing[start : start + batch], faults))
        if len(faults) > max_bad * len(pictures):
            raise ConfigError(
                f"{len(faults):,} of {len(pictures):,} pictures cannot be read, more than {max_bad:.0%}: "
                f"{faults.summary()}; mend or remove them, or raise --max-bad"
            )
        if not readable or tell is None:
            continue
        paths, images = zip(*readable, strict=True)
        told = {language: tell(images, language) for language in languages}
        rows = [
            (str(p), name or "", " ".join(told[name][n].split()))
            for n, p in enumerate(paths)
            for name in languages
        ]
        written += _append(out, [row for row in rows if row[:2] not in done])
    document = {**made, "pictures": len(pictures), "captions": len(done) + written, "bad": faults.files()}
    atomic_write_text(record, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return Captioned(len(pictures), written, len(done), faults)


def _readable(paths: Sequence[Path], faults: Faults) -> Iterator[tuple[Path, Image.Image]]:
    for path in paths:
        try:
            yield path, decode_picture(path)
        except (OSError, PictureError) as error:
            faults.add(why_unreadable(error), str(path))


def _claim(out: Path, record: Path, made: Mapping[str, Any]) -> None:
    """The file, for what `made` describes and for nothing else."""
    if out.is_file():
        known = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
        changed = next((name for name, value in made.items() if known.get(name) != value), None)
        if changed is not None:
            raise ConfigError(f"{out} holds captions with another {changed}; choose another --out")
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(record, json.dumps(dict(made), indent=2, ensure_ascii=False) + "\n")
    atomic_write_text(out, ",".join(FIELDS) + "\r\n" if out.suffix == ".csv" else "")


def _told(out: Path) -> set[tuple[str, str]]:
    """(picture, language) of the whole lines; what stands behind the last of them is cut off."""
    data = out.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with open(out, "r+b") as file:
            file.truncate(len(whole))
    text = whole.decode("utf-8")
    if out.suffix == ".csv":
        rows: Iterator[Mapping[str, str]] = csv.DictReader(io.StringIO(text, newline=""))
    else:
        rows = (json.loads(line) for line in text.split("\n") if line)
    return {(row["picture"], row["language"]) for row in rows}


def _append(out: Path, rows: Sequence[tuple[str, str, str]]) -> int:
    """Lines at the end of the file, all in one write."""
    text = io.StringIO(newline="")
    for row in rows:
        if out.suffix == ".csv":
            csv.writer(text).writerow(row)
        else:
            line = json.dumps(dict(zip(FIELDS, row, strict=True)), ensure_ascii=False)
            text.write(line + "\n")
    with open(out, "ab") as file:
        file.write(text.getvalue().encode("utf-8"))
    return len(rows)


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"--list {path}: no such file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"--list {path} is not a text in UTF-8") from None
    return [line.strip("\r") for line in text.split("\n") if line.strip()]
