"""How sure a mean is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 4_000  # ours: the limits then move by less than a hundredth of their distance


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(values: Sequence[float], *, seed: int = 0, confidence: float = 0.95) -> Estimate:
    """Percentile bootstrap of a mean. The values should be independent: one for each prompt, itself the mean
    where a prompt has several pictures. Raises ValueError without any."""
    sample = np.asarray(values, dtype=np.float64)
    if sample.size == 0:
        raise ValueError("an interval needs at least one value")
    rng = np.random.default_rng(seed)
    means = sample[rng.integers(sample.size, size=(RESAMPLES, sample.size))].mean(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    return Estimate(float(sample.mean()), float(low), float(high))
