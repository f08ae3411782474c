"""How the Frechet distance falls with the number of pictures when both sets are of one distribution, so that
the true distance is zero: EfficientNet-Lite0 features of scenes. Medians and spreads of up to five pairs of
sets that share no picture. Writes a picture of it.

    python -m benchmarks.frechet_bias [--quick] [--json FILE] [--picture FILE]
"""

import argparse
import math
import sys
from pathlib import Path

import torch
from benchmarks.common import Spread, arguments_of, write_result
from PIL import Image, ImageDraw, ImageFont

from impasto.data.scene_source import SceneOptions, SceneSource
from impasto.metrics.extractors import load_extractor
from impasto.metrics.frechet import FrechetStats, frechet
from impasto.metrics.kernel import kernel_distance

COUNTS = (64, 128, 256, 512, 1024, 2048, 4096)
SIDE, BATCH, PAIRS = 32, 64, 5
WIDTH, HEIGHT, LEFT, BOTTOM, PAD = 640, 400, 70, 50, 24
PAPER, INK, GRID, BLUE, ORANGE = (250, 249, 246), (40, 40, 40), (225, 224, 220), (0, 114, 178), (213, 94, 0)


def scene_features(count: int) -> torch.Tensor:
    """[count, 1280] of scenes, all different."""
    extractor, source = load_extractor(), SceneSource(SIDE, SceneOptions(), seed=77)
    parts = [
        extractor.features(source.batch(range(n, min(n + BATCH, count)))[0]) for n in range(0, count, BATCH)
    ]
    return torch.cat(parts)


def measure(counts: tuple[int, ...]) -> list[dict[str, float]]:
    """For each number of pictures: the distance of two sets of so many, and KID of the first two."""
    features = scene_features(2 * max(counts))
    rows = []
    for count in counts:
        sets = features[: 2 * count * PAIRS].split(count)
        pairs = list(zip(sets[::2], sets[1::2], strict=True))
        found = Spread.of([frechet(*(stats_of(part) for part in pair)).distance for pair in pairs])
        kid = kernel_distance(*pairs[0]) if count <= 2048 else None
        rows.append(
            {
                "pictures": count,
                "pairs": len(pairs),
                "frechet": found.median,
                "frechet_least": found.least,
                "frechet_most": found.most,
                "kid": kid.mean if kid else math.nan,
                "kid_half": (kid.high - kid.low) / 2 if kid else math.nan,
            }
        )
    return rows


def stats_of(features: torch.Tensor) -> FrechetStats:
    stats = FrechetStats()
    stats.update(features)
    return stats


def draw(rows: list[dict[str, float]]) -> Image.Image:
    """Both axes logarithmic; the dashed line falls as one over the number of pictures."""
    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=13)
    counts, values = [row["pictures"] for row in rows], [row["frechet"] for row in rows]
    low = 10 ** math.floor(math.log10(min(values)))
    high = 10 ** math.ceil(math.log10(max(values)))

    def place(count: float, value: float) -> tuple[float, float]:
        across = math.log(count / counts[0]) / math.log(counts[-1] / counts[0])
        up = math.log(max(value, low) / low) / math.log(high / low)
        return LEFT + across * (WIDTH - LEFT - PAD), HEIGHT - BOTTOM - up * (HEIGHT - BOTTOM - 2 * PAD)

    for count in counts:
        x, y = place(count, low)
        pen.line([(x, y), (x, PAD)], GRID)
        pen.text((x - 4 * len(f"{count:,}"), y + 6), f"{count:,}", INK, font)
    value = low
    while value <= high:
        x, y = place(counts[0], value)
        pen.line([(x, y), (WIDTH - PAD, y)], GRID)
        pen.text((10, y - 8), f"{value:,.10g}", INK, font)
        value *= 10
    last = place(counts[-1], values[-1])
    first = place(counts[0], values[-1] * counts[-1] / counts[0])
    for step in range(0, 40, 2):
        ends = [
            (first[0] + (last[0] - first[0]) * t, first[1] + (last[1] - first[1]) * t)
            for t in (step / 40, (step + 1) / 40)
        ]
        if ends[0][1] >= PAD:
            pen.line(ends, ORANGE, 2)
    points = [place(count, value) for count, value in zip(counts, values, strict=True)]
    pen.line(points, BLUE, 3)
    for x, y in points:
        pen.ellipse((x - 4, y - 4, x + 4, y + 4), BLUE)
    pen.text((LEFT, 4), "FD-EffNetLite0 between two sets of one distribution (true value: 0)", INK, font)
    pen.text((WIDTH - 330, PAD + 8), "dashed: one over the number of pictures", ORANGE, font)
    pen.text((LEFT + 190, HEIGHT - 22), "pictures in each set", INK, font)
    return image


def main(argv: list[str] | None = None) -> int:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the curve there")

    arguments = arguments_of(__doc__, argv, add)
    rows = measure(COUNTS[:3] if arguments.quick else COUNTS)
    for row in rows:
        spread = Spread(row["frechet"], row["frechet_least"], row["frechet_most"])
        print(f"{row['pictures']:6,}  FD {spread}  KID {row['kid']:9.2e} +- {row['kid_half']:.1e}")
    write_result(arguments.json, {"rows": rows})
    if arguments.picture:
        draw(rows).quantize(32).save(arguments.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
