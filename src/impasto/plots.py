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


Point = tuple[float, float, float, float, str]  # x, y, its interval's low and high, a label


def line_figure(
    path: Path, lines: Mapping[str, Sequence[Point]], *, title: str, x: str, y: str, joined: bool = True
) -> None:
    """Points with intervals, a line through those of each name where `joined`."""
    figure, axes = new_figure(1, 1, 5.6, 3.6)
    (ax,) = axes[0]
    for name, points in lines.items():
        across, up = [point[0] for point in points], [point[1] for point in points]
        whiskers = [[y - low for _, y, low, _, _ in points], [high - y for _, y, _, high, _ in points]]
        ax.errorbar(across, up, whiskers, fmt="-o" if joined else "o", markersize=4, linewidth=1, label=name)
        for at_x, at_y, _, _, label in points:
            ax.annotate(label, (at_x, at_y), (5, 4), textcoords="offset points", fontsize=7, color=INK)
    ax.set_title(title, fontsize=9, color=INK)
    ax.set_xlabel(x, fontsize=8, color=INK)
    ax.set_ylabel(y, fontsize=8, color=INK)
    ax.margins(x=0.15)
    if len(lines) > 1:
        ax.legend(fontsize=7, frameon=False)
    save_figure(figure, path)
