"""Precision, recall, density and coverage: how much of one set of features lies among another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from impasto.metrics.intervals import Estimate, bootstrap
from impasto.metrics.sets import blocks, check_features, nearest

NEIGHBOURS = 5  # Naeem et al. 2020; Kynkaanniemi et al. 2019 take 3 for precision and recall


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
    reach_of_real = nearest(real, real, neighbours, same=True)[0][:, -1]
    reach_of_generated = nearest(generated, generated, neighbours, same=True)[0][:, -1]
    held, among_generated, covered = [], [], []
    for part, reach in zip(blocks(real, len(generated)), _like(reach_of_real, len(generated)), strict=True):
        distances = torch.cdist(part, generated, compute_mode="donot_use_mm_for_euclid_dist")
        inside = distances <= reach[:, None]
        held.append(inside.sum(0))
        covered.append(inside.any(1))
        among_generated.append((distances <= reach_of_generated).any(1))
    holding = torch.stack(held).sum(0)
    return Manifold(
        precision=_mean(holding > 0),
        recall=_mean(torch.cat(among_generated)),
        density=_mean(holding / neighbours),
        coverage=_mean(torch.cat(covered)),
    )


def _like(values: Tensor, columns: int) -> list[Tensor]:
    """Values [N] cut as `blocks` cuts N rows."""
    return [part[:, 0] for part in blocks(values[:, None], columns)]


def _mean(values: Tensor) -> Estimate:
    return bootstrap(values.double().tolist())
