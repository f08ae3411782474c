"""Documents of texts and pictures as files: a text that names its pictures, the pictures, one page of all."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from impasto.pictures import save_png
from impasto.runtime.files import atomic_directory
from impasto.runtime.report import embedded, page

TEXT, PAGE = "story.txt", "story.html"
STYLE = "section{margin:2em 0}section img{width:192px;height:192px;display:block;margin:.3em 0 1em}"


class Story(Protocol):
    """What a model wrote; `whole`: texts and pictures in order."""

    @property
    def whole(self) -> Sequence[str | Image.Image]: ...
    @property
    def seed(self) -> int: ...
    @property
    def ended(self) -> bool: ...


def write_pages(stories: Sequence[Story], out: Path, settings: Mapping[str, Any]) -> None:
    """OUT/story.txt, OUT/story.html and OUT/000-0.png ..., story and picture, with their settings inside; the
    folder is whole or absent."""
    with atomic_directory(out) as folder:
        texts, sections = [], []
        for number, story in enumerate(stories):
            lines, shown, pictures = list[str](), list[str](), 0
            for part in story.whole:
                if isinstance(part, str):
                    lines.append(part)
                    shown.append(f"<p>{html.escape(part)}</p>")
                    continue
                name = f"{number:03d}-{pictures}.png"
                told = {
                    "prompt": lines[-1] if lines else "",
                    "seed": story.seed,
                    "place": pictures,
                    **settings,
                }
                save_png(part, folder / name, told)
                lines.append(f"[{name}]")
                shown.append(f"<img src='{embedded(part)}' alt='{name}'>")
                pictures += 1
            if not story.ended:
                lines.append("...")
                shown.append("<p>...</p>")
            texts.append("\n".join(lines) + "\n")
            sections.append(f"<section><h2>seed {story.seed}</h2>{''.join(shown)}</section>")
        title = f"Stories by {settings['model']}"
        (folder / TEXT).write_text("\n".join(texts), encoding="utf-8")
        body = f"<h1>{html.escape(title)}</h1>{''.join(sections)}"
        (folder / PAGE).write_text(page(title, body, STYLE), encoding="utf-8")
