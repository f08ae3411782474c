"""Small line and point charts with logarithmic axes, drawn with Pillow."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, LEFT, BOTTOM, PAD = 640, 400, 70, 50, 24
PAPER, INK, GRID = (250, 249, 246), (40, 40, 40), (225, 224, 220)
COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (120, 100, 20))


@dataclass(frozen=True)
class Line:
    """Points (x, y), all above zero, each a mark; joined by a line unless told otherwise."""

    name: str
    points: tuple[tuple[float, float], ...]
    dashed: bool = False
    joined: bool = True


def number(value: float) -> str:
    """1,000 and 0.69; 1e+06 where that is shorter."""
    return f"{value:,.0f}" if 100 <= value < 1e6 else f"{value:.3g}"


def chart(title: str, x_name: str, lines: Sequence[Line]) -> Image.Image:
    """Both axes logarithmic, a grid line at every power of ten."""
    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=13)
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    across = (math.log10(min(xs)), max(math.log10(max(xs)), math.log10(min(xs)) + 0.1))
    low = math.floor(math.log10(min(ys)))
    up = (low, max(math.ceil(math.log10(max(ys))), low + 1))

    def place(x: float, y: float) -> tuple[float, float]:
        share_x = (math.log10(x) - across[0]) / (across[1] - across[0])
        share_y = (math.log10(y) - up[0]) / (up[1] - up[0])
        return (
            LEFT + share_x * (WIDTH - LEFT - 2 * PAD),
            HEIGHT - BOTTOM - share_y * (HEIGHT - BOTTOM - 2 * PAD),
        )

    left, right = 10 ** across[0], 10 ** across[1]
    for power in range(up[0], up[1] + 1):
        x, y = place(left, 10.0**power)
        pen.line([(x, y), (WIDTH - 2 * PAD, y)], GRID)
        pen.text((10, y - 8), number(10.0**power), INK, font)
    ticks = sorted({x for line in lines if line.joined for x, _ in line.points} or {left, right})
    shown = -100.0
    for tick in ticks:
        x, y = place(tick, 10.0 ** up[0])
        pen.line([(x, y), (x, 2 * PAD)], GRID)
        if x - shown > 44:
            pen.text((x - 4 * len(number(tick)), y + 6), number(tick), INK, font)
            shown = x
    for index, line in enumerate(lines):
        colour = COLOURS[index % len(COLOURS)]
        points = [place(x, y) for x, y in line.points]
        if line.joined:
            _stroke(pen, points, colour, line.dashed)
        if not line.dashed:
            for x, y in points:
                pen.ellipse((x - 4, y - 4, x + 4, y + 4), colour)
        pen.text((LEFT + 8 + 290 * (index % 2), 22 + 15 * (index // 2)), line.name, colour, font)
    pen.text((LEFT, 4), title, INK, font)
    pen.text((WIDTH // 2 - 4 * len(x_name), HEIGHT - 22), x_name, INK, font)
    return image.quantize(32)


def _stroke(
    pen: ImageDraw.ImageDraw, points: list[tuple[float, float]], colour: tuple[int, int, int], dashed: bool
) -> None:
    if not dashed:
        pen.line(points, colour, 3)
        return
    for (x0, y0), (x1, y1) in pairwise(points):
        for step in range(0, 40, 2):
            a, b = step / 40, (step + 1) / 40
            ends = [(x0 + (x1 - x0) * t, y0 + (y1 - y0) * t) for t in (a, b)]
            pen.line(ends, colour, 2)
