"""Small charts as pictures: points with intervals, joined in the order they come in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from impasto.metrics.intervals import Estimate
from impasto.pictures import INK, PALETTE, PAPER, label_font

WIDTH, HEIGHT, LEFT, BELOW, ABOVE, RIGHT = 560, 360, 56, 52, 28, 24
COLOURS = (PALETTE[4], PALETTE[5], PALETTE[2], PALETTE[6])
GRID, TICKS = (224, 222, 216), 5


@dataclass(frozen=True)
class Point:
    """A measurement `y` at `x`, and what it is called."""

    x: float
    y: Estimate
    label: str = ""


def chart(
    lines: Mapping[str, Sequence[Point]], *, title: str, x: str, y: str, joined: bool = True
) -> Image.Image:
    """A line, or points alone, for each name, with whiskers for intervals; x and y name the axes."""
    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    pen, font = ImageDraw.Draw(image), label_font("")
    points = [point for some in lines.values() for point in some]
    across, up = (
        _range([point.x for point in points]),
        _range([v for p in points for v in (p.y.low, p.y.high)]),
    )

    def place(value_x: float, value_y: float) -> tuple[float, float]:
        share_x = (value_x - across[0]) / (across[1] - across[0])
        share_y = (value_y - up[0]) / (up[1] - up[0])
        return LEFT + share_x * (WIDTH - LEFT - RIGHT), HEIGHT - BELOW - share_y * (HEIGHT - BELOW - ABOVE)

    for tick in range(TICKS + 1):
        value_x, value_y = (low + (high - low) * tick / TICKS for low, high in (across, up))
        (at_x, bottom), (_, at_y) = place(value_x, up[0]), place(across[0], value_y)
        pen.line([(LEFT, at_y), (WIDTH - RIGHT, at_y)], GRID)
        pen.text((LEFT - 6, at_y), f"{value_y:.2f}", INK, font, anchor="rm")
        pen.text((at_x, bottom + 6), f"{value_x:.3g}", INK, font, anchor="mt")
    for index, (name, some) in enumerate(lines.items()):
        colour = COLOURS[index % len(COLOURS)]
        if joined and len(some) > 1:
            pen.line([place(point.x, point.y.mean) for point in some], colour, 2)
        for point in some:
            at_x, at_y = place(point.x, point.y.mean)
            pen.line([place(point.x, point.y.low), place(point.x, point.y.high)], colour)
            pen.ellipse([at_x - 3, at_y - 3, at_x + 3, at_y + 3], colour)
            pen.text((at_x + 6, at_y - 3), point.label, INK, font, anchor="lb")
        pen.text((LEFT + 130 * index, HEIGHT - 8), name, colour, font, anchor="lb")
    pen.text((LEFT, 8), f"{title}: {y}", INK, font)
    pen.text((WIDTH - RIGHT, HEIGHT - 8), x, INK, font, anchor="rb")
    return image


def _range(values: Sequence[float]) -> tuple[float, float]:
    """From a little below the least to a little above the most."""
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin
