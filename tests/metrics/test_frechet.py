"""Frechet distance: closed forms, merging, low rank; and who may measure what."""

import pytest
import torch

from impasto.metrics.features import SameNetworkError, refuse_training_networks
from impasto.metrics.frechet import FrechetStats, frechet_distance


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
