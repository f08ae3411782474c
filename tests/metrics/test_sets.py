"""Kernel distance, manifolds, copies and diversity against closed forms and plain definitions."""

import pytest
import torch
from torch import Tensor

import impasto.metrics.sets as sets
from impasto.metrics.copies import copies, diversity
from impasto.metrics.kernel import kernel_distance
from impasto.metrics.manifold import manifold
from impasto.metrics.sets import nearest


def normal(count: int, width: int = 6, *, shift: float = 0.0, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) + shift


def plain_kernel_distance(x: Tensor, y: Tensor) -> float:
    def kernel(a: Tensor, b: Tensor) -> float:
        return float((a.double() @ b.double() / len(a) + 1) ** 3)

    def mean(pairs: list[float]) -> float:
        return sum(pairs) / len(pairs)

    within_x = mean([kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    within_y = mean([kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    return within_x + within_y - 2 * mean([kernel(a, b) for a in x for b in y])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks even for a few rows."""
    monkeypatch.setattr(sets, "BLOCK_NUMBERS", 64)


def test_kernel_distance_is_its_definition():
    x, y = normal(13), normal(9, shift=0.3, seed=1)
    assert kernel_distance(x, y).mean == pytest.approx(plain_kernel_distance(x, y), rel=1e-10)


def test_the_interval_of_the_kernel_distance_covers_the_truth():
    """Over many pairs of samples, about 95 % of the intervals hold the expectation."""
    estimates = [
        kernel_distance(normal(40, 3, seed=2 * n), normal(50, 3, shift=0.5, seed=2 * n + 1))
        for n in range(120)
    ]
    truth = sum(estimate.mean for estimate in estimates) / len(estimates)
    covered = sum(estimate.low <= truth <= estimate.high for estimate in estimates) / len(estimates)
    assert 0.88 <= covered <= 1.0


def test_without_one_row_is_computed_without_one_row():
    """The jackknife's shortcut equals computing the distance of the rest."""
    x, y = normal(8), normal(7, shift=0.4, seed=1)
    estimates = torch.tensor(
        [kernel_distance(torch.cat((x[:n], x[n + 1 :])), y).mean for n in range(8)], dtype=torch.float64
    )
    others = torch.tensor(
        [kernel_distance(x, torch.cat((y[:n], y[n + 1 :]))).mean for n in range(7)], dtype=torch.float64
    )
    variance = sum(
        (values - values.mean()).square().sum() * (len(values) - 1) / len(values)
        for values in (estimates, others)
    )
    found = kernel_distance(x, y)
    assert (found.high - found.mean) / 1.959964 == pytest.approx(float(variance) ** 0.5, rel=1e-9)


def test_nearest_leaves_a_picture_itself_out():
    x = normal(30)
    distances, indices = nearest(x, x, 2, same=True)
    full = torch.cdist(x, x)
    full.fill_diagonal_(torch.inf)
    assert torch.equal(indices, full.topk(2, largest=False).indices)
    assert torch.allclose(distances, full.topk(2, largest=False).values, atol=1e-5)
    assert nearest(x, x)[0].abs().max() == 0


def test_manifold_is_its_definition():
    real, generated = normal(40, 3), normal(30, 3, shift=0.7, seed=1)
    found, k = manifold(real, generated, 3), 3
    full = torch.cdist(real.double(), generated.double())

    def reach(x: Tensor) -> Tensor:
        return torch.cdist(x.double(), x.double()).kthvalue(k + 1, dim=1).values

    held = full <= reach(real)[:, None]
    assert found.precision.mean == pytest.approx(float(held.any(0).double().mean()))
    assert found.density.mean == pytest.approx(float(held.sum(0).double().mean() / k))
    assert found.coverage.mean == pytest.approx(float(held.any(1).double().mean()))
    assert found.recall.mean == pytest.approx(float((full <= reach(generated)).any(1).double().mean()))


def test_copies_lie_within_reach_whatever_the_rounding():
    """Far from the origin, where products of lengths are large and differences small."""
    real = normal(50) * 1e-3 + 100
    found = manifold(real, real[:30].clone())
    assert found.precision.mean == found.recall.mean == 1
    distances, indices = nearest(real[:30], real)
    assert distances.abs().max() == 0 and torch.equal(indices[:, 0], torch.arange(30))


def test_manifold_tells_what_is_missing():
    """One of two clusters gone: precise, but half is not covered. Far away: nothing."""
    real = torch.cat((normal(50), normal(50, shift=20, seed=1)))
    half = manifold(real, normal(100, seed=2))
    assert half.precision.mean > 0.8 and half.recall.mean < 0.6 and half.coverage.mean < 0.6
    away = manifold(real, normal(60, shift=-50, seed=3))
    assert away.precision.mean == away.recall.mean == away.density.mean == away.coverage.mean == 0


def test_copies_are_noticed():
    training, held_out = normal(200), normal(100, seed=1)
    honest = copies(normal(100, seed=2), training, held_out)
    assert 0.4 < honest.closer < 0.6 and honest.close.mean < 0.15
    copied = copies(training[:50] + 1e-4, training, held_out)
    assert copied.closer == 1 and copied.close.mean == 1
    assert torch.equal(copied.neighbour, copied.order)
    same = copies(held_out, training, held_out)
    assert same.closer == pytest.approx(0.5)


def test_diversity_by_hand():
    features = torch.tensor([[0.0, 0], [2, 0], [10, 0], [12, 0]])
    found = diversity(features, ["a", "a", "b", "b"])
    between = sum(value**2 for value in (10, 12, 8, 10)) / 4
    assert found.mean == pytest.approx(4 / between)
    assert diversity(features[[0, 0, 2, 2]], ["a", "a", "b", "b"]).mean == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernel_distance(normal(3), normal(9)), "3 pictures are too few"),
        (lambda: kernel_distance(normal(9), normal(9, 5)), "6 and of 5"),
        (lambda: manifold(normal(9), torch.full((9, 6), torch.nan)), "NaN"),
        (lambda: diversity(normal(4), ["a", "b", "c", "d"]), "two pictures of a prompt"),
        (lambda: diversity(normal(4), ["a"]), "1 prompts for 4"),
        (lambda: diversity(torch.zeros(4, 2), ["a", "a", "b", "b"]), "alike"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
