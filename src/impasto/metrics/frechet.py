"""Frechet distance between two sets of features, by streaming means and covariances."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from impasto.metrics.sets import check_features


class FrechetStats:
    """Mean and covariance (n - 1) of features that come in batches, in fp64; several workers' are merged.

    The update is Chan's: sums of squares about the present mean, so that nothing large cancels.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean: Tensor | None = None
        self._scatter: Tensor | None = None  # sum of outer products about the mean

    @classmethod
    def known(cls, count: int, mean: Tensor, covariance: Tensor) -> FrechetStats:
        """Statistics as they were saved: mean [D] and covariance [D, D] of `count` features, fp64."""
        stats = cls()
        stats.count, stats._mean, stats._scatter = count, mean, covariance * (count - 1)
        return stats

    def update(self, features: Tensor) -> None:
        """features [N, D], any floating-point type. Raises ValueError for other shapes or for NaN."""
        (rows,) = check_features(features, least=0)
        if not len(rows):
            return
        batch = FrechetStats()
        batch.count, batch._mean = len(rows), rows.mean(0)
        centred = rows - batch._mean
        batch._scatter = centred.T @ centred
        self.merge(batch)

    def merge(self, other: FrechetStats) -> None:
        """Take in what another worker saw. ValueError for features of another width D."""
        if other._mean is None or other._scatter is None:
            return
        if self._mean is None or self._scatter is None:
            self.count, self._mean, self._scatter = other.count, other._mean.clone(), other._scatter.clone()
            return
        if self._mean.shape != other._mean.shape:
            raise ValueError(f"features of {len(self._mean)} and of {len(other._mean)} numbers do not mix")
        total, shift = self.count + other.count, other._mean - self._mean
        self._scatter += other._scatter + torch.outer(shift, shift) * (self.count * other.count / total)
        self._mean += shift * (other.count / total)
        self.count = total

    @property
    def mean(self) -> Tensor:
        """[D] fp64. Raises ValueError before any feature was seen."""
        if self._mean is None:
            raise ValueError("no features yet")
        return self._mean

    @property
    def covariance(self) -> Tensor:
        """[D, D] fp64 with n - 1. Raises ValueError below two features."""
        if self._scatter is None or self.count < 2:
            raise ValueError(f"a covariance needs two features at least; there are {self.count}")
        return self._scatter / (self.count - 1)


@dataclass(frozen=True)
class Frechet:
    """A distance, and how well its square root of S1 S2 is determined: the rank of that product, of `width`
    features, and its condition number, infinite below full rank. N pictures give a rank of N - 1 at most."""

    distance: float
    condition: float
    rank: int
    width: int


def frechet(first: FrechetStats, second: FrechetStats) -> Frechet:
    """Squared difference of the means + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2), by eigen-decomposition, which
    is exact for covariances of less than full rank too. ValueError below two features on either side."""
    root = _square_root(first.covariance)
    between = torch.linalg.eigvalsh(_symmetric(root @ second.covariance @ root)).clamp_min(0)
    trace = first.covariance.trace() + second.covariance.trace() - 2 * between.sqrt().sum()
    distance = float((first.mean - second.mean).square().sum() + trace)
    largest, width = between.max(), len(between)
    smallest = largest * width * torch.finfo(between.dtype).eps  # below, an eigenvalue is rounding
    rank = int((between > smallest).sum())
    condition = float(largest / between.min()) if rank == width else float("inf")
    return Frechet(distance, condition, rank, width)


def frechet_distance(first: FrechetStats, second: FrechetStats) -> float:
    """The distance alone. Errors as for `frechet`."""
    return frechet(first, second).distance


def _square_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(_symmetric(matrix))
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.T) / 2
