"""What was measured on scenes, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from impasto.evaluation.scene_sheets import SET_TITLES
from impasto.metrics.features import SMALL_SAMPLE
from impasto.metrics.scene_captions import CaptionScore
from impasto.metrics.scenes import SceneReport


def scene_table(report: SceneReport, painter: str) -> str:
    """A table for each set of prompts, and where `painter` stands between chance and ceiling."""
    parts = []
    for group, rows in report.scores.items():
        lines = [
            f"{SET_TITLES[group]}",
            "",
            "| painter | overall, 95 % interval | binding | perfect | unreadable | pictures |",
            "|---|---|---|---|---|---|",
        ]
        for name, score in rows.items():
            lines.append(
                f"| {name} | {score.overall} | {score.binding:.3f} | {score.perfect:.3f} "
                f"| {score.unreadable} | {score.pictures} |"
            )
        lines += [
            "",
            f"From chance (0) to the ceiling (1) the model stands at {report.position(group, painter):.2f}.",
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def caption_table(captions: Mapping[str, Mapping[str, CaptionScore]]) -> str:
    """Descriptions of real renders, {set of prompts: {language: score}}; empty without any."""
    if not captions:
        return ""
    lines = [
        "descriptions of real renders",
        "",
        "| combinations | language | exact, 95 % interval | true | for other pictures: exact, true "
        "| colours | shapes | not understood | pictures |",
        "|---" * 9 + "|",
    ]
    for name, rows in captions.items():
        for language, score in rows.items():
            lines.append(
                f"| {name} | {language} | {score.exact} | {score.true} "
                f"| {score.chance_exact:.3f}, {score.chance:.3f} | {score.colours.mean:.3f} "
                f"| {score.shapes.mean:.3f} | {score.unread} | {score.pictures} |"
            )
    return "\n".join(lines) + "\n\n"


def frechet_line(frechet: Mapping[str, Any]) -> str:
    """The distance, beside that of real renders among themselves."""
    count = frechet["pictures"]
    few = f" (below {SMALL_SAMPLE:,}: biased, for trends only)" if count < SMALL_SAMPLE else ""
    return (
        f"FD-EffNetLite0 with {count} pictures{few}: model {frechet['model']:.1f}, "
        f"real renders among themselves {frechet['real_against_real']:.1f}.\n"
    )
