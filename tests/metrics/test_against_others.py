"""Frechet and kernel distances against torch-fidelity and torchmetrics: their numbers, written down, and
themselves where they are installed."""

import numpy as np
import pytest
import torch

from impasto.metrics.frechet import FrechetStats, frechet
from impasto.metrics.kernel import kernel_distance

# (Frechet, kernel distance) of `features()` as each of them says; KID with one subset of full size.
WRITTEN_DOWN = {
    "torch-fidelity 0.4.0": (46.5287676482053, 71.54346336471139),
    "torchmetrics 1.9.0": (46.52876764823691, 71.54346336471139),
}


def features() -> tuple[torch.Tensor, torch.Tensor]:
    """Two sets of 300 that differ in mean and in spread; from NumPy, whose streams do not change."""
    rng = np.random.default_rng(7)
    mixing = rng.standard_normal((24, 24))
    first = rng.standard_normal((300, 24)) @ mixing
    second = 1.2 * rng.standard_normal((300, 24)) @ mixing + 0.3
    return torch.from_numpy(first), torch.from_numpy(second)


def ours() -> tuple[float, float]:
    first, second = features()
    stats = FrechetStats(), FrechetStats()
    for part in first.split(64):
        stats[0].update(part)
    stats[1].update(second)
    return frechet(*stats).distance, kernel_distance(first, second).mean


@pytest.mark.parametrize("numbers", WRITTEN_DOWN.values(), ids=list(WRITTEN_DOWN))
def test_the_numbers_they_gave(numbers):
    assert ours() == pytest.approx(numbers, rel=1e-4)


def test_torch_fidelity_itself():
    pytest.importorskip("torch_fidelity", exc_type=ImportError)
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric

    first, second = features()
    statistics = [fid_features_to_statistics(part) for part in (first, second)]
    (distance,) = fid_statistics_to_metric(*statistics, verbose=False).values()
    found = kid_features_to_metric(first, second, kid_subsets=1, kid_subset_size=300, verbose=False)
    assert ours() == pytest.approx((distance, found["kernel_inception_distance_mean"]), rel=1e-4)


def test_torchmetrics_itself():
    pytest.importorskip("torchmetrics", exc_type=ImportError)
    from torchmetrics.image.fid import _compute_fid
    from torchmetrics.image.kid import poly_mmd

    first, second = features()
    moments = [value for part in (first, second) for value in (part.mean(0), part.T.cov())]
    expected = float(_compute_fid(*moments)), float(poly_mmd(first, second))
    assert ours() == pytest.approx(expected, rel=1e-4)


def test_the_condition_of_the_square_root():
    """Diagonal covariances: the eigenvalues of the product are those of one times those of the other."""
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    stats = FrechetStats(), FrechetStats()
    stats[0].update(corners * torch.tensor([2.0, 1]))
    stats[1].update(corners * torch.tensor([1.0, 5]))
    found = frechet(*stats)
    assert found.condition == pytest.approx(25 / 4) and (found.rank, found.width) == (2, 2)
    stats[1].update(torch.zeros(1, 2))
    flat = FrechetStats()
    flat.update(corners * torch.tensor([1.0, 0]))
    assert frechet(flat, stats[0]).rank == 1 and frechet(flat, stats[0]).condition == float("inf")
