"""Stories: documents of sentences with a picture after each, made of scenes that follow one another.

A story is told in one language, before one background. From picture to picture one object keeps its colour
or its shape, and the rest changes: the sentence to come depends on what came before, and whether it does can
be checked. The pictures of all stories stand in one endless order, picture p being number p % `pictures` of
story p // `pictures`.
"""

from itertools import product

import numpy as np

from impasto.data.scene_source import SceneOptions, SceneSource, drawn_language
from impasto.data.scenes import Requirement, Scene, sample_scene

STORY_STREAM = 0x57081  # beside a run's seed: no story is made of the scenes that other runs are shown
_TRIES = 100


class StorySource(SceneSource):
    """Story n of a split is a function of (seed, split, n) alone. "train" stories hold no held-out pair of
    colour and shape; "heldout" ones begin with such a pair and go on with any."""

    def __init__(
        self, resolution: int, options: SceneOptions, *, seed: int = 0, split: str = "train", pictures: int
    ):
        super().__init__(resolution, options, seed=seed, split=split)
        self.pictures = pictures
        self._stream = (*self._stream, STORY_STREAM)
        self._story: tuple[int, list[Scene], str] = (-1, [], "")

    def scenes(self, story: int) -> list[Scene]:
        """What the pictures of a story show."""
        return self._told_story(story)[0]

    def sentences(self, story: int) -> list[str]:
        """A sentence for each picture of a story."""
        return self.captions(self.pictures, story * self.pictures)

    def _scene(self, position: int) -> tuple[Scene, str, np.random.Generator]:
        story, place = divmod(position, self.pictures)
        scenes, language = self._told_story(story)
        return scenes[place], language, np.random.default_rng((*self._stream, position, 0))

    def _language(self, position: int, rng: np.random.Generator) -> str:
        return self._told_story(position // self.pictures)[1]

    def _told_story(self, story: int) -> tuple[list[Scene], str]:
        if self._story[0] != story:
            rng = np.random.default_rng((*self._stream, story))
            language = drawn_language(self.options.languages, rng)
            scenes = [self._first(rng)]
            while len(scenes) < self.pictures:
                scenes.append(self._next(scenes[-1], rng))
            self._story = story, scenes, language
        return self._story[1], self._story[2]

    def _first(self, rng: np.random.Generator) -> Scene:
        return self._sample(rng, self.split)

    def _next(self, before: Scene, rng: np.random.Generator) -> Scene:
        """A scene before the same background that keeps a colour or a shape of the one before."""
        split = "train" if self.split == "train" else "any"
        for _ in range(_TRIES):
            scene = self._sample(rng, split, backgrounds=(before.background,))
            if _goes_on(before.pairs, scene.pairs):
                break
        return scene

    def _sample(self, rng: np.random.Generator, split: str, **narrower: tuple[str, ...]) -> Scene:
        options = self.options
        return sample_scene(
            rng,
            split=split,
            category=options.categories,
            max_objects=options.max_objects,
            textures=options.textures,
            **narrower,
        )


def goes_on(before: Requirement, after: Requirement) -> bool:
    """Whether what one sentence states keeps a colour or a shape of what the one before states, and changes
    the other. What is not stated is neither kept nor changed."""
    pairs = [{(o.colour, o.shape) for o in one.objects if o.colour and o.shape} for one in (before, after)]
    return _goes_on(*pairs)


def _goes_on(before: set | frozenset, after: set | frozenset) -> bool:
    """Pairs of colour and shape."""
    return any((a[0] == b[0]) != (a[1] == b[1]) for a, b in product(before, after))
