"""The ablation command on runs of a few steps: cells, resuming, skipping, the table."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from impasto.cli import main as impasto
from impasto.mars import ablation
from impasto.mars.ablation import CELLS, COLUMNS, main
from impasto.mars.ablation_measures import text_drift
from impasto.mars.launch import find_run
from impasto.runtime.results import table, training_seconds
from tests.mars.models import captions, tiny_model

TWO = ("published", "shared-weights")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with the frozen parts, trained by the command, and two cells."""
    home = tmp_path_factory.mktemp("ablation")
    for name in ("tokenizer", "language"):
        assert impasto(["train", f"mars-debug/{name}", "--out", str(home / name)]) == 0
    assert main(arguments(home, home / "cells", TWO)) == 0
    return home


def arguments(home: Path, out: Path, cells: tuple[str, ...], *more: str) -> list[str]:
    parts = [f"--tokenizer={home / 'tokenizer'}", f"--language={home / 'language'}"]
    size = ["--preset=mars-debug", "--tokens=640", "--prompts=3", "--seeds=0"]
    return [f"--out={out}", f"--cells={','.join(cells)}", *size, *parts, *more]


def result(out: Path, cell: str) -> dict:
    return json.loads((out / f"results/{cell}-seed0.json").read_text())


def test_every_cell_leaves_a_result(home):
    for cell in TWO:
        found = result(home / "cells", cell)
        assert found["cell"] == cell and found["seed"] == 0 and found["tokens"] == 640
        measured = found["measured"]
        for name in ("image_token_nll", "text_token_nll", "oracle", "captions_true", "text_drift"):
            assert set(measured[name]) == {"seen", "heldout"}
        for side in ("seen", "heldout"):
            oracle = measured["oracle"][side]
            assert oracle["low"] <= oracle["mean"] <= oracle["high"]
        for moment in ("before", "after"):
            assert len(measured["residuals"][moment]["image_rms"]) == 3  # before two layers, and after them
        assert found["seconds"]["training"] > 0 and found["seconds"]["evaluation"] > 0
        assert found["versions"]["torch"] == torch.__version__
        assert str(home) not in json.dumps(found)


def test_text_moves_with_shared_weights_alone(home):
    own, shared = (result(home / "cells", cell)["measured"]["text_drift"]["seen"] for cell in TWO)
    assert own["divergence"] == own["logit_rms"] == own["largest_logit_difference"] == 0
    assert own["nll_before"] == own["nll_after"] == pytest.approx(shared["nll_before"], rel=1e-6)
    assert shared["divergence"] > 0 and shared["logit_rms"] > 0
    assert shared["nll_after"] != shared["nll_before"]


def test_cells_differ_in_their_settings_alone(home):
    one, two = (result(home / "cells", cell)["settings"] for cell in TWO)
    assert two["model"]["visual"].pop("experts") == "shared"
    assert one["model"]["visual"].pop("experts") == "split"
    assert one == two
    for cell in CELLS.values():
        find_run("mars-debug/stage1", cell.settings)


def test_a_finished_cell_is_skipped(home, capsys):
    out = home / "cells"
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
    assert main(arguments(home, out, TWO)) == 0
    assert capsys.readouterr().out.count("finished before") == 2
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
    assert main(arguments(home, out, TWO, "--set", "training.guidance=2")) == 2
    assert "is of another settings" in capsys.readouterr().err
    for file in before:  # a setting that came after the file was written had its default
        document = json.loads(file.read_text())
        if "cell" in document:
            del document["settings"]["dataset"]
            file.write_text(json.dumps(document))
    assert main(arguments(home, out, TWO)) == 0
    assert capsys.readouterr().out.count("finished before") == 2


def test_cells_of_a_seed_share_their_codes(home):
    one, two = (home / f"cells/{cell}-seed0/codes" for cell in TWO)
    assert [path.name for path in sorted(one.iterdir())] == [path.name for path in sorted(two.iterdir())]
    stamps = [path.stat().st_mtime_ns for path in sorted(one.iterdir())]
    assert stamps == [path.stat().st_mtime_ns for path in sorted(two.iterdir())]  # copied, not made again


