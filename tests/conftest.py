"""Shared by all tests. One thread a process: small tensors are slower on several; xdist uses the cores."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    torch.manual_seed(0)


def relative_difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over the largest expected value, the measure of the fixtures' README."""
    return float((actual - expected).detach().abs().max() / expected.detach().abs().max())
