"""What was measured of two sets of pictures, for people: a table, a page."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any

from PIL import Image

from impasto.metrics.alignment import alignment_remarks
from impasto.metrics.copies import CLOSE
from impasto.metrics.features import SMALL_SAMPLE
from impasto.metrics.intervals import Estimate
from impasto.runtime.report import embedded, page

TABLE_STYLE = (
    "table{border-collapse:collapse}td,th{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:left}"
)
# Table 1 of the Aurora paper (arXiv 2309.03904); * there: made smaller by Lanczos.
PUBLISHED = (
    ("eDiff-I*", "-", "7.60", "9.10B"),
    ("SD*", "-", "8.40", "0.94B"),
    ("StyleGAN-T", "-", "7.30", "1.02B"),
    ("GigaGAN", "9.18", "-", "0.65B"),
    ("Aurora", "8.28", "6.45", "1.16B"),
)
PUBLISHED_HEAD = ("method", "FID 10K, training set", "zero-shot FID 30K, COCO", "parameters")
NOT_COMPARABLE = (
    "Not comparable: table 1 of the Aurora paper (64x64; other training data, and neither its captions, its "
    "reference pictures nor its Inception are known in full), with this report below"
)
Sheet = tuple[str, Image.Image]  # what it is, and the sheet


def result_rows(document: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What was measured, its value with its interval, and how to read it."""
    results, extractor = document["results"], document["extractor"]
    found = results["frechet"]
    rank = f"rank {found['rank']:,} of {found['width']:,}"
    condition = f"condition {found['condition']:.1e}" if found["condition"] else f"{rank}: mostly bias"
    rows = [
        (extractor["distance"], f"{found['distance']:.3f}", f"lower is better; no interval; {condition}"),
        (f"KID, {extractor['name']}", _scientific(results["kid"]), "about 0 for one distribution"),
        ("precision", _interval(results["precision"]), "share of pictures among the reference"),
        ("recall", _interval(results["recall"]), "share of the reference among the pictures"),
        ("density", _interval(results["density"]), "may exceed 1"),
        ("coverage", _interval(results["coverage"]), "share of the reference with a picture near"),
    ]
    if results["diversity"]:
        rows.append(("diversity", _interval(results["diversity"]), "of one prompt over between prompts"))
    if "copies" in results:
        copied = results["copies"]
        held_out = "nearer to training pictures than held-out ones; 0.5: no copying"
        rows.append(("closer", f"{copied['closer']:.3f}", held_out))
        share = f"nearer than all but {CLOSE:.0%} of held-out ones; {CLOSE:g} by chance"
        rows.append(("close", _interval(copied["close"]), share))
    return rows + _alignment_rows(document)


def _alignment_rows(document: dict[str, Any]) -> list[tuple[str, str, str]]:
    if "alignment" not in document:
        return []
    scorer, rows = document["alignment"]["scorer"]["name"], []
    for name, found in document["alignment"]["rows"].items():
        rows.append(
            (f"cosine by {scorer}: {name}", _interval(found["cosine"]), f"{found['pictures']:,} pictures")
        )
        if found["r_precision"] is not None:
            among = f"own prompt nearest among {found['distractors'] + 1:,}"
            rows.append((f"R-precision by {scorer}: {name}", _interval(found["r_precision"]), among))
    return rows


def result_table(document: dict[str, Any]) -> str:
    """Markdown: the table and what limits it."""
    lines = ["| measure | value, 95 % interval | |", "|---|---|---|"]
    lines += [f"| {name} | {value} | {note} |" for name, value, note in result_rows(document)]
    return "\n".join([*lines, "", *(f"{remark}." for remark in remarks(document))]) + "\n"


def remarks(document: dict[str, Any]) -> list[str]:
    """Sentences on the sets and what is not measured."""
    told = []
    for name, details in document["sets"].items():
        sentence = f"{name}: {details['count']:,} from {details['source']}"
        if details["size"]:
            sentence += ", {}x{} px".format(*details["size"])
        if details["skipped"]:
            skipped = (f"{count} {reason}" for reason, count in details["skipped"].items())
            sentence += f"; left out: {', '.join(skipped)}"
        if details["enlarged"]:
            sentence += f"; {details['enlarged']:,} were smaller than asked for and enlarged"
        told.append(sentence)
    if "preset" in document:
        preset = document["preset"]
        captions = f"{preset['pictures']:,} captions, sha256 {preset['captions_sha256'][:12]}"
        told.append(f"Protocol {preset['name']}, {captions}")
    if min(document["sets"][name]["count"] for name in ("pictures", "reference")) < SMALL_SAMPLE:
        told.append(f"Below {SMALL_SAMPLE:,} pictures the Frechet distance is mostly bias: for trends only")
    if document["training_networks"] is None:
        told.append(
            "The pictures do not say which networks their model was trained with: nothing kept this report "
            "from measuring with one of them (--made-by MODEL would)"
        )
    if "alignment" in document:
        given = document["sets"]["pictures"]
        if given["with_prompts"] < given["count"]:
            silent = given["count"] - given["with_prompts"]
            told.append(f"{silent:,} of {given['count']:,} pictures say no prompt: not part of the alignment")
        told += alignment_remarks(document["alignment"])
    if "without_diversity" in document["results"]:
        told.append(f"Diversity is not measured: {document['results']['without_diversity']}")
    return told


