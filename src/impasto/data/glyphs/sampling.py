"""Writes the sample that comes with Impasto, `openglyphs:sample`.

It is there for tests and a first try without a network: things that are drawn in most of the core's styles,
without skin tones. To save space its pictures are lossy WebP and it has fewer captions than the whole set.

Made by `python -m impasto.data.glyphs.sampling BUILD`, where BUILD holds the core at 64 px.
"""

import io
import json
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from impasto.data.glyphs.notice import notice
from impasto.data.glyphs.sample import sample_folder
from impasto.data.glyphs.sources import SETS
from impasto.data.glyphs.splits import TRAIN, fraction
from impasto.data.records import Record
from impasto.data.shards import ShardRecords
from impasto.runtime.files import atomic_path, atomic_write_text

PICTURES, STYLES, QUALITY = 500, 7, 90
KEPT = (
    "style",
    "concept",
    "concept_key",
    "background",
    "licence",
    "attribution",
    "package",
    "package_version",
)


def write_sample(built: Path, out: Path) -> int:
    """From a build's `train`; returns the number of pictures."""
    records = ShardRecords(built / TRAIN)
    chosen = _choose([records.read(number) for number in range(len(records))])
    with atomic_path(out / "00000.tar") as temporary, tarfile.open(temporary, "w") as archive:
        for number, record in enumerate(chosen):
            for suffix, data in (("webp", _smaller(record.picture)), ("json", _described(record))):
                header = tarfile.TarInfo(f"{number:03d}.{suffix}")  # no time, no owner
                header.size, header.mode = len(data), 0o644
                archive.addfile(header, io.BytesIO(data))
    used = [one for one in SETS if one.style in {record.details["style"] for record in chosen}]
    licences = {one.licence for one in used}
    atomic_write_text(out / "NOTICE", notice(used, "64", ["white"], licences=licences, lossy=True))
    return len(chosen)


def _choose(records: Sequence[Record]) -> list[Record]:
    """Whole concepts that have most styles, in an order that is always the same; then mixed."""
    concepts: dict[str, list[Record]] = {}
    for record in records:
        if record.details["shown"] == record.details["concept_key"] and record.details["group"] == "core":
            concepts.setdefault(record.details["concept_key"], []).append(record)
    chosen: list[Record] = []
    for key in sorted(concepts, key=lambda key: fraction("openglyphs sample", key)):
        if len(concepts[key]) >= STYLES and len(chosen) + len(concepts[key]) <= PICTURES:
            chosen += concepts[key]
    return sorted(chosen, key=lambda record: fraction("openglyphs sample", record.details["source"]))


def _smaller(picture: bytes) -> bytes:
    file = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as image:
        image.save(file, "WEBP", quality=QUALITY, method=6)
    return file.getvalue()


def _described(record: Record) -> bytes:
    captions: list[dict[str, str]] = []
    for language in ("en", "zh"):
        texts = [caption.text for caption in record.captions if caption.language == language]
        captions += [{"text": text, "language": language} for text in [*texts[:2], *texts[4:5]]]
    details = {"captions": captions, **{name: record.details[name] for name in KEPT}}
    return json.dumps(details, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


if __name__ == "__main__":
    print(write_sample(Path(sys.argv[1]), sample_folder()))
