"""How long `impasto data select` takes for rows of web metadata, and how much memory.

    python -m benchmarks.data_select [--quick] [--rows N] [--workers N] [--json FILE]

Synthetic rows with LAION's columns: addresses of some 80 characters of which an eighth stood before, captions
of some 50 characters of which a tenth begin in Chinese. Every kind of rule is on. The selection runs in a
process of its own; its peak memory is what the system says of that process (ru_maxrss). Aim: 5 million rows
in under a minute and 2 GB, on two cores.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow
from benchmarks.common import arguments_of, write_result
from pyarrow import parquet

FILES = 8
RULES = (
    "minimum_side=200",
    "minimum_similarity=0.28",
    "minimum_aesthetic=4.25",
    "maximum_watermark=0.8",
    "maximum_unsafe=0.5",
    "languages=latin,zh",
    "duplicates=pair,url",
    "share=0.9",
)
WORDS = "red apple on a table old house by the sea portrait of woman vintage poster free shipping".split()  # noqa: SIM905
HAN = "一只红色的苹果在桌子上老房子海边女人肖像复古海报"


def write_rows(folder: Path, count: int) -> None:
    """Parquet files of random rows, a million at a time at most."""
    rng = np.random.default_rng(0)
    size = -(-count // FILES)
    for number in range(FILES):
        rows = min(size, count - number * size)
        schema = _chunk(rng, 1, count).schema
        with parquet.ParquetWriter(folder / f"{number:05d}.parquet", schema) as file:
            for start in range(0, rows, 250_000):
                file.write_table(_chunk(rng, min(250_000, rows - start), count))


def _chunk(rng: np.random.Generator, rows: int, count: int) -> pyarrow.Table:
    pages = rng.integers(0, 4 * count, rows)  # of n draws of 4n about n/8 were drawn before
    path = "wp-content/uploads/2020/05/picture"
    urls = [f"https://images{page % 49_999}.example.com/{path}-{page:012d}.jpg" for page in pages]
    words = np.array(WORDS)[rng.integers(0, len(WORDS), (rows, 11))]
    captions = [" ".join(row) for row in words]
    for place in np.flatnonzero(rng.random(rows) < 0.1):
        captions[place] = HAN[: 8 + place % 16] + captions[place][:6]
    return pyarrow.table(
        {
            "URL": urls,
            "TEXT": captions,
            "WIDTH": rng.integers(150, 1500, rows).astype(np.float64),
            "HEIGHT": rng.integers(150, 1500, rows).astype(np.float64),
            "similarity": rng.normal(0.32, 0.03, rows),
            "hash": rng.integers(0, 1 << 62, rows),
            "punsafe": (rng.random(rows) ** 4).astype(np.float32),
            "pwatermark": (rng.random(rows) ** 2).astype(np.float32),
            "AESTHETIC_SCORE": rng.normal(5, 0.7, rows).astype(np.float32),
        }
    )


def measure(count: int, workers: int, folder: Path) -> dict[str, float]:
    """Seconds and peak memory of the selection, its start included, and what it says of itself."""
    write_rows(folder, count)
    command = [sys.executable, "-m", "impasto.cli", "data", "select", str(folder), "--json"]
    command += ["--out", str(folder / "selection"), "--workers", str(workers)]
    command += [part for rule in RULES for part in ("--set", rule)]
    started = time.perf_counter()
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert told["rows"] == count == told["kept"] + sum(told["dropped"].values())
    for name, dropped in told["dropped"].items():
        print(f"  dropped: {name:20s} {dropped:12,}")
    return {
        "rows": count,
        "kept": told["kept"],
        "seconds": seconds,
        "processor_seconds": used.ru_utime + used.ru_stime,
        "rows_per_second": count / seconds,
        "peak_gigabytes": used.ru_maxrss * 1024 / 1e9,
    }


def main(argv: list[str] | None = None) -> int:
    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--rows", type=int, metavar="N", help="default: 5,000,000; 100,000 with --quick")
        parser.add_argument("--workers", type=int, default=2, metavar="N")

    arguments = arguments_of(__doc__, argv, more)
    rows = arguments.rows or (100_000 if arguments.quick else 5_000_000)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(rows, arguments.workers, Path(folder))
    for name, value in result.items():
        print(f"  {name:20s} {value:15,.2f}")
    write_result(arguments.json, result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
