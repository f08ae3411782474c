"""The peers' results as one plot, quality against processor seconds an image, and one sheet of pictures."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from impasto.metrics.intervals import Estimate
from impasto.metrics.scenes import SEEN_SET, UNSEEN_SET
from impasto.pictures import INK, PALETTE, PAPER, contact_sheet, save_png

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, PAD = 420, 340, 52, 46, 48, 16
GRID = (225, 224, 220)
COLOURS = [PALETTE[index] for index in (4, 5, 2, 6)]
Row = dict[str, Any]


def read_results(out: Path) -> list[dict[str, Any]]:
    """The documents of the peers that are finished."""
    files = sorted((out / "results").glob("*.json"))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def draw_page(out: Path, documents: Sequence[Row], prompts: Sequence[str]) -> str:
    """Write OUT/peers.png and OUT/pictures.png of results; returns a table of them."""
    panels = [
        _panel(
            documents, "oracle, seen combinations (ceiling 1)", lambda row: row["oracle"][SEEN_SET]["mean"]
        ),
        _panel(documents, "colours read right, seen combinations", lambda row: _right(row, "colour")),
        _panel(documents, "FD-EffNetLite0 (less is better)", lambda row: row["frechet"], logarithmic=True),
    ]
    plot = Image.new("RGB", (WIDTH * len(panels), HEIGHT), PAPER)
    for place, panel in enumerate(panels):
        plot.paste(panel, (place * WIDTH, 0))
    save_png(plot.quantize(48), out / "peers.png")
    save_png(_sheet(out, documents, prompts), out / "pictures.png")
    return _table(documents)


def _table(documents: Sequence[Row]) -> str:
    titles = (
        "peer", "drawing", "images seen", "ms an image", "colours, shapes", "oracle, seen", "oracle, unseen",
        "FD",
    )  # fmt: skip
    lines = [" | ".join(titles), "|".join(["---"] * len(titles))]
    for document in documents:
        for row in document["ways"]:
            scores = [str(Estimate(**row["oracle"][name])) for name in (SEEN_SET, UNSEEN_SET)]
            spent = f"{1000 * row['seconds_an_image']:.1f}"
            right = f"{_right(row, 'colour'):.2f}, {_right(row, 'shape'):.2f}"
            cells = [document["peer"], row["way"], f"{document['images']:,}", spent, right, *scores]
            lines.append(" | ".join([*cells, f"{row['frechet']:,.0f}"]))
    return "\n".join(f"| {line} |" for line in lines)


def _right(row: Row, attribute: str) -> float:
    """The share of the pictures of seen combinations in which the oracle reads what was asked."""
    return row["attributes"][SEEN_SET][attribute]


def _sheet(out: Path, documents: Sequence[Row], prompts: Sequence[str]) -> Image.Image:
    """A row of pictures of the same prompts for each way of drawing."""
    rows, labels = [], []
    for document in documents:
        for row in document["ways"]:
            name = row["way"].replace(" ", "-").replace(",", "")
            files = [out / "pictures" / document["peer"] / f"{name}-{n}.png" for n in range(len(prompts))]
            rows.append([Image.open(file).convert("RGB") for file in files])
            labels.append(f"{document['peer']}, {row['way']}")
    return contact_sheet(rows, labels, cell=64)


def _panel(
    documents: Sequence[Row], title: str, value_of: Callable[[Row], float], *, logarithmic: bool = False
) -> Image.Image:
    """Points of all ways of drawing; those of a peer that differ in steps alone are joined."""
    rows = [row for document in documents for row in document["ways"]]
    seconds = [row["seconds_an_image"] for row in rows]
    low, high = (
        10**fold for fold in (math.floor(math.log10(min(seconds))), math.ceil(math.log10(max(seconds))))
    )
    values = [value_of(row) for row in rows]
    bottom = 10 ** math.floor(math.log10(min(values))) if logarithmic else 0.0
    top = 10 ** math.ceil(math.log10(max(values))) if logarithmic else 1.0
    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=12)

    def place(spent: float, value: float) -> tuple[float, float]:
        across = math.log(spent / low) / math.log(high / low)
        up = math.log(value / bottom) / math.log(top / bottom) if logarithmic else value / top
        return LEFT + across * (WIDTH - LEFT - PAD), HEIGHT - BOTTOM - up * (HEIGHT - BOTTOM - TOP)

    for mark in _decades(low, high):
        x, y = place(mark, top)
        pen.line([(x, y), (x, HEIGHT - BOTTOM)], GRID)
        pen.text((x, HEIGHT - BOTTOM + 5), f"{mark:g}", INK, font, anchor="ma")
    for mark in _decades(bottom, top) if logarithmic else (0, 0.2, 0.4, 0.6, 0.8, 1):
        x, y = place(low, mark)
        pen.line([(x, y), (WIDTH - PAD, y)], GRID)
        pen.text((x - 6, y), f"{mark:,g}", INK, font, anchor="rm")
    pen.text((LEFT, 6), title, INK, font)
    pen.text((WIDTH - PAD, HEIGHT - 20), "processor seconds an image, one thread", INK, font, anchor="ra")
    across = LEFT
    for document, colour in zip(documents, COLOURS, strict=False):
        name = document["peer"].replace("gigagan-", "gigagan, ").replace("-", " ")
        pen.text((across, 24), name, colour, font)
        across += int(font.getlength(name)) + 14
        for line in _lines(document["ways"]):
            points = [place(row["seconds_an_image"], value_of(row)) for row in line]
            pen.line(points, colour, 2)
            for x, y in points:
                pen.ellipse((x - 4, y - 4, x + 4, y + 4), colour)
    return image


def _lines(ways: Sequence[Row]) -> list[list[Row]]:
    """Ways of drawing that differ in their steps alone."""
    lines: dict[str, list[Row]] = {}
    for row in ways:
        lines.setdefault(row["way"].partition(",")[2], []).append(row)
    return list(lines.values())


def _decades(low: float, high: float) -> list[float]:
    return [low * 10**fold for fold in range(round(math.log10(high / low)) + 1)]
