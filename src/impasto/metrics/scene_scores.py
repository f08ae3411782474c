"""Does a picture show what its prompt says? Scenes have an exact oracle; here it judges whole sets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from impasto.data.scenes import score_image

Draw = Callable[[list[str]], list[Image.Image]]


@dataclass(frozen=True)
class SceneScores:
    """Means over pictures, each in [0, 1]; `interval` holds 95 % of the bootstrap's means of `overall`, and
    `unreadable` counts pictures the oracle could not read at all (they score zero)."""

    count: int
    unreadable: int
    overall: float
    interval: tuple[float, float]
    binding: float
    relations: float
    counts: float

    def line(self) -> str:
        low, high = self.interval
        return (
            f"overall {self.overall:.3f} [{low:.3f}, {high:.3f}], binding {self.binding:.3f}, relations "
            f"{self.relations:.3f}, counts {self.counts:.3f}, {self.unreadable} of {self.count} unreadable"
        )


def score_pictures(pictures: Sequence[Image.Image], prompts: Sequence[str], seed: int = 0) -> SceneScores:
    """Judge picture n by prompt n."""
    if len(pictures) != len(prompts) or not prompts:
        raise ValueError(f"{len(pictures)} pictures for {len(prompts)} prompts; give one each, at least one")
    scores = [score_image(picture, prompt) for picture, prompt in zip(pictures, prompts, strict=True)]
    overall = np.array([score.overall for score in scores])
    draws = np.random.default_rng(seed).integers(len(overall), size=(2000, len(overall)))
    low, high = np.quantile(overall[draws].mean(1), (0.025, 0.975))
    return SceneScores(
        count=len(scores),
        unreadable=sum(not score.readable for score in scores),
        overall=float(overall.mean()),
        interval=(float(low), float(high)),
        binding=float(np.mean([score.binding for score in scores])),
        relations=float(np.mean([score.relations for score in scores])),
        counts=float(np.mean([score.counts for score in scores])),
    )


def shuffled(prompts: Sequence[str], seed: int = 0) -> list[str]:
    """The same prompts, each at a wrong place: what a picture scores by chance."""
    order = np.random.default_rng(seed).permutation(len(prompts))
    rolled = np.empty(len(prompts), dtype=int)
    rolled[order] = np.roll(order, 1)
    return [prompts[index] for index in rolled]
