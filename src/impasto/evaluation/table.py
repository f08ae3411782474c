"""`impasto evaluate --compare REPORT REPORT ...`: reports side by side."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from impasto.config import ConfigError
from impasto.evaluation.page import TABLE_STYLE, html_tables, result_rows
from impasto.evaluation.sets import PROTOCOL
from impasto.metrics.intervals import Estimate
from impasto.runtime.files import atomic_write_text
from impasto.runtime.report import embedded, page

SCENES, ABSENT = "scenes", "not measured"
TRAINING, SCORER = "sets.training.content_sha256", "alignment.scorer"
OPTIONAL = (TRAINING, SCORER)  # may be missing: copies, or alignment, are then not measured
SHEETS = {True: ("painters",), False: ("random", "prompts")}  # of reports on scenes, on sets
AS_RESIZED = "sets.pictures.size"  # may differ where all are resized to one side
# Of reports of models on scenes, likewise.
SCENES_MUST_AGREE = {
    "resolution": "the side of the pictures",
    "options": "the kind of scenes",
    "prompts": "the prompts",
    "seed": "the seed",
}
# What has to agree for numbers to be comparable, as a path in report.json, and what it is called.
MUST_AGREE = {
    "format": "the format of the report",
    "extractor": "the extractor",
    "preparation": "the preparation of the pictures",
    "preset.name": "the protocol",
    "preset.captions_sha256": "the list of captions",
    "neighbours": "the number of neighbours",
    "sets.pictures.count": "the number of pictures",
    "sets.pictures.size": "the size of the pictures",
    "sets.reference.count": "the number of reference pictures",
    "sets.reference.content_sha256": "the reference",
    TRAINING: "the training pictures",
    SCORER: "the scorer",
}


def compare_reports(names: Sequence[str], out: Path | None = None) -> str:
    """A table with a column for each report, also written to OUT/compare.md and, with the reports' sheets, to
    OUT/compare.html. Raises ConfigError for what is no such report, and, naming the setting, for reports
    whose numbers are not comparable."""
    if len(names) < 2:
        raise ConfigError("--compare needs two reports at least")
    reports = {name: read_report(name) for name in names}
    if len(reports) < len(names):
        raise ConfigError("--compare was given a report twice")
    first_name, first = next(iter(reports.items()))
    on_scenes = first["protocol"] == SCENES
    for name, report in reports.items():
        if report["protocol"] != first["protocol"]:
            protocols = f"{first['protocol']} and {report['protocol']}"
            raise ConfigError(
                f"{first_name} and {name} are not comparable: the protocol differs ({protocols})"
            )
        for path, words in (SCENES_MUST_AGREE if on_scenes else MUST_AGREE).items():
            one, other = _at(first, path), _at(report, path)
            if one == other or (path == AS_RESIZED and first["preparation"]["resize"] is not None):
                continue
            if path in OPTIONAL and (one is None or other is None):
                continue
            raise ConfigError(
                f"{first_name} and {name} are not comparable: {words} differs ({_short(one, other)})"
            )
    told = scene_rows if on_scenes else result_rows
    rows = {name: {measure: value for measure, value, *_ in told(report)} for name, report in reports.items()}
    measures = dict.fromkeys(measure for values in rows.values() for measure in values)
    cells = [["measure", *reports]]
    cells += [[measure, *(values.get(measure, ABSENT) for values in rows.values())] for measure in measures]
    shared = _shared_scenes(first) if on_scenes else _shared_sets(first)
    lines = [f"| {' | '.join(row)} |" for row in cells]
    lines.insert(1, "|---" * len(cells[0]) + "|")
    table = "\n".join([*lines, "", shared]) + "\n"
    if out is not None:
        atomic_write_text(out / "compare.md", table)
        atomic_write_text(out / "compare.html", _page(table, names, SHEETS[on_scenes]))
    return table


def _page(table: str, names: Sequence[str], sheets: Sequence[str]) -> str:
    """The table, and below it the sheets of each report that still has them: what the numbers are about."""
    body = f"<h1>Side by side</h1>{html_tables(table)}"
    for name in names:
        body += f"<h2>{html.escape(name)}</h2>"
        for sheet in sheets:
            file = report_file(name).with_name(f"{sheet}.png")
            if file.is_file():
                with Image.open(file) as picture:
                    body += f"<img src='{embedded(picture)}'>"
    return page("Side by side", body, TABLE_STYLE)


def scene_rows(document: dict[str, Any]) -> list[tuple[str, str]]:
    """What was measured of a model on scenes, and its value."""
    rows = []
    for group, painters in document["scores"].items():
        score = painters["model"]
        rows += [
            (f"{group}: overall", str(Estimate(**score["overall"]))),
            (f"{group}: binding", f"{score['binding']:.3f}"),
            (f"{group}: perfect", f"{score['perfect']:.3f}"),
            (f"{group}: from chance (0) to the ceiling (1)", f"{document['position'][group]:.2f}"),
        ]
    rows.append(("FD-EffNetLite0", f"{document['frechet']['model']:.1f}"))
    aligned = document.get("alignment")
    if aligned:
        scorer = f"{aligned['scorer']['name']} {aligned['scorer']['sha256'][:12]}"
        for name, found in aligned["rows"].items():
            rows.append((f"cosine by {scorer}: {name}", str(Estimate(**found["cosine"]))))
    return rows


def _shared_scenes(first: dict[str, Any]) -> str:
    counts = ", ".join(f"{len(prompts):,} {group}" for group, prompts in first["prompts"].items())
    return f"The same prompts ({counts}), {first['resolution']} px, seed {first['seed']}."


def _shared_sets(first: dict[str, Any]) -> str:
    extractor = f"{first['extractor']['name']} {first['extractor']['sha256'][:12]}"
    pictures, real = (first["sets"][name]["count"] for name in ("pictures", "reference"))
    return f"{pictures:,} pictures each, {real:,} of the reference; extractor {extractor}."


def read_report(name: str) -> dict[str, Any]:
    """A report.json, or the folder with one. ConfigError, in one line, for anything else."""
    path = report_file(name)
    if not path.is_file():
        raise ConfigError(f"{name}: no report.json there")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ConfigError(f"{path} is not JSON") from None
    protocol = document.get("protocol") if isinstance(document, dict) else None
    if protocol != PROTOCOL and not (protocol == SCENES and "scores" in document):
        raise ConfigError(
            f"{path} is not a report of a model on scenes, nor of `impasto evaluate PICTURES --reference DIR`"
        )
    return document


def report_file(name: str) -> Path:
    """A report's JSON: in the folder that is named, or the file itself."""
    path = Path(name)
    return path / "report.json" if path.is_dir() else path


def _at(document: dict[str, Any], path: str) -> Any:
    found: Any = document
    for part in path.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _short(one: Any, other: Any) -> str:
    """The two values; of tables only what differs."""
    if isinstance(one, dict) and isinstance(other, dict):
        key = next(key for key in {**one, **other} if one.get(key) != other.get(key))
        return f"{key}: {_short(one.get(key), other.get(key))}"
    return " and ".join("none" if value is None else str(value)[:40] for value in (one, other))
