"""The ablation: every cell is a run, results are written once, a table is made of them."""

import json
from pathlib import Path
from statistics import mean

import pytest
from PIL import Image

from impasto.aurora import ablation
from impasto.aurora.ablation import CELLS, COLUMNS, main, run_of
from impasto.runtime.results import over_seeds, table

TINY = [
    "--images", "64", "--prompts", "16", "--seeds", "0",
    "--set", "model.generator.channel_max=32", "--set", "discriminator.channel_max=16",
]  # fmt: skip


@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_is_a_run_that_differs_from_the_base_in_what_it_says(cell):
    run, base = run_of(cell, 3, 9_600), run_of("base", 3, 9_600)
    assert run.training.images == 9_600 and run.training.seed == 3 and run.model.resolution == 16
    assert (run == base) == (cell == "base")
    assert run.model.generator.moe.experts[16] == 1  # experts stand at 8x8 alone, so that cells compare


@pytest.mark.long
def test_a_cell_is_trained_and_measured_once_and_stands_in_the_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ablation, "REAL", 64)
    monkeypatch.setattr(ablation, "PATHS", 3)
    command = ["--out", str(tmp_path), "--cells", "experts-2", *TINY]
    assert main([*command[:3], "experts-2,growing-reference", *command[4:]]) == 0
    file = tmp_path / "results" / "experts-2-seed0.json"
    before = file.read_bytes()
    measured = json.loads(before)["measured"]
    assert measured["side"] == 16 and 0.5 <= measured["busiest_expert"] <= 1 and measured["nonfinite"] == 0
    assert 0 <= measured["share_of_noise"] <= 1 and measured["frechet"] > 0
    assert main(command) == 0
    assert "finished before" in capsys.readouterr().out and file.read_bytes() == before
    assert "| experts-2 | 1 |" in table(tmp_path / "results", COLUMNS, CELLS)
    assert main([*command, "--set", "training.r1_gamma=1"]) == 2
    assert "is of another settings" in capsys.readouterr().err


def write_result(folder, cell, seed, score):
    measured = {
        "oracle": {"seen": {"mean": score}, "unseen": {"mean": score / 2}},
        "attributes": {"colour": None, "shape": 0.5},
        "frechet": 900.0, "share_of_noise": 0.1, "path_length": {"z": {"mean": 1.0}, "text": {"mean": 2.0}},
        "busiest_expert": 1.0, "logits_apart": 0.5, "nonfinite": 0, "seconds": 10.0,
    }  # fmt: skip
    (folder / f"{cell}-seed{seed}.json").write_text(
        json.dumps({"cell": cell, "seed": seed, "measured": measured})
    )


def test_results_of_any_folder_become_a_table_and_a_figure_without_a_run(tmp_path, capsys):
    for cell, seed, score in (("experts-8", 0, 0.5), ("base", 0, 0.125), ("base", 1, 0.375)):
        write_result(tmp_path, cell, seed, score)
    file = tmp_path / "figures" / "all.png"
    assert main(["--results", str(tmp_path), "--table", "--figure", str(file)]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[2].startswith("| base | 2 | 0.250 [0.125, 0.375] | 0.125 [0.062, 0.188] | - |")
    assert rows[3].startswith("| experts-8 | 1 | 0.500 | 0.250 | - |")
    with Image.open(file) as picture:
        assert picture.width > 900 and len(picture.convert("RGB").getcolors(9999)) > 10
    assert file.stat().st_size < 60_000


def test_without_a_folder_of_runs_it_says_so(capsys):
    assert main(["--cells", "base"]) == 2
    assert "--out is needed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--cells", "expert-2"], "experts-2"),
        (["--seeds", "x"], "whole numbers"),
        (["--images", "3"], "at least 64"),
        (["--table"], "no results"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, capsys, arguments, told):
    assert main(["--out", str(tmp_path), *arguments]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


def test_the_results_that_are_kept_are_whole_and_in_the_manual():
    kept = Path(__file__).parents[2] / "docs/results/aurora-ablation"
    rows = over_seeds(kept, COLUMNS, CELLS)
    assert rows.keys() == CELLS.keys() and all(len(row["seconds"]) == 3 for row in rows.values())
    manual = (kept.parents[1] / "exploring.md").read_text()
    for cell, row in rows.items():
        told = next(line for line in manual.splitlines() if line.startswith(f"| {cell} |"))
        assert f"| {mean(row['oracle, seen']):.3f} [" in told
        assert f"| {mean(row['FD-EffNetLite0']):,.0f} [" in told
    assert not any(any(row["not finite"]) for row in rows.values())
