"""What a report on scenes shows: sheets of pictures, named for what they are, and one page."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from impasto.data.scenes import score_images
from impasto.evaluation.page import TABLE_STYLE, html_tables
from impasto.metrics.scenes import CEILING, FIXED_SET, SEEN_SET, Painter, SceneReport
from impasto.pictures import captioned_sheet, contact_sheet
from impasto.runtime.files import atomic_write_text
from impasto.runtime.report import charts, embedded, page

SET_TITLES = {
    "fixed": "ten fixed prompts, unseen combinations",
    "seen": "sampled, combinations seen in training",
    "unseen": "sampled, combinations never seen",
}
SHEET_PROMPTS, SHEET_PICTURES = 12, 6


def scene_sheets(report: SceneReport, painters: Mapping[str, Painter]) -> dict[str, tuple[str, Image.Image]]:
    """The first prompts of every set, not picked, with several pictures of each by the first painter; those
    of the seen set by every painter and as real renders; and the pictures of the seen set that the oracle
    finds worst and best. {name: (what it is, sheet)}."""
    sheets = {}
    paint = next(iter(painters.values()))
    for group, prompts in report.prompts.items():
        chosen = prompts[: len(prompts) if group == FIXED_SET else SHEET_PROMPTS]
        columns = [paint(chosen, report.seed + number) for number in range(SHEET_PICTURES)]
        rows = [list(row) for row in zip(*columns, strict=True)]
        words = f"First prompts, not picked: {SET_TITLES[group]}"
        sheets[group] = words, contact_sheet(rows, chosen, cell=64)
    chosen = report.prompts[SEEN_SET][:SHEET_PROMPTS]
    columns = [paint(chosen, report.seed) for paint in (report.real, *painters.values())]
    words = f"First prompts, not picked, left to right: {', '.join((CEILING, *painters))}"
    sheets["painters"] = words, contact_sheet(list(zip(*columns, strict=True)), chosen, cell=64)
    prompts, pictures = report.prompts[SEEN_SET], report.pictures[SEEN_SET]
    found = [score.overall for score in score_images(pictures, prompts).scores]
    order = sorted(range(len(found)), key=lambda index: found[index])
    for name, picked in (("worst", order[:SHEET_PROMPTS]), ("best", order[::-1][:SHEET_PROMPTS])):
        labels = [f"{found[index]:.2f} {prompts[index]}" for index in picked]
        words = f"{name.capitalize()}, picked by the oracle: {SET_TITLES[SEEN_SET]}"
        sheets[name] = words, captioned_sheet([pictures[index] for index in picked], labels, cell=64)
    return sheets


def write_page(
    title: str, table: str, sheets: Sequence[tuple[str, Image.Image]], run: Path | None, out: Path
) -> None:
    """OUT/report.html: the tables, the sheets, and the curves of the training run, if there is one."""
    curves = f"<h2>training</h2>{charts(run)}" if run else ""
    figures = "".join(
        f"<h2>{html.escape(words)}</h2><img src='{embedded(sheet)}'>" for words, sheet in sheets
    )
    body = f"<h1>{html.escape(title)}</h1>{html_tables(table)}{figures}{curves}"
    atomic_write_text(out / "report.html", page(title, body, TABLE_STYLE))