def _interval(value: dict[str, float]) -> str:
    return str(Estimate(**value))


def _scientific(value: dict[str, float]) -> str:
    return f"{value['mean']:.2e} [{value['low']:.2e}, {value['high']:.2e}]"


def markdown_report(title: str, document: dict[str, Any], table: str, sheets: dict[str, Sheet]) -> str:
    """report.md: the table, the settings that matter most, the sheets."""
    extractor, prepared = document["extractor"], document["preparation"]
    facts = [
        f"Extractor {extractor['name']}, sha256 {extractor['sha256']}, input {extractor['side']} px "
        f"({extractor['resize']}).",
        "Pictures: " + ", ".join(f"{name} {value}" for name, value in prepared.items()) + ".",
        f"Precision, recall, density and coverage with {document['neighbours']} neighbours.",
    ]
    shown = [f"{words}.\n\n![{words}]({name}.png)" for name, (words, _) in sheets.items()]
    published = _published_markdown(document)
    return "\n\n".join([f"# {title}", table.strip(), *published, *facts, *shown]) + "\n"


def published_rows(document: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """The paper's table with the report's own line below it; empty without a protocol of the paper's."""
    column = {"train-10k": 0, "coco-30k": 1}.get(document.get("preset", {}).get("name"))
    if column is None:
        return []
    found = document["results"]["frechet"]["distance"]
    ours = ["-", "-"]
    ours[column] = f"{document['extractor']['distance']} {found:.2f}"
    return [*PUBLISHED, ("this report", ours[0], ours[1], "-")]


def _published_markdown(document: dict[str, Any]) -> list[str]:
    rows = published_rows(document)
    lines = ["| " + " | ".join(PUBLISHED_HEAD) + " |", "|---" * len(PUBLISHED_HEAD) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return [NOT_COMPARABLE + ".", "\n".join(lines)] if rows else []


def _html_rows(rows: Sequence[Sequence[str]]) -> str:
    return "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )


def _published_html(document: dict[str, Any]) -> str:
    rows = published_rows(document)
    if not rows:
        return ""
    cells = _html_rows(rows)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in PUBLISHED_HEAD)
    return f"<p>{html.escape(NOT_COMPARABLE)}.</p><table><tr>{head}</tr>{cells}</table>"


def html_tables(markdown: str) -> str:
    """HTML of text in lines and of tables in Markdown."""
    parts: list[str] = []
    rows: list[list[str]] = []
    for line in [*markdown.splitlines(), ""]:
        if line.startswith("|"):
            if not line.startswith("|---"):
                rows.append([cell.strip() for cell in line.strip("|").split("|")])
            continue
        if rows:
            head = "".join(f"<th>{html.escape(cell)}</th>" for cell in rows[0])
            parts.append(f"<table><tr>{head}</tr>{_html_rows(rows[1:])}</table>")
            rows = []
        if line:
            parts.append(f"<p>{html.escape(line)}</p>")
    return "".join(parts)


def html_report(title: str, document: dict[str, Any], sheets: dict[str, Sheet], curves: str = "") -> str:
    """report.html: the same, every setting, and the sheets inside the page. `curves`: HTML."""
    rows = _html_rows(result_rows(document))
    head = "<tr><th>measure</th><th>value, 95 % interval</th><th></th></tr>"
    told = "".join(f"<p>{html.escape(remark)}.</p>" for remark in remarks(document))
    figures = "".join(
        f"<figure><img src='{embedded(sheet)}' alt='{html.escape(words)}'>"
        f"<figcaption>{html.escape(words)}.</figcaption></figure>"
        for words, sheet in sheets.values()
    )
    settings = {name: value for name, value in document.items() if name != "results"}
    escaped = html.escape(json.dumps(settings, indent=2, ensure_ascii=False))
    details = f"<details><summary>settings</summary><pre>{escaped}</pre></details>"
    body = f"<h1>{html.escape(title)}</h1><table>{head}{rows}</table>{told}"
    body += f"{_published_html(document)}{figures}{curves}{details}"
    return page(title, body, TABLE_STYLE)
