"""A run on one page: curves of its metrics and its newest samples, as HTML without scripts or downloads."""

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from impasto.runtime.files import atomic_write_text
from impasto.runtime.log import read_metrics

WIDTH, HEIGHT, PAD = 440, 150, 8
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#777", "#5a2882")
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#222;"
    "background:#faf9f6}figure{display:inline-block;margin:.5em 1em 1em 0;vertical-align:top}"
    "figcaption{font-size:13px}svg{background:#fff;border:1px solid #ddd}img{image-rendering:pixelated;"
    "max-width:100%;border:1px solid #ddd}details pre{font-size:12px;overflow-x:auto}"
)
Series = list[tuple[float, float]]


def write_report(run: Path, title: str, configuration: str = "") -> Path:
    """Write RUN/report.html from RUN/metrics.jsonl and RUN/samples; returns its path."""
    rows = read_metrics(run / "metrics.jsonl", with_time=True)
    images = rows[-1]["images"] if rows else 0
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{images:,} images seen.</p>",
        _samples(run),
        _curves(rows),
    ]
    if configuration:
        escaped = html.escape(configuration)
        parts.append(f"<details><summary>configuration</summary><pre>{escaped}</pre></details>")
    path = run / "report.html"
    atomic_write_text(path, page(title, "".join(parts)))
    return path


def charts(run: Path) -> str:
    """HTML: the curves of RUN/metrics.jsonl, without what the clock measured; nothing where there is none."""
    file = run / "metrics.jsonl"
    return _curves(read_metrics(file, with_time=False)) if file.is_file() else ""


def run_of(model: Path) -> Path | None:
    """The run that a model directory lies in, as RUN/model; None where there is none."""
    folder = model.resolve().parent
    return folder if (folder / "metrics.jsonl").is_file() else None


def _curves(rows: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for group, metrics in grouped(rows).items():
        parts.append(f"<h2>{html.escape(group)}</h2>")
        parts += [_chart(title, lines) for title, lines in charted(group, metrics).items()]
    return "".join(parts)


def page(title: str, body: str, style: str = "") -> str:
    """A whole HTML file in the one look of this package; `body` is HTML, `style` more of CSS."""
    head = f"<meta charset='utf-8'><title>{html.escape(title)}</title><style>{STYLE}{style}</style>"
    return f"<!doctype html><html><head>{head}</head><body>{body}</body></html>\n"


def embedded(picture: Image.Image) -> str:
    """A picture as the address of an <img>, inside the page; nothing of its file but the pixels."""
    file = io.BytesIO()
    picture.convert("RGB").save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _samples(run: Path) -> str:
    """The newest sheet of each kind, linked, not copied."""
    newest: dict[str, str] = {}
    folder = run / "samples"
    for path in sorted(folder.glob("*.png")) if folder.is_dir() else []:
        newest[path.stem.split("-", 1)[-1]] = path.name
    names = [html.escape(name) for name in newest.values()]
    figure = "<figure><img src='samples/{0}'><figcaption>{0}</figcaption></figure>"
    return "".join(figure.format(name) for name in names)


def grouped(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Series]]:
    """Metrics by the part of their name before the first slash, each a list of (images, value)."""
    groups: dict[str, dict[str, Series]] = {}
    for row in rows:
        flat = {**row, **{f"time/{name}": value for name, value in row.get("time", {}).items()}}
        for name, value in flat.items():
            if "/" in name and isinstance(value, (int, float)) and math.isfinite(value):
                group = name.split("/", 1)[0]
                groups.setdefault(group, {}).setdefault(name, []).append((row["images"], float(value)))
    return groups


def charted(group: str, metrics: Mapping[str, Series]) -> dict[str, dict[str, Series]]:
    """{title of a chart: its lines}: one chart a metric; experts of a layer share one."""
    if group != "experts":
        return {name: {name: points} for name, points in metrics.items()}
    layers: dict[str, dict[str, Series]] = {}
    for name, points in metrics.items():
        layer, expert = name.rsplit("/", 1)
        layers.setdefault(layer, {})[expert] = points
    return layers


def _chart(title: str, lines: Mapping[str, Series]) -> str:
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    left, low = min(xs), min(ys)
    across, up = (max(xs) - left) or 1.0, (max(ys) - low) or 1.0
    drawn = []
    for index, points in enumerate(lines.values()):
        places = " ".join(
            f"{PAD + (x - left) / across * (WIDTH - 2 * PAD):.1f},"
            f"{HEIGHT - PAD - (y - low) / up * (HEIGHT - 2 * PAD):.1f}"
            for x, y in points
        )
        colour = COLOURS[index % len(COLOURS)]
        drawn.append(f"<polyline fill='none' stroke='{colour}' stroke-width='1.5' points='{places}'/>")
    last = ", ".join(f"{points[-1][1]:.4g}" for points in lines.values())
    caption = f"{html.escape(title)}: {low:.4g} to {max(ys):.4g}, now {last}"
    return (
        f"<figure><svg width='{WIDTH}' height='{HEIGHT}'>{''.join(drawn)}</svg>"
        f"<figcaption>{caption}</figcaption></figure>"
    )
