"""Curves of a run as a picture, for a page that is kept:

python -m impasto.runtime.curves runs/scenes --out curves.png
"""

import argparse
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from impasto.config import ConfigError, first_line
from impasto.errors import ExpectedError
from impasto.plots import INK, new_figure, save_figure
from impasto.runtime.log import read_metrics
from impasto.runtime.report import COLOURS, Series, charted, grouped

COLUMNS, WIDTH, HEIGHT = 4, 2.6, 1.6  # of the picture; inches a panel
LEFT_OUT = ("time", "nonfinite")  # the report of a run has them


def curves(metrics: Path, out: Path) -> None:
    """Every group of metrics against images seen, a panel a metric, experts of a layer in one; a switch of
    stage is a dotted line. metrics: a run's folder or its metrics.jsonl. Raises ConfigError where there
    are none, or no matplotlib."""
    file = metrics / "metrics.jsonl" if metrics.is_dir() else metrics
    if not file.is_file():
        raise ConfigError(f"{file} is missing; name a run's folder, or its metrics.jsonl")
    groups = grouped(read_metrics(file))
    charts = {
        title: lines
        for group, series in groups.items()
        if group not in LEFT_OUT
        for title, lines in charted(group, series).items()
    }
    if not charts:
        raise ConfigError(f"{file} has no metrics; wait for the run's first interval")
    switches = _switches(groups.get("growing", {}).get("growing/side", []))
    rows = -(-len(charts) // COLUMNS)
    figure, axes = new_figure(COLUMNS, rows, COLUMNS * WIDTH, rows * HEIGHT)
    for ax, (title, lines) in zip(axes.flat, charts.items(), strict=False):
        for colour, points in zip(COLOURS * len(lines), lines.values(), strict=False):
            ax.plot(*zip(*points, strict=True), color=colour, linewidth=1)
        for images in switches:
            ax.axvline(images, color=INK, linewidth=0.6, linestyle=":")
        ax.set_title(title, fontsize=8, color=INK)
        ax.tick_params(labelsize=7)
        ax.locator_params(axis="x", nbins=4)
    for ax in axes.flat[len(charts) :]:
        ax.set_axis_off()
    save_figure(figure, out)


def _switches(sides: Series) -> list[float]:
    """Images at which the side of the pictures was first another one."""
    return [now[0] for before, now in pairwise(sides) if before[1] != now[1]]


def main(argv: Sequence[str] | None = None) -> int:
    """Draw them; expected errors become one line on stderr and exit status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m impasto.runtime.curves", description="Curves of a run as a picture."
    )
    parser.add_argument("metrics", type=Path, metavar="RUN", help="a run's folder, or its metrics.jsonl")
    parser.add_argument("--out", type=Path, default=Path("curves.png"), help="the picture (curves.png)")
    arguments = parser.parse_args(argv)
    try:
        curves(arguments.metrics, arguments.out)
    except (ExpectedError, ValueError, OSError) as error:
        print(f"curves: error: {first_line(error)}", file=sys.stderr)
        return 2
    print(f"wrote {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
