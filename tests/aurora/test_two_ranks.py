"""Two processes train as one process with two rounds of accumulation does."""

import sys

import pytest
import torch

from impasto.runtime.checkpoint import latest_checkpoint, load_checkpoint
from impasto.runtime.dist import Ranks
from impasto.runtime.log import read_metrics
from tests.aurora.two_ranks import train
from tests.runtime.start_ranks import run_ranks, start_ranks


@pytest.mark.parametrize(
    ("dtype", "steps", "tolerance"),
    [
        pytest.param(torch.float64, 20, 1e-8, id="fp64", marks=pytest.mark.long),
        pytest.param(torch.float32, 1, 1e-5, id="fp32"),
    ],
)
def test_two_ranks_are_one_rank_with_the_same_batch(tmp_path, dtype, steps, tolerance):
    command = [sys.executable, "-m", "tests.aurora.two_ranks", str(tmp_path), str(steps), str(dtype)[6:]]
    before = torch.get_default_dtype()
    with start_ranks(command, 2) as processes:
        try:
            alone = train(Ranks(), steps, dtype, "training.micro_batch=4")
        finally:
            torch.set_default_dtype(before)
        for process in processes:
            printed, _ = process.communicate(timeout=240)
            assert process.returncode == 0, printed
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert alone.keys() == first.keys() == second.keys()
    kinds = (
        ("gradient/", "logged/") if steps == 1 else ("gradient/", "weight/", "average/", "mean/", "logged/")
    )
    for key in (key for key in alone if key.startswith(kinds)):
        assert torch.equal(first[key], second[key]), f"the ranks differ in {key}"
        scale = alone[key].abs().max().clamp_min(1e-12)
        assert float((first[key] - alone[key]).abs().max() / scale) < tolerance, key
    assert any(key.startswith("gradient/vision_aided") for key in alone)


@pytest.mark.long
def test_a_run_goes_on_with_another_number_of_ranks(tmp_path):
    out = tmp_path / "run"
    settings = ["batch=12", "log_every=24", "sample_every=24", "checkpoint_every=24", "r1_interval=1"]
    for ranks, images in ((2, 24), (1, 48), (3, 72)):
        command = [sys.executable, "-m", "impasto.cli", "train", "aurora-debug", "--out", str(out)]
        for setting in (*settings, f"images={images}"):
            command += ["--set", f"training.{setting}"]
        printed = run_ranks(command, ranks)
        assert "finished" in printed[0]
        state = load_checkpoint(latest_checkpoint(out))[1]
        assert state["images"] == images
    logged = [row["images"] for row in read_metrics(out / "metrics.jsonl") if "loss/r1" in row]
    assert logged == [24, 48, 72]
