"""How sure a mean is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 4_000  # ours: the limits then move by less than a hundredth of their distance
DRAWN_AT_ONCE = 2**20  # numbers of a bootstrap, so that its memory does not grow with the sample
NORMAL_95 = 1.959964


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
    rows = max(1, DRAWN_AT_ONCE // sample.size)
    parts = [min(rows, RESAMPLES - start) for start in range(0, RESAMPLES, rows)]
    means = np.concatenate(
        [sample[rng.integers(sample.size, size=(n, sample.size))].mean(axis=1) for n in parts]
    )
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    return Estimate(float(sample.mean()), float(low), float(high))


def prompt_means(values: Sequence[float], prompts: Sequence[str]) -> list[float]:
    """One value for each prompt: the mean over its pictures, in the order in which prompts first appear."""
    groups: dict[str, list[float]] = {}
    for value, prompt in zip(values, prompts, strict=True):
        groups.setdefault(prompt, []).append(value)
    return [sum(group) / len(group) for group in groups.values()]


def wilson(successes: int, trials: int) -> Estimate:
    """A share with Wilson's 95 % interval (1927), which stays within 0 and 1 and is wide for few trials.
    Raises ValueError without trials."""
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} of {trials} is no share")
    share, square = successes / trials, NORMAL_95**2
    centre = (share + square / (2 * trials)) / (1 + square / trials)
    spread = share * (1 - share) / trials + square / (4 * trials**2)
    half = NORMAL_95 * spread**0.5 / (1 + square / trials)
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half))