def test_a_killed_cell_goes_on(home, tmp_path):
    """Killed without warning after its first checkpoint; the result is that of a run left alone."""
    command = [sys.executable, "-m", "impasto.mars.ablation", *arguments(home, tmp_path, TWO[1:])]
    process = subprocess.Popen(command, env=dict(os.environ), stdout=subprocess.DEVNULL)
    checkpoints = tmp_path / "shared-weights-seed0/checkpoints"
    try:
        end = time.monotonic() + 300
        while time.monotonic() < end and process.poll() is None:
            if checkpoints.is_dir() and any(path.name.isdecimal() for path in checkpoints.iterdir()):
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert any(path.name.isdecimal() for path in checkpoints.iterdir())
    assert not (tmp_path / "results").exists()
    assert main(arguments(home, tmp_path, TWO[1:])) == 0
    assert result(tmp_path, TWO[1])["measured"] == result(home / "cells", TWO[1])["measured"]


def test_a_stopped_run_says_how_to_go_on(home, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ablation, "launch", lambda *_: "SIGTERM")
    assert main(arguments(home, tmp_path, TWO)) == 1
    assert "stopped: SIGTERM; repeat the command to go on" in capsys.readouterr().out
    assert not (tmp_path / "results").exists()


def test_the_table(home, tmp_path, capsys):
    results = home / "cells/results"
    assert main(["--table", f"--results={results}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| published", "| shared-weights"]
    document = result(home / "cells", "published")
    for seed, value in enumerate((3.0, 4.0)):
        document["measured"]["image_token_nll"]["seen"] = value
        (tmp_path / f"published-seed{seed}.json").write_text(json.dumps({**document, "seed": seed}))
    assert "| published | 2 | 3.500 [3.000, 4.000] |" in table(tmp_path, COLUMNS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cells=publshed"], "did you mean 'published'?"),
        (["--seeds=one"], "--seeds one should be whole numbers"),
        (["--preset=mars-nan"], "did you mean 'mars-nano'?"),
        (["--tokens=0"], "--tokens 0 should be at least 1"),
        (["--table"], "run the cells first"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(tmp_path, capsys, arguments, message):
    assert main([f"--out={tmp_path / 'runs'}", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_drift_of_text_is_measured_token_by_token():
    """Against plain sums over texts read one at a time."""
    base, moved = tiny_model(experts="shared"), tiny_model(experts="shared", seed=5)
    texts = [ids for ids in captions() if ids]
    found = text_drift(base, moved, texts)
    divergences, squares, likelihoods = [], [], []
    for ids in texts:
        one, two = (m.text_logits(torch.tensor([ids]))[0].double() for m in (base, moved))
        before, after = one.log_softmax(-1), two.log_softmax(-1)
        divergences += (before.exp() * (before - after)).sum(-1).tolist()
        squares += (one - two).square().mean(-1).tolist()
        likelihoods += [-after[n, token].item() for n, token in enumerate(ids[1:])]
    assert found["divergence"] == pytest.approx(sum(divergences) / len(divergences), rel=1e-4)
    assert found["logit_rms"] == pytest.approx((sum(squares) / len(squares)) ** 0.5, rel=1e-4)
    assert found["nll_after"] == pytest.approx(sum(likelihoods) / len(likelihoods), rel=1e-4)
    with pytest.raises(ValueError, match="at least one text"):
        text_drift(base, moved, [])


def test_seconds_are_those_of_the_log(tmp_path):
    rows = [
        {"images": 10, "time": {"step_seconds": 1.0}},
        {"images": 20, "time": {"images_per_second": 5.0}},
        {"images": 20, "score": 1.0},
        {"images": 40, "time": {"images_per_second": 10.0}},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert training_seconds(tmp_path) == pytest.approx((2 + 2) * 40 / 30)
