"""How fast captioned pictures are read, on one core, from tar files: Impasto's source, plain webdataset with
Pillow doing the same decode, crop and resize, and the decode alone.

    python benchmarks/data.py [--quick] [--json FILE]

All three take turns in one process, batch by batch of the same pictures, so that what else the machine does
falls on all alike; the result is the ratio of their total times. Aim: at least 0.95 of webdataset's speed.
"""

import argparse
import io
import json
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import webdataset
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


def measure(count: int, rounds: int) -> dict[str, float]:
    """Samples a second of each, and ratios of total times, over `rounds` batches each."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shards(folder, count)
        ways: dict[str, Callable[[Path], Iterator]] = {
            "impasto": impasto_source,
            "webdataset": plain_webdataset,
            "decode": decode_alone,
        }
        running = {way: start(folder) for way, start in ways.items()}
        for batches in running.values():  # indexes, first reads
            next(batches)
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(rounds):
            order = list(ways) if turn % 2 else list(ways)[::-1]
            for way in order:
                started = time.process_time()
                next(running[way])
                seconds[way].append(time.process_time() - started)
    totals = {way: sum(values) for way, values in seconds.items()}
    result = {f"{way}_samples_per_core_second": rounds * BATCH / total for way, total in totals.items()}
    result["against_webdataset"] = totals["webdataset"] / totals["impasto"]
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    result["against_webdataset_by_medians"] = medians["webdataset"] / medians["impasto"]
    result["against_decode_alone"] = totals["decode"] / totals["impasto"]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer pictures and batches")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = measure(*((64, 16) if arguments.quick else (512, 128)))
    print(f"JPEG {WIDTH}x{HEIGHT} to {SIDE}x{SIDE}, samples per second of one core's time:")
    for name, value in result.items():
        print(f"  {name:36s} {value:8.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
