"""Kernel distance (KID): unbiased squared maximum mean discrepancy with a cubic polynomial kernel (Binkowski
et al. 2018), on all features at once, with an interval."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from impasto.metrics.intervals import NORMAL_95, Estimate
from impasto.metrics.sets import blocks, check_features

DEGREE, COEFFICIENT = 3, 1.0  # the paper's kernel: (x . y / D + 1)^3


@dataclass(frozen=True)
class _Sums:
    """Sums of a kernel matrix: over each row, each column, and of the diagonal (of a square one)."""

    rows: Tensor
    columns: Tensor
    diagonal: Tensor | None = None


def kernel_distance(first: Tensor, second: Tensor) -> Estimate:
    """Between features [N, D] and [M, D], both of four rows or more; in fp64 and in blocks, so that memory
    grows with N + M. It is unbiased: about zero, and as often below, for two samples of one distribution.

    The interval is normal, its width from leaving out one row after another (jackknife, ours); for two
    samples of one distribution it is too wide. With one subset of full size the mean is torch-fidelity's.
    Raises ValueError for fewer rows, another width D, or NaN.
    """
    first, second = check_features(first, second, least=4)
    xx, yy, xy = _sums(first), _sums(second), _sums(first, second)
    count, other = len(first), len(second)
    within_x, within_y = _off_diagonal(xx), _off_diagonal(yy)
    between = xy.rows.sum()

    def distance(x: Tensor, y: Tensor, cross: Tensor, n: int, m: int) -> Tensor:
        return x / (n * (n - 1)) + y / (m * (m - 1)) - 2 * cross / (n * m)

    mean = distance(within_x.sum(), within_y.sum(), between, count, other)
    without_x = distance(within_x.sum() - 2 * within_x, within_y.sum(), between - xy.rows, count - 1, other)
    without_y = distance(
        within_x.sum(), within_y.sum() - 2 * within_y, between - xy.columns, count, other - 1
    )
    variance = _jackknife(without_x) + _jackknife(without_y)
    half = NORMAL_95 * float(variance.sqrt())
    return Estimate(float(mean), float(mean) - half, float(mean) + half)


def _jackknife(estimates: Tensor) -> Tensor:
    """Variance of a statistic from its values without one row each."""
    count = len(estimates)
    return (estimates - estimates.mean()).square().sum() * (count - 1) / count


def _off_diagonal(sums: _Sums) -> Tensor:
    assert sums.diagonal is not None
    return sums.rows - sums.diagonal


def _sums(first: Tensor, second: Tensor | None = None) -> _Sums:
    other = first if second is None else second
    rows, columns = [], torch.zeros(len(other), dtype=torch.float64)
    for part in blocks(first, len(other)):
        kernel = (part @ other.T / first.shape[1] + COEFFICIENT) ** DEGREE
        rows.append(kernel.sum(1))
        columns += kernel.sum(0)
    own = (first.square().sum(1) / first.shape[1] + COEFFICIENT) ** DEGREE if second is None else None
    return _Sums(torch.cat(rows), columns, own)
