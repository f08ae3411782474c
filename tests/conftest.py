"""Shared by all tests."""

from pathlib import Path

import pytest
import torch

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    torch.manual_seed(0)


def relative_difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over the largest expected value, the measure of the fixtures' README."""
    return float((actual - expected).detach().abs().max() / expected.detach().abs().max())
