"""Frechet distance: closed forms, merging, low rank; and who may measure what."""

import numpy as np
import pytest
import torch

from impasto.metrics.features import SameNetworkError, refuse_training_networks
from impasto.metrics.frechet import FrechetStats, frechet, frechet_distance


def stats(features: torch.Tensor, batch: int = 1000) -> FrechetStats:
    found = FrechetStats()
    for part in features.split(batch):
        found.update(part)
    return found


def test_statistics_are_numpys_and_do_not_depend_on_batches_or_workers():
    features = torch.randn(300, 7) * 3 + 1000  # a large mean, which a naive sum of squares would lose
    whole = stats(features)
    exact = features.double()
    assert torch.allclose(whole.mean, exact.mean(0), rtol=1e-12)
    assert torch.allclose(whole.covariance, exact.T.cov(), rtol=1e-9)
    merged = stats(features[:50], 7)
    merged.merge(stats(features[50:], 31))
    merged.merge(FrechetStats())
    assert merged.count == 300
    assert torch.allclose(merged.covariance, whole.covariance, rtol=1e-9)


def test_the_distance_of_gaussians_with_commuting_covariances_is_the_closed_form():
    base = torch.randn(4000, 3, dtype=torch.float64)
    base = (base - base.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(base.T.cov())).T  # exactly white
    scale, shift = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([3.0, 0.0, -1.0])
    expected = float(shift.square().sum() + (scale - 1).square().sum())
    assert frechet_distance(stats(base), stats(base * scale + shift)) == pytest.approx(expected, rel=1e-9)


def reference_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """By the eigenvalues of S1 S2 itself, not symmetric, in NumPy."""
    means = [part.double().mean(0) for part in (first, second)]
    covariances = [part.double().T.cov().numpy() for part in (first, second)]
    products = np.linalg.eigvals(covariances[0] @ covariances[1]).real.clip(0)
    trace = sum(np.trace(covariance) for covariance in covariances) - 2 * np.sqrt(products).sum()
    return float((means[0] - means[1]).square().sum()) + float(trace)


@pytest.mark.parametrize("kind", ["full rank", "few pictures", "few directions", "tiny variances"])
def test_it_is_that_of_an_eigen_decomposition(kind):
    rng = np.random.default_rng(3)
    count = 12 if kind == "few pictures" else 400
    first, second = rng.standard_normal((count, 20)), 1.3 * rng.standard_normal((count + 3, 20)) + 0.2
    mixing = rng.standard_normal((20, 20))
    if kind == "few directions":
        mixing[:, 6:] = mixing[:, :6] @ rng.standard_normal((6, 14))
    if kind == "tiny variances":
        mixing *= np.geomspace(1, 1e-7, 20)  # variances down to 1e-14 of the largest
    features = [torch.from_numpy(part @ mixing) for part in (first, second)]
    found = frechet(*(stats(part) for part in features))
    assert found.distance == pytest.approx(reference_distance(*features), rel=1e-4)
    assert found.rank == {"few pictures": 11, "few directions": 6}.get(kind, found.rank)
    assert np.isfinite(found.condition) == (kind == "full rank") or kind == "tiny variances"


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_that_share_the_features_give_the_same_number(workers):
    """Each takes every so manieth batch, and the statistics are merged."""
    first, second = torch.randn(203, 9), torch.randn(180, 9) + 0.5
    merged = []
    for features in (first, second):
        shares = [FrechetStats() for _ in range(workers)]
        for number, batch in enumerate(features.split(16)):
            shares[number % workers].update(batch)
        for share in shares[1:]:
            shares[0].merge(share)
        merged.append(shares[0])
    assert frechet_distance(*merged) == pytest.approx(
        frechet_distance(stats(first), stats(second)), rel=1e-10
    )


def test_it_is_a_distance_also_below_full_rank():
    few, other = torch.randn(5, 40), torch.randn(6, 40)
    assert frechet_distance(stats(few), stats(few)) == pytest.approx(0, abs=1e-4)
    there, back = frechet_distance(stats(few), stats(other)), frechet_distance(stats(other), stats(few))
    assert there == pytest.approx(back, rel=1e-8) and there > 1


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.zeros(3), "should be floating point"),
        (torch.full((2, 2), float("nan")), "NaN or infinity"),
    ],
)
def test_bad_features_are_refused(features, message):
    with pytest.raises(ValueError, match=message):
        FrechetStats().update(features)


def test_one_feature_has_no_covariance():
    with pytest.raises(ValueError, match="two features"):
        frechet_distance(stats(torch.zeros(1, 2)), stats(torch.zeros(5, 2)))


def test_a_network_of_the_training_does_not_report():
    class Network:
        def __init__(self, fingerprint, **networks):
            self.fingerprint, self.networks = fingerprint, networks

    used = {"text_encoder": "aa", "vision_aided": "bb"}
    refuse_training_networks("efficientnet-lite0", Network("cc", inner="dd"), used)
    refuse_training_networks("efficientnet-lite0", Network("bb"), {})
    for network in (Network("bb"), Network("cc", inner="bb")):
        with pytest.raises(SameNetworkError, match=r"efficientnet-lite2 was used .* \(as vision_aided\)"):
            refuse_training_networks("efficientnet-lite2", network, used)
