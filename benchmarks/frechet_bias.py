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
from benchmarks.plots import Line, chart

from impasto.data.scene_source import SceneOptions, SceneSource
from impasto.metrics.extractors import load_extractor
from impasto.metrics.frechet import FrechetStats, frechet
from impasto.metrics.kernel import kernel_distance

COUNTS = (64, 128, 256, 512, 1024, 2048, 4096)
SIDE, BATCH, PAIRS = 32, 64, 5


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


def draw(rows: list[dict[str, float]], path: Path) -> None:
    """The curve, beside one over the number of pictures."""
    points = [(row["pictures"], row["frechet"]) for row in rows]
    last, least = points[-1]
    falling = [(count, least * last / count) for count, _ in points]
    lines = [Line("median", points), Line("one over the number", falling, "--")]
    chart(
        "FD-EffNetLite0 between two sets of one distribution (true value: 0)", "pictures in each", lines, path
    )


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
        draw(rows, arguments.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
