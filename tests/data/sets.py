"""Small sets of captioned pictures, the same pairs in every format; for tests."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def picture(number: int, side: int = 24, kind: str = "JPEG") -> bytes:
    """A picture that no other number gives, wider than high."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((side + 8, side), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, kind, quality=90)
    return file.getvalue()


def pairs(count: int) -> list[tuple[str, bytes, str]]:
    """(name without suffix, picture, caption); some captions are not ASCII."""
    words = ("red apple", "two blue mugs", "一只猫", "déjà vu")
    return [(f"{n:05d}", picture(n), f"{words[n % 4]} number {n}") for n in range(count)]


def write_folder(folder: Path, samples) -> Path:
    folder.mkdir(parents=True)
    for name, data, text in samples:
        (folder / f"{name}.jpg").write_bytes(data)
        (folder / f"{name}.txt").write_text(text + "\n", encoding="utf-8")
    return folder


def write_metadata(folder: Path, samples, kind: str = "jsonl") -> Path:
    (folder / "pictures").mkdir(parents=True)
    for name, data, _ in samples:
        (folder / "pictures" / f"{name}.jpg").write_bytes(data)
    rows = [{"file_name": f"pictures/{name}.jpg", "text": text} for name, _, text in samples]
    table = folder / f"metadata.{kind}"
    if kind == "jsonl":
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    elif kind == "csv":
        lines = ["file_name,text", *(f'{row["file_name"]},"{row["text"]}"' for row in rows)]
        table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), table)
    return folder


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def write_shards(folder: Path, samples, size: int = 40) -> Path:
    """As img2dataset: NAME.jpg, NAME.txt and NAME.json of a sample one after the other."""
    folder.mkdir(parents=True)
    for start in range(0, len(samples), size):
        with tarfile.open(folder / f"{start // size:05d}.tar", "w") as archive:
            for name, data, text in samples[start : start + size]:
                add(archive, f"{name}.jpg", data)
                add(archive, f"{name}.txt", text.encode())
                details = {"caption": text, "url": f"example/{name}", "key": name}
                add(archive, f"{name}.json", json.dumps(details).encode())
    return folder


def write_datasets(folder: Path, samples) -> Path:
    import datasets

    columns = {"image": [{"bytes": data, "path": None} for _, data, _ in samples]}
    columns["text"] = [text for _, _, text in samples]
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(folder))
    return folder
