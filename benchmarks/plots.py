"""Charts with logarithmic axes, of matplotlib."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from impasto.plots import new_figure, save_figure


@dataclass(frozen=True)
class Line:
    """Points (x, y), all above zero; a style of matplotlib's."""

    name: str
    points: Sequence[tuple[float, float]]
    style: str = "o-"


def chart(title: str, x_name: str, lines: Sequence[Line], path: Path) -> None:
    """Write a PNG."""
    figure, axes = new_figure(1, 1, 7.2, 3.6)
    ax = axes[0][0]
    for line in lines:
        xs, ys = zip(*line.points, strict=True)
        ax.loglog(xs, ys, line.style, label=line.name, markersize=4, linewidth=1.2)
    ax.set_title(title, fontsize=9)
    ax.set_xlabel(x_name, fontsize=8)
    ax.grid(color="#e8e2d6", linewidth=0.6)
    ax.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save_figure(figure, path)
