"""Results of an ablation: one JSON file a cell and seed, and a table over them."""

import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy
import torch

from impasto import __version__
from impasto.config import ConfigError
from impasto.plots import interval_figure
from impasto.runtime.log import TIME, read_metrics

Columns = Mapping[str, Sequence[str]]  # {title: the way through a result's "measured"}


def read_result(file: Path) -> dict[str, Any]:
    """A cell's JSON; ConfigError, in one line, if it is none."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        if {"cell", "seed", "measured"} <= document.keys():
            return document
    except (ValueError, AttributeError):
        pass
    raise ConfigError(f"{file} is not the result of an ablation; delete it, or choose another --results")


def over_seeds(
    results: Path, columns: Columns, order: Iterable[str] = ()
) -> dict[str, dict[str, list[float | None]]]:
    """{cell: {title: values, one a seed}} of the JSON files of a folder, cells in `order` as far as it names
    them. ConfigError without any."""
    documents = [read_result(file) for file in sorted(results.glob("*.json"))]
    if not documents:
        raise ConfigError(f"no results in {results}; run the cells first, or name them with --results")
    found = {document["cell"] for document in documents}
    known = [name for name in order if name in found]
    return {
        cell: {
            title: [_value(document["measured"], path) for document in documents if document["cell"] == cell]
            for title, path in columns.items()
        }
        for cell in (*known, *sorted(found.difference(known)))
    }


def table(results: Path, columns: Columns, order: Iterable[str] = ()) -> str:
    """A markdown table over the JSON files of a folder: mean [least, most] over seeds, rows
    in `order` as far as it names them. ConfigError without any."""
    lines = ["| cell | seeds | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for cell, values in over_seeds(results, columns, order).items():
        seeds = len(next(iter(values.values())))
        lines.append(f"| {cell} | {seeds} | " + " | ".join(map(_spread, values.values())) + " |")
    return "\n".join(lines)


def figure(results: Path, path: Path, columns: Columns, order: Iterable[str], reference: str) -> None:
    """The same as a picture, a panel for each of `columns`; the spread of the cell `reference` is shaded."""
    rows = over_seeds(results, columns, order)
    panels = {
        title: {
            cell: [value for value in values[title] if value is not None] for cell, values in rows.items()
        }
        for title in columns
    }
    interval_figure(path, panels, reference)


def _value(measured: Any, path: Sequence[str]) -> float | None:
    """None for what was not measured then."""
    for name in path:
        if isinstance(measured, list):
            measured = measured[int(name)]
        elif (measured := measured.get(name)) is None:
            return None
    return measured


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    spread = f" [{min(known):.3f}, {max(known):.3f}]" if len(known) > 1 else ""
    return f"{mean(known):.3f}{spread}"


def training_seconds(folder: Path) -> float:
    """Wall seconds that the run's steps, checkpoints and samples took, by its own log; sessions that were
    lost do not count. nan where too little was logged."""
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if TIME in row]
    images, timed, seconds, before = 0, 0, 0.0, 0
    for row in rows:
        images = row["images"]
        rate = row[TIME].get("images_per_second")
        if rate:
            timed += images - before
            seconds += (images - before) / rate
        before = images
    return seconds * images / timed if timed else float("nan")


def versions() -> dict[str, str | int]:
    """What the numbers were made with."""
    return {
        "impasto": __version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }


def finite(value: Any) -> Any:
    """JSON knows no infinity: null instead."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
