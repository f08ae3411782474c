"""Curves as a picture: a panel a metric, experts together, a line where a run grew."""

import json

import pytest
from PIL import Image

from impasto.runtime import curves
from impasto.runtime.curves import main


def rows(count):
    for number in range(count):
        yield {
            "images": 100 * number,
            "loss/generator": 1.0 / (number + 1),
            "experts/layer_00/00": 0.25,
            "experts/layer_00/01": 0.75,
            "growing/side": 8.0 if number < 3 else 16.0,
            "nonfinite/generator": 0.0,
        }


def test_curves_of_a_run_and_of_its_metrics_are_the_same_picture(tmp_path, capsys, monkeypatch):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(5)))
    asked = []
    made = curves.new_figure
    monkeypatch.setattr(curves, "new_figure", lambda *sizes: asked.append(made(*sizes)) or asked[-1])
    assert main([str(tmp_path), "--out", str(tmp_path / "a" / "run.png")]) == 0
    assert main([str(tmp_path / "metrics.jsonl"), "--out", str(tmp_path / "file.png")]) == 0
    with Image.open(tmp_path / "a" / "run.png") as first, Image.open(tmp_path / "file.png") as second:
        assert first.size == second.size and first.convert("RGB").tobytes() == second.convert("RGB").tobytes()
    _, axes = asked[0]
    shown = {ax.get_title(): ax for ax in axes.flat if ax.get_title()}
    assert list(shown) == ["loss/generator", "experts/layer_00", "growing/side"]
    assert len(shown["experts/layer_00"].lines) == 2 + 1  # two experts, one switch
    assert shown["loss/generator"].lines[-1].get_xdata() == [300, 300]


@pytest.mark.parametrize(("text", "told"), [(None, "is missing"), ("", "has no metrics")])
def test_a_run_without_metrics_is_refused_in_one_line(tmp_path, capsys, text, told):
    if text is not None:
        (tmp_path / "metrics.jsonl").write_text(text)
    assert main([str(tmp_path), "--out", str(tmp_path / "curves.png")]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1 and not (tmp_path / "curves.png").exists()
