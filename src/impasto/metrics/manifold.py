"""Precision, recall, density and coverage: how much of one set of features lies among another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from impasto.metrics.intervals import Estimate, bootstrap
from impasto.metrics.sets import check_features, nearest, squared_distances

NEIGHBOURS = 5  # Naeem et al. 2020; Kynkaanniemi et al. 2019 take 3 for precision and recall
ROUNDING = 1e-12  # of the largest squared length


@dataclass(frozen=True)
class Manifold:
    """precision: share of generated pictures within reach of some real one; recall: share of real ones within
    reach of some generated one (Kynkaanniemi et al. 2019). density: real neighbourhoods that hold a generated
    picture, over k, which may exceed one; coverage: share of real pictures whose neighbourhood holds a
    generated one (Naeem et al. 2020). Reach is the distance to the k-th neighbour of the same set. Intervals
    are over the pictures counted, the other set taken as given."""

    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate


def manifold(real: Tensor, generated: Tensor, neighbours: int = NEIGHBOURS) -> Manifold:
    """real [N, D], generated [M, D]. In blocks: memory grows with N + M. ValueError below k + 1 pictures."""
    real, generated = check_features(real, generated, least=neighbours + 1)
    reach_of_real, reach_of_generated = (_reach(features, neighbours) for features in (real, generated))
    holding = torch.zeros(len(generated), dtype=torch.int64)
    among_generated, covered, start = [], [], 0
    for between in squared_distances(real, generated):
        inside = between <= reach_of_real[start : start + len(between), None]
        holding += inside.sum(0)
        covered.append(inside.any(1))
        among_generated.append((between <= reach_of_generated).any(1))
        start += len(between)
    return Manifold(
        precision=_mean(holding > 0),
        recall=_mean(torch.cat(among_generated)),
        density=_mean(holding / neighbours),
        coverage=_mean(torch.cat(covered)),
    )


def _reach(features: Tensor, neighbours: int) -> Tensor:
    """Squared distance [N] of each row to its last neighbour, with room for rounding, so that a copy of that
    neighbour is within it."""
    distances, _ = nearest(features, features, neighbours, same=True)
    largest = (features - features.mean(0)).square().sum(1).max()
    return distances[:, -1].square() + ROUNDING * largest


def _mean(values: Tensor) -> Estimate:
    return bootstrap(values.double().tolist())
