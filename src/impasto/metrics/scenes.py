"""How well pictures show scenes: the oracle's scores with intervals, between chance and a ceiling.

Three sets of prompts: the ten fixed ones (held-out combinations, written down before any model was trained),
sampled ones of combinations that training contains, and sampled ones of combinations that it does not. The
sampled prompts come from a stream of their own, which no training run draws from.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from impasto.data.scene_prompts import HELD_OUT_PROMPTS
from impasto.data.scene_source import SceneOptions, SceneSource
from impasto.data.scenes import Scene, gather_lone, render, scene_for, score_images
from impasto.metrics.intervals import Estimate, bootstrap, prompt_means

# One picture for each prompt. A painter called twice with the same prompts and seed paints the same.
Painter = Callable[[Sequence[str], int], list[Image.Image]]

EVALUATION_STREAM = 0x5CE7E5  # seed of the prompts' stream; runs have small seeds
FIXED_SET, SEEN_SET, UNSEEN_SET = "fixed", "seen", "unseen"
CEILING, CHANCE = "real renders (ceiling)", "shuffled captions (chance)"
PICTURES_PER_FIXED_PROMPT = 10


@dataclass(frozen=True)
class Score:
    """One painter on one set of prompts. `attributes` and the other means are over pictures."""

    overall: Estimate
    pictures: int
    unreadable: int
    perfect: float
    binding: float
    attributes: dict[str, float]


@dataclass(frozen=True)
class SceneReport:
    """Scores by set of prompts and painter, and what was asked."""

    scores: dict[str, dict[str, Score]]
    prompts: dict[str, list[str]]
    resolution: int
    seed: int
    options: SceneOptions
    pictures: dict[str, list[Image.Image]] = field(repr=False)  # of the first painter, by set

    @property
    def real(self) -> Painter:
        """The perfect painter, of the kind of scenes that the report is about."""
        return renders(self.resolution, self.options.lone_spread)

    def position(self, name: str, painter: str) -> float:
        """Where a painter stands on a set: 0 at chance, 1 at the ceiling."""
        scores = self.scores[name]
        chance, ceiling = scores[CHANCE].overall.mean, scores[CEILING].overall.mean
        return (scores[painter].overall.mean - chance) / (ceiling - chance)


def prompt_sets(options: SceneOptions, count: int) -> dict[str, list[str]]:
    """The ten fixed prompts, and `count` captions each of seen and unseen combinations."""
    seen = SceneSource(64, options, seed=EVALUATION_STREAM)
    unseen = SceneSource(64, options, seed=EVALUATION_STREAM, split="heldout")
    return {
        FIXED_SET: list(HELD_OUT_PROMPTS),
        SEEN_SET: seen.captions(count),
        UNSEEN_SET: unseen.captions(count),
    }


def evaluate_scenes(
    painters: Mapping[str, Painter],
    options: SceneOptions,
    *,
    resolution: int,
    count: int = 500,
    seed: int = 0,
    progress: Callable[[str], None] = lambda text: None,
) -> SceneReport:
    """Score painters, real renders and chance on every set. Chance is a perfect painter that was given the
    captions in another order; for the first painter that is reported too."""
    sets = prompt_sets(options, count)
    scores: dict[str, dict[str, Score]] = {}
    kept: dict[str, list[Image.Image]] = {}
    everyone = {**painters, CEILING: renders(resolution, options.lone_spread)}
    first = next(iter(painters))
    for name, prompts in sets.items():
        repeats = PICTURES_PER_FIXED_PROMPT if name == FIXED_SET else 1
        rows: dict[str, Score] = {}
        for painter, paint in everyone.items():
            progress(f"{painter}: {name}")
            pictures = [picture for r in range(repeats) for picture in paint(prompts, seed + r)]
            rows[painter] = judge(pictures, prompts * repeats)
            if painter == first:
                kept[name] = pictures
                rows[f"{first}, captions shuffled"] = judge(pictures, shuffled(prompts) * repeats)
            if painter == CEILING:
                rows[CHANCE] = judge(pictures, shuffled(prompts) * repeats)
        scores[name] = rows
    return SceneReport(scores, sets, resolution, seed, options, kept)


def judge(pictures: Sequence[Image.Image], prompts: Sequence[str]) -> Score:
    """The oracle's verdict. The interval is over prompts: pictures of the same prompt are averaged first.
    Errors as for `score_images`."""
    summary = score_images(pictures, prompts)
    return Score(
        overall=bootstrap(prompt_means([score.overall for score in summary.scores], prompts)),
        pictures=summary.total,
        unreadable=summary.unreadable,
        perfect=summary.perfect,
        binding=summary.binding,
        attributes=summary.attributes,
    )


def renders(resolution: int, lone_spread: float = 1.0) -> Painter:
    """A perfect painter: scenes that show what is asked, drawn by the renderer of the data, `resolution`
    pixels a side. It raises ValueError for prompts as `scene_for` does, and as `render` for the side."""

    def paint(prompts: Sequence[str], seed: int) -> list[Image.Image]:
        return [render(scene, size=resolution) for scene in scenes_of(prompts, seed, lone_spread)]

    return paint


def scenes_of(prompts: Sequence[str], seed: int, lone_spread: float = 1.0) -> list[Scene]:
    """The scenes that `renders` draws for prompts."""
    rngs = (np.random.default_rng((EVALUATION_STREAM, seed, n)) for n in range(len(prompts)))
    scenes = (scene_for(prompt, rng) for prompt, rng in zip(prompts, rngs, strict=True))
    return [gather_lone(scene, lone_spread) for scene in scenes]


def shuffled(prompts: Sequence[str]) -> list[str]:
    """The prompts in an order in which none keeps its place."""
    order = np.random.default_rng(EVALUATION_STREAM).permutation(len(prompts))
    other = [""] * len(prompts)
    for here, there in zip(order, np.roll(order, 1), strict=True):
        other[here] = prompts[there]
    return other
