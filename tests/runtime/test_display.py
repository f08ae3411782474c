"""What a person sees, in a terminal and in a file."""

import io
import math
import re

import pytest
from rich.console import Console

from impasto.runtime.display import TrainingDisplay, format_seconds, memory_bytes


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def display_into(stream, clock, terminal, start=0):
    console = Console(file=stream, force_terminal=terminal, width=100, _environ={})
    return TrainingDisplay(10_000, start, console=console, clock=clock)


def test_plain_lines_where_there_is_no_terminal():
    stream, clock = io.StringIO(), Clock()
    with display_into(stream, clock, terminal=False, start=1000) as display:
        for images in (2000, 3000):
            clock.now += 10
            display.tick(images)
            losses = {"loss/generator": 0.5, "loss/discriminator": 1.25}
            display.log(images, losses, {"16": [0.25, 0.25, 0.5, 0.0]})
        display.message("checkpoint saved: [1/2] .../000000003000")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3 and "\x1b" not in stream.getvalue()
    assert lines[1].startswith(
        "3,000/10,000 images (30.0%) | generator 0.5 | discriminator 1.25 | 100.0 images/s"
    )
    assert re.search(r"memory \d+\.\d GiB", lines[1]) and lines[1].endswith("experts ▄▄█· | 1:10 left")
    assert lines[2] == "checkpoint saved: [1/2] .../000000003000"


def test_a_live_panel_in_a_terminal():
    stream, clock = io.StringIO(), Clock()
    with display_into(stream, clock, terminal=True) as display:
        clock.now += 10
        display.log(2500, {"loss/generator": 0.5}, {"16": [0.5, 0.5]})
        display._live.refresh()
    text = stream.getvalue()
    assert "\x1b" in text and "━" in text and "loss/generator" in text and "experts 16" in text
    assert "50%-50%" in text and text.count("2,500/10,000 images (25.0%)") == 1


def test_losses_are_smoothed_without_a_pull_to_the_start():
    display = display_into(io.StringIO(), Clock(), terminal=False)
    display.log(1, {"x": 3.0})
    assert display.losses["x"] == 3.0
    display.log(2, {"x": 1.0})
    assert display.losses["x"] == pytest.approx((0.9 * 0.1 * 3 + 0.1 * 1) / 0.19)
    display.log(3, {"x": math.nan})
    assert math.isnan(display.losses["x"])
    display.log(4, {"x": 2.0})
    assert display.losses["x"] == 2.0
    assert "? left" in display.status_line()  # the clock stood still


def test_expert_load_in_ascii():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    display = TrainingDisplay(100, console=Console(file=stream), clock=Clock())
    display.log(50, {}, {"16": [0.0, 0.25, 0.75, 0.0]})
    assert "experts 0490" in display.status_line()


def test_small_helpers():
    assert [format_seconds(s) for s in (0, 61, 3723, 59.6)] == ["0:00", "1:01", "1:02:03", "1:00"]
    assert memory_bytes()["process"] > 50 * 2**20
