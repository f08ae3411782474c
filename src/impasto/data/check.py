"""What a set holds: counts, sizes, captions, languages, duplicates, bad files by reason, licence, a contact
sheet."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from impasto.data.opening import open_data
from impasto.data.options import DatasetOptions
from impasto.data.order import Order
from impasto.data.records import BadSampleError, Caption, Faults, Records
from impasto.data.transforms import decode, fit
from impasto.pictures import contact_sheet, save_png
from impasto.runtime.files import atomic_write_text

SHEET_ROWS, SHEET_COLUMNS, CELL = 6, 4, 128
LICENCE_FIELDS = ("licence", "license")
CHUNK = 256
SHOWN = 3


class Seen(NamedTuple):
    """What is kept of a good sample."""

    name: str
    digest: bytes
    size: tuple[int, int]
    captions: tuple[Caption, ...]
    licence: str | None


def check(
    source: str,
    options: DatasetOptions | None = None,
    *,
    workers: int = 2,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Read and decode every sample; returns the findings, ready for JSON. progress(samples done, in all).
    Raises ConfigError or DataError if `source` is no set."""
    options = options or DatasetOptions()
    records = open_data(source, options)
    faults, samples = Faults(), []
    for reason, name in records.faults:
        faults.add(reason, name)
    for number, found in enumerate(_look(records, options, workers), 1):
        if isinstance(found, BadSampleError):
            faults.add(found.reason, found.name)
        else:
            samples.append(found)
        progress(number, len(records))
    total = len(records) + len(records.faults)
    return {
        "source": source,
        "format": records.format,
        "fingerprint": records.fingerprint,
        "samples": total,
        "good": len(samples),
        "bad": faults.files(),
        "within_ceiling": len(faults) <= options.max_bad * total,
        "sizes": _sizes(samples),
        "captions": _captions(samples),
        "duplicates": _duplicates(samples),
        "licences": _licences(source, samples),
    }


def report(findings: Mapping[str, Any]) -> str:
    """The findings for a person to read."""
    sizes, captions, duplicates = findings["sizes"], findings["captions"], findings["duplicates"]
    lines = [f"{findings['source']}: {findings['format']}, {findings['good']:,} good samples"]
    for reason, names in findings["bad"].items():
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        lines.append(f"  bad: {len(names)} {reason}: {', '.join(names[:SHOWN])}{more}")
    if not findings["bad"]:
        lines.append("  bad: none")
    if findings["good"]:
        lines += [
            f"  shorter side       {_spread(sizes['shorter_side'])} px",
            f"  width over height  {_spread(sizes['aspect'])}",
            f"  captions           {captions['count']:,}, {_spread(captions['per_sample'])} a sample",
            f"  caption length     {_spread(captions['characters'])} characters",
            "  languages          " + ", ".join(f"{k} {v:,}" for k, v in captions["languages"].items()),
            f"  duplicates         {duplicates['extra']:,} copies of {duplicates['groups']:,} pictures, "
            f"{captions['repeated']:,} captions that stand more than once",
        ]
        stated = ", ".join(f"{name} ({count:,})" for name, count in findings["licences"].items())
        lines.append(f"  licence            {stated or 'not stated'}")
    if not findings["within_ceiling"]:
        lines.append("  more bad samples than dataset.max_bad allows: training on this set would stop")
    return "\n".join(lines)


def write_report(findings: Mapping[str, Any], out: Path, options: DatasetOptions | None = None) -> None:
    """report.json and sheet.png, of samples drawn from the whole set, into a folder."""
    text = json.dumps(findings, indent=2, ensure_ascii=False)
    atomic_write_text(out / "report.json", text + "\n")
    options = options or DatasetOptions()
    records, pictures, captions = open_data(findings["source"], options), [], []
    for index in Order(len(records), 0).following(0):
        try:
            record = records.read(index)
            pixels = fit(decode(record.picture, record.name, options), CELL, DatasetOptions())
        except BadSampleError:
            continue
        pictures.append(Image.fromarray(pixels))
        captions.append(record.captions[0].text)
        if len(pictures) == SHEET_ROWS * SHEET_COLUMNS:
            break
    if pictures:
        starts = range(0, len(pictures), SHEET_COLUMNS)
        rows = [pictures[start : start + SHEET_COLUMNS] for start in starts]
        labels = [" | ".join(_short(c) for c in captions[start : start + SHEET_COLUMNS]) for start in starts]
        save_png(contact_sheet(rows, labels, cell=CELL), out / "sheet.png")


def _look(records: Records, options: DatasetOptions, workers: int) -> Iterator[Seen | BadSampleError]:
    """Every sample in its order, by threads, a chunk at a time."""

    def look(index: int) -> Seen | BadSampleError:
        try:
            record = records.read(index)
            size = decode(record.picture, record.name, options).size
        except BadSampleError as bad:
            return bad
        licence = next((record.details[f] for f in LICENCE_FIELDS if f in record.details), None)
        digest = hashlib.sha256(record.picture).digest()
        return Seen(record.name, digest, size, record.captions, None if licence is None else str(licence))

    with ThreadPoolExecutor(max(1, workers), "check") as pool:
        for start in range(0, len(records), CHUNK):
            yield from pool.map(look, range(start, min(start + CHUNK, len(records))))


def _sizes(samples: Sequence[Seen]) -> dict[str, Any]:
    return {
        "shorter_side": _quantiles([min(sample.size) for sample in samples]),
        "longer_side": _quantiles([max(sample.size) for sample in samples]),
        "aspect": _quantiles([sample.size[0] / sample.size[1] for sample in samples]),
    }


def _captions(samples: Sequence[Seen]) -> dict[str, Any]:
    captions = [caption for sample in samples for caption in sample.captions]
    return {
        "count": len(captions),
        "per_sample": _quantiles([len(sample.captions) for sample in samples]),
        "characters": _quantiles([len(caption.text) for caption in captions]),
        "words": _quantiles([len(caption.text.split()) for caption in captions]),
        "languages": dict(Counter(caption.language for caption in captions).most_common()),
        "repeated": sum(n - 1 for n in Counter(caption.text for caption in captions).values()),
    }


def _duplicates(samples: Sequence[Seen]) -> dict[str, Any]:
    """Pictures that are the same bytes."""
    groups: dict[bytes, list[str]] = {}
    for sample in samples:
        groups.setdefault(sample.digest, []).append(sample.name)
    several = [names for names in groups.values() if len(names) > 1]
    return {"groups": len(several), "extra": sum(len(names) - 1 for names in several), "files": several}


def _licences(source: str, samples: Sequence[Seen]) -> dict[str, int]:
    """{licence: samples} as the samples state it, else the file that the folder has for it."""
    stated = Counter(sample.licence for sample in samples if sample.licence)
    folder = Path(source)
    if not stated and folder.is_dir():
        files = [p.name for p in sorted(folder.iterdir()) if p.stem.lower() in ("licence", "license")]
        return {f"see {name}": len(samples) for name in files[:1]}
    return dict(stated.most_common())


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    array = np.asarray(values, dtype=np.float64)
    marks = {"least": 0, "median": 50, "percentile_95": 95, "most": 100}
    return {name: round(float(np.percentile(array, q)), 3) for name, q in marks.items()}


def _spread(quantiles: Mapping[str, float]) -> str:
    low, middle, high = (f"{quantiles[name]:g}" for name in ("least", "median", "most"))
    return f"{low} to {high}, median {middle}"


def _short(text: str, length: int = 24) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."
