"""Results of an ablation: one JSON file a cell and seed, and a table over them."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from impasto.config import ConfigError

COLUMNS: dict[str, tuple[str, ...]] = {
    "NLL, seen": ("image_token_nll", "seen"),
    "NLL, held out": ("image_token_nll", "heldout"),
    "oracle, seen": ("oracle", "seen", "mean"),
    "oracle, held out": ("oracle", "heldout", "mean"),
    "captions true, seen": ("captions_true", "seen", "mean"),
    "captions true, held out": ("captions_true", "heldout", "mean"),
    "text KL": ("text_drift", "seen", "divergence"),
    "text NLL": ("text_drift", "seen", "nll_after"),
    "image RMS, last": ("residuals", "after", "image_rms", "-1"),
    "text RMS, last": ("residuals", "after", "text_rms", "-1"),
}


def read_result(file: Path) -> dict[str, Any]:
    """A cell's JSON; ConfigError, in one line, if it is none."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        if {"cell", "seed", "measured"} <= document.keys():
            return document
    except (ValueError, AttributeError):
        pass
    raise ConfigError(f"{file} is not the result of an ablation; delete it, or choose another --results")


def table(results: Path, order: Iterable[str] = ()) -> str:
    """A markdown table over the JSON files of a folder: mean [least, most] over seeds, rows
    in `order` as far as it names them. ConfigError without any."""
    documents = [read_result(file) for file in sorted(results.glob("*.json"))]
    if not documents:
        raise ConfigError(f"no results in {results}; run the cells first, or name them with --results")
    lines = ["| cell | seeds | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    found = {document["cell"] for document in documents}
    known = [name for name in order if name in found]
    for cell in (*known, *sorted(found.difference(known))):
        rows = [document for document in documents if document["cell"] == cell]
        cells = [_over_seeds([_value(row["measured"], path) for row in rows]) for path in COLUMNS.values()]
        lines.append(f"| {cell} | {len(rows)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _value(measured: Any, path: Sequence[str]) -> float | None:
    for name in path:
        measured = measured[int(name)] if isinstance(measured, list) else measured[name]
    return measured


def _over_seeds(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    spread = f" [{min(known):.3f}, {max(known):.3f}]" if len(known) > 1 else ""
    return f"{mean(known):.3f}{spread}"
