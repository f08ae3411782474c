"""The comparison of block and independent heads: its command, its results, and the ones that are kept."""

import json
from pathlib import Path

import pytest

from impasto.mars.superres_study import differences, main

KEPT = Path(__file__).parents[2] / "docs/results/mars-superres"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--out is needed"),
        (["--cells=blok"], "did you mean 'block'"),
        (["--preset=mars-nanu"], "did you mean 'mars-nano'"),
        (["--seeds=x"], "--seeds x should be whole numbers"),
        (["--pictures=0"], "--pictures 0 should be at least 1"),
        (["--drawn=9", "--validated=8"], "at most --validated"),
        (["--table"], "no results in"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(tmp_path, capsys, arguments, message):
    out = [f"--out={tmp_path / 'out'}"] if arguments else []
    assert main([*out, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_results_that_are_kept_say_what_the_manual_says(capsys):
    assert main(["--table", f"--results={KEPT}"]) == 0
    shown = capsys.readouterr().out
    cells = {"block": 64, "independent": 64}  # steps
    assert all(f"| {cell} | 1 |" in shown for cell in cells)
    measured = {cell: json.loads((KEPT / f"{cell}-seed0.json").read_text())["measured"] for cell in cells}
    assert {cell: measured[cell]["steps"] for cell in cells} == cells
    for side in ("seen", "heldout"):
        block, independent = (measured[cell]["image_token_nll"][side] for cell in ("block", "independent"))
        assert block["mean"] < independent["mean"]
    assert sum("independent less block" in line for line in differences(KEPT)) == 2
    manual = (KEPT.parents[1] / "mars.md").read_text()
    for cell in cells:
        assert f"{measured[cell]['image_token_nll']['heldout']['mean']:.3f}" in manual


@pytest.mark.long
def test_the_command_goes_on_and_skips(tmp_path, capsys):
    """At debug size: parts, base, cells, sheet; a second time nothing is trained."""
    size = ["--preset=mars-debug", "--pictures=16", "--validated=4", "--drawn=2"]
    arguments = [f"--out={tmp_path}", *size]
    assert main([*arguments, "--cells=block"]) == 0
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "block, seed 0: finished before" in shown and "next-token less block, heldout" in shown
    assert (tmp_path / "sheet.png").is_file()
    for cell, (steps, places) in {"block": (16, 4), "next-token": (64, 1)}.items():
        found = json.loads((tmp_path / f"results/{cell}-seed0.json").read_text())
        measured = found["measured"]
        assert measured["steps"] == steps and measured["processor_seconds"] > 0
        assert len(measured["nll_by_place"]["heldout"]) == places
        assert measured["oracle_cool"].keys() == measured["error_cool"].keys() == {"seen", "heldout"}
        estimate = measured["image_token_nll"]["heldout"]
        assert estimate["low"] <= estimate["mean"] <= estimate["high"] < 4
        assert str(tmp_path) not in json.dumps(found)
    assert main([*arguments, "--drawn=1"]) == 2
    assert "of another drawn" in capsys.readouterr().err
