"""Figures of results. matplotlib is an optional part: `pip install 'impasto[plots]'`."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from impasto.config import ConfigError
from impasto.pictures import save_png

INK, FIRST = "#333333", "#b4452c"


def new_figure(columns: int, rows: int, width: float, height: float) -> tuple[Any, Any]:
    """(figure, [rows, columns] axes) of a matplotlib figure that no window shows; sides in inches.
    ConfigError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("figures need matplotlib: pip install 'impasto[plots]'") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(colors=INK, labelsize=8)
    return figure, axes


def save_figure(figure: Any, path: Path) -> None:
    """As a PNG of at most 64 colours, which keeps it small."""
    kept = io.BytesIO()
    figure.savefig(kept, format="png", dpi=110)
    save_png(Image.open(kept).convert("RGB").quantize(64), path)


def interval_figure(
    path: Path, panels: Mapping[str, Mapping[str, Sequence[float]]], reference: str | None = None
) -> None:
    """One panel a measure, one row a cell: every value as a ring, their mean as a point, a line from the
    least to the most. panels: {measure: {cell: values}}; `reference`: the cell whose spread is shaded in
    every panel, so that what lies outside it is seen."""
    cells = list(dict.fromkeys(cell for rows in panels.values() for cell in rows))
    figure, axes = new_figure(len(panels), 1, 1.6 + 2.1 * len(panels), 0.8 + 0.26 * len(cells))
    for ax, (measure, rows) in zip(axes[0], panels.items(), strict=True):
        if shaded := rows.get(reference or "", ()):
            ax.axvspan(min(shaded), max(shaded), color="#e8e2d6", linewidth=0)
        for place, cell in enumerate(cells):
            values = rows.get(cell, ())
            if not values:
                continue
            ax.plot([min(values), max(values)], [place, place], color=INK, linewidth=1)
            ax.plot(values, [place] * len(values), "o", markersize=4, markerfacecolor="none", color=INK)
            ax.plot([sum(values) / len(values)], [place], "o", markersize=5, color=FIRST)
        ax.set_title(measure, fontsize=9, color=INK)
        ax.set_ylim(len(cells) - 0.5, -0.5)
        ax.set_yticks(range(len(cells)), cells if ax is axes[0][0] else [""] * len(cells))
    save_figure(figure, path)
