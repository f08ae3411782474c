"""What the reports say of pictures whose order is known: real held-out ones, the same blurred, the same with
their captions exchanged, and those of an untrained model.

    python -m benchmarks.order SET --out DIR [--scorer SPEC] [--count N]

SET is any captioned set (glyphs/heldout_concepts, scenes:400:32, openglyphs:sample). Every other picture of
it is the reference. Writes a report for each of the four and DIR/compare.html, and ends with status 1 where
an order is not what it should be.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageFilter

import impasto
from impasto.cli import main as impasto_command
from impasto.metrics.picture_sets import prepare
from impasto.metrics.picture_sources import open_pictures
from impasto.pictures import save_png

RADIUS = 2  # pixels of the blur
MODEL = "aurora-scenes-32"  # whose untrained network draws
SETS = ("real", "blurred", "captions-exchanged", "untrained")
# (measure in report.json, whether more is better, the sets in order, best first)
BY_PICTURES = ("real", "blurred", "untrained")
ORDERS = (
    ("frechet", "distance", False, BY_PICTURES),
    ("kid", "mean", False, BY_PICTURES),
    ("coverage", "mean", True, BY_PICTURES),
)
BY_PROMPTS = (("real", "blurred"), ("blurred", "captions-exchanged"), ("blurred", "untrained"))


def pairs_of(source: str, side: int, count: int) -> Iterator[tuple[Image.Image, str]]:
    """Pictures [side, side] with one caption each."""
    pictures = open_pictures(source)
    for index in range(min(count, len(pictures))):
        stored = pictures.read(index)
        assert stored.prompt is not None
        yield prepare(stored.data, stored.name, side)[0], stored.prompt


def write_sets(source: str, out: Path, side: int, count: int) -> None:
    """OUT/reference and a folder for each of SETS, prompts inside the files."""
    pairs = list(pairs_of(source, side, 2 * count))
    real, captions = zip(*pairs[1::2], strict=True)
    pipe = impasto.load(MODEL)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is untrained")
        blank = type(pipe).untrained(pipe.config, name="untrained")
        drawn = blank.generate(list(captions), seed=list(range(len(captions))), batch_size=32).pictures()
    soft = [picture.filter(ImageFilter.GaussianBlur(RADIUS)) for picture in real]
    sets = {
        "reference": (tuple(picture for picture, _ in pairs[::2]), tuple(text for _, text in pairs[::2])),
        **dict(zip(SETS, ((real, captions), (soft, captions), (real, captions[1:] + captions[:1]),
                          (drawn, captions)), strict=True)),
    }  # fmt: skip
    for name, members in sets.items():
        for number, (picture, prompt) in enumerate(zip(*members, strict=True)):
            save_png(picture, out / name / f"{number:06d}.png", {"prompt": prompt})


def faults_of(reports: dict[str, dict]) -> list[str]:
    """Orders that do not hold."""
    found = []
    for measure, field, more, order in ORDERS:
        values = [reports[name]["results"][measure][field] for name in order]
        if values != sorted(values, reverse=more):
            found.append(f"{measure}: {dict(zip(order, values, strict=True))}")
    for better, worse in BY_PROMPTS if "alignment" in reports["real"] else ():
        values = [
            reports[name]["alignment"]["rows"]["pictures"]["cosine"]["mean"] for name in (better, worse)
        ]
        if values[0] <= values[1]:
            found.append(f"cosine: {better} {values[0]:.3f}, {worse} {values[1]:.3f}")
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="SET")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--scorer", metavar="SPEC", help="also judge pictures by their captions")
    parser.add_argument("--count", type=int, default=400, help="pictures of each kind (default 400)")
    parser.add_argument("--side", type=int, default=64, help="pixels (default 64)")
    arguments = parser.parse_args(argv)
    out = arguments.out
    write_sets(arguments.source, out, arguments.side, arguments.count)
    options = ["--allow-small", "--no-cache", "--resize", str(arguments.side)]
    options += ["--scorer", arguments.scorer] if arguments.scorer else []
    for name in SETS:
        line = [str(out / name), "--reference", str(out / "reference"), "--out", str(out / f"report-{name}")]
        if impasto_command(["evaluate", *line, *options]):
            return 2
    reports = [str(out / f"report-{name}") for name in SETS]
    if impasto_command(["evaluate", "--compare", *reports, "--out", str(out)]):
        return 2
    read = {
        name: json.loads(Path(file, "report.json").read_text())
        for name, file in zip(SETS, reports, strict=True)
    }
    faults = faults_of(read)
    print("\n".join(f"OUT OF ORDER: {fault}" for fault in faults) or "all in order")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
