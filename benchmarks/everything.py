"""Every script of this folder, one after another in processes of their own, and the page of their numbers.

    make bench [BENCH='--quick']
    python -m benchmarks.everything [--quick] [--only NAMES] [--again] [--page]

Each leaves NAME.json in benchmarks/results-new, where it is skipped unless `--again`, so that the same
command goes on after it was stopped. When all that were asked for are there, they take the places of those in
benchmarks/results, from which benchmarks/RESULTS.md is written; `--page` does nothing else. With one thread
(OMP_NUM_THREADS=1), because what the scripts compare is processor time.

Hours on one core; `--quick` runs each at toy size in a few minutes, into another folder, to see that it runs.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.page import RESULTS, write_page

HERE = Path(__file__).parent
UNFINISHED, QUICK = HERE / "results-new", HERE / "results-quick"
HELPERS = {"__init__", "common", "plots", "aims", "page", "everything", "transcription"}
NOT_HERE = {
    "order": "its exit status is its result (docs/evaluation.md)",
    "peers": "trains for hours and has a page of its own (docs/experiments.md)",
}


@dataclass(frozen=True)
class Job:
    """A script with options; `folder_option` is given the folder of results, for pictures."""

    script: str
    options: tuple[str, ...] = ()
    folder_option: tuple[str, str] | None = None

    def command(self, name: str, folder: Path, quick: bool) -> list[str]:
        folder = Path(os.path.relpath(folder))  # a result names its command, on any machine
        command = [sys.executable, "-m", f"benchmarks.{self.script}", *self.options]
        if self.folder_option is not None:
            option, file = self.folder_option
            command += [option, str(folder / file)]
        return [*command, *(["--quick"] if quick else []), "--json", str(folder / f"{name}.json")]


JOBS: dict[str, Job] = {
    "training": Job("training"),
    "data": Job("data"),
    "evaluation": Job("evaluation"),
    "data_select": Job("data_select"),
    "generator": Job("generator", ("--sizes", "small", "--dtypes", "float32")),
    "generator_full": Job("generator", ("--sizes", "full", "--dtypes", "float32", "--batches", "1")),
    "moe": Job("moe", ("--dtypes", "float32", "--tokens", "4096")),
    "moe_many": Job(
        "moe", ("--dtypes", "float32", "--tokens", "16384", "--experts", "16,64", "--ways", "sliced")
    ),
    "mars": Job("mars"),
    "estimate": Job("estimate"),
    "roofline": Job("roofline", ("--full",), ("--picture", "roofline.png")),
    "growth": Job("growth", (), ("--pictures", "")),
    "scaling": Job("scaling"),
    "frechet_bias": Job("frechet_bias"),
    "readme": Job("readme"),
}


def scripts() -> set[str]:
    """All in this folder that measure something."""
    names = {path.stem for path in HERE.glob("*.py")}
    return {name for name in names - HELPERS if not name.startswith("peer_")}


def run(name: str, folder: Path, quick: bool) -> int:
    """The status of one job; what it prints is seen."""
    command = JOBS[name].command(name, folder, quick)
    print(f"== {name}: {' '.join(command[1:])}", flush=True)
    started = time.monotonic()
    status = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode
    print(f"== {name}: {'failed' if status else 'done'} after {time.monotonic() - started:.0f} s", flush=True)
    return status


def take_over(names: Sequence[str], found: Path, folder: Path) -> None:
    """Results of these jobs and all pictures move from one folder into the other; what others left stays."""
    folder.mkdir(exist_ok=True)
    for file in [*(found / f"{name}.json" for name in names), *found.glob("*.png")]:
        file.replace(folder / file.name)
    if not any(found.iterdir()):
        found.rmdir()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="toy sizes, into benchmarks/results-quick")
    parser.add_argument("--only", metavar="NAMES", help=f"of {', '.join(JOBS)} (default all)")
    parser.add_argument("--again", action="store_true", help="also those that left a result")
    parser.add_argument("--page", action="store_true", help="write the page from what is there, run nothing")
    arguments = parser.parse_args(argv)
    names = arguments.only.split(",") if arguments.only else list(JOBS)
    if unknown := [name for name in names if name not in JOBS]:
        parser.error(f"no benchmark '{unknown[0]}'; there are {', '.join(JOBS)}")
    if not arguments.page and (failed := run_all(names, arguments.quick, arguments.again)):
        print(f"failed: {', '.join(failed)}; repeat the command to run these alone")
        return 1
    print(f"{write_page(QUICK if arguments.quick else RESULTS)} is written")
    return 0


def run_all(names: Sequence[str], quick: bool, again: bool) -> list[str]:
    """Every job that has no result yet; the names of those that failed."""
    folder, failed = QUICK if quick else UNFINISHED, []
    folder.mkdir(exist_ok=True)
    for name in names:
        if (folder / f"{name}.json").is_file() and not again:
            print(f"== {name}: there already")
        elif run(name, folder, quick):
            failed.append(name)
    if not failed and not quick:
        take_over(names, folder, RESULTS)
    return failed


if __name__ == "__main__":
    sys.exit(main())
