"""Two processes train as one process with two rounds of accumulation does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from impasto.runtime.dist import Ranks
from tests.aurora.two_ranks import train
from tests.runtime.test_dist import free_port

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("dtype", "steps", "tolerance"),
    [
        pytest.param(torch.float64, 20, 1e-8, id="fp64", marks=pytest.mark.long),
        pytest.param(torch.float32, 1, 1e-5, id="fp32"),
    ],
)
def test_two_ranks_are_one_rank_with_the_same_batch(tmp_path, dtype, steps, tolerance):
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
    shared |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.aurora.two_ranks", str(tmp_path), str(steps), str(dtype)[6:]]
    processes = [
        subprocess.Popen(
            command, cwd=ROOT, env={**shared, "RANK": str(r), "LOCAL_RANK": str(r)}, stderr=subprocess.PIPE
        )
        for r in range(2)
    ]
    before = torch.get_default_dtype()
    try:
        alone = train(Ranks(), steps, dtype, "training.micro_batch=4")
        for process in processes:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors.decode()
    finally:
        torch.set_default_dtype(before)
        for process in processes:
            process.kill()
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert alone.keys() == first.keys() == second.keys()
    kinds = ("gradient/",) if steps == 1 else ("gradient/", "weight/", "average/", "mean/")
    for key in (key for key in alone if key.startswith(kinds)):
        assert torch.equal(first[key], second[key]), f"the ranks differ in {key}"
        scale = alone[key].abs().max().clamp_min(1e-12)
        assert float((first[key] - alone[key]).abs().max() / scale) < tolerance, key
    assert any(key.startswith("gradient/vision_aided") for key in alone)
