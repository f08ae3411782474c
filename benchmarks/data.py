"""How fast captioned pictures are read, on one core, from tar files: Impasto's source, plain webdataset with
Pillow doing the same decode, crop and resize, and the decode alone.

    python -m benchmarks.data [--quick] [--json FILE]

All three take turns in one process, batch by batch of the same pictures, so that what else the machine does
falls on all alike; the result is the ratio of the medians of their processor seconds. Aim: at least 0.95 of
webdataset's speed.
"""

import io
import json
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from benchmarks.common import arguments_of, take_turns, write_result
from PIL import Image

from impasto.data.opening import open_data
from impasto.data.options import DatasetOptions
from impasto.data.source import DataSource

WIDTH, HEIGHT, SIDE, BATCH, SHARD = 512, 384, 64, 8, 64


def write_shards(folder: Path, count: int) -> None:
    """Pictures with structure at every scale, as JPEG of quality 90, laid out as img2dataset does."""
    rng = np.random.default_rng(0)
    for start in range(0, count, SHARD):
        with tarfile.open(folder / f"{start // SHARD:05d}.tar", "w") as archive:
            for number in range(start, min(start + SHARD, count)):
                pixels = np.zeros((HEIGHT, WIDTH, 3))
                for cells in (3, 12, 48, 192):
                    noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
                    pixels += np.asarray(noise.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)) / 4
                file = io.BytesIO()
                Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=90)
                details = {"caption": f"picture {number}", "url": f"example/{number}", "width": WIDTH}
                for suffix, data in {
                    "jpg": file.getvalue(),
                    "txt": f"picture {number}".encode(),
                    "json": json.dumps(details).encode(),
                }.items():
                    member = tarfile.TarInfo(f"{number:09d}.{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))


def to_square(image: Image.Image) -> torch.Tensor:
    """The largest square of the middle, by Lanczos: [3, SIDE, SIDE] in [-1, 1]."""
    edge = min(image.size)
    left, top = (image.width - edge) // 2, (image.height - edge) // 2
    small = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box=(left, top, left + edge, top + edge))
    return torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1).float() / 127.5 - 1


def plain_webdataset(folder: Path) -> Iterator[tuple[torch.Tensor, list[str]]]:
    """Batches from webdataset with Pillow, in the order of the files, again and again."""

    def decode(sample: tuple[bytes, bytes]) -> tuple[torch.Tensor, str]:
        with Image.open(io.BytesIO(sample[0])) as image:
            return to_square(image.convert("RGB")), sample[1].decode()

    def collate(samples: list) -> tuple[torch.Tensor, list[str]]:
        return torch.stack([picture for picture, _ in samples]), [text for _, text in samples]

    shards = [str(path) for path in sorted(folder.glob("*.tar"))]
    dataset = webdataset.WebDataset(shards, shardshuffle=False, empty_check=False)
    dataset = dataset.to_tuple("jpg;png;webp", "txt").map(decode).batched(BATCH, collation_fn=collate)
    while True:
        yield from dataset


def impasto_source(folder: Path) -> Iterator[tuple[torch.Tensor, list[str]]]:
    """Batches in the shuffled order of training, without threads."""
    source, start = DataSource(open_data(folder), SIDE, DatasetOptions(workers=0)), 0
    while True:
        yield source.batch(range(start, start + BATCH))
        start += BATCH


def decode_alone(folder: Path) -> Iterator[list[Image.Image]]:
    """The same pictures from memory to RGB, nothing else."""
    records = open_data(folder)
    files = [records.read(index).picture for index in range(len(records))]
    while True:
        for start in range(0, len(files), BATCH):
            yield [Image.open(io.BytesIO(data)).convert("RGB") for data in files[start : start + BATCH]]


def measure(count: int, rounds: int) -> dict[str, Any]:
    """Seconds a batch and samples a second of each, and ratios of medians, over `rounds` batches each."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shards(folder, count)
        ways: dict[str, Callable[[Path], Iterator]] = {
            "impasto": impasto_source,
            "webdataset": plain_webdataset,
            "decode": decode_alone,
        }
        spent = take_turns({way: partial(next, start(folder)) for way, start in ways.items()}, rounds)
    return {
        "batches": rounds,
        "seconds_a_batch": {way: asdict(spread) for way, spread in spent.items()},
        "samples_per_core_second": {way: BATCH / spread.median for way, spread in spent.items()},
        "against_webdataset": spent["webdataset"].median / spent["impasto"].median,
        "against_decode_alone": spent["decode"].median / spent["impasto"].median,
    }


def main(argv: list[str] | None = None) -> int:
    arguments = arguments_of(__doc__, argv)
    torch.set_num_threads(1)
    result = measure(*((64, 16) if arguments.quick else (512, 128)))
    print(f"JPEG {WIDTH}x{HEIGHT} to {SIDE}x{SIDE}, samples per second of one core's time:")
    for way, speed in result["samples_per_core_second"].items():
        print(f"  {way:12s} {speed:8.1f}")
    for other in ("webdataset", "decode_alone"):
        print(f"impasto against {other.replace('_', ' ')}: {result[f'against_{other}']:.2f} times")
    write_result(arguments.json, {"picture": [WIDTH, HEIGHT], "side": SIDE, **result})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
