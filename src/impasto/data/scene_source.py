"""Scenes as training data: an endless order of pictures and captions in which every position can be computed
on its own, so that a run resumes anywhere and any number of ranks can share it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from impasto.config import ConfigError
from impasto.data.scenes import (
    SPLITS,
    Scene,
    caption,
    caption_and_contrast,
    caption_in_languages,
    gather_lone,
    parse_prompt,
    realise,
    render,
    sample_scene,
)

_KEPT = 256  # captions
_TRIES = 20  # a caption without colour or shape leaves open a pair that may belong to the other split


@dataclass(frozen=True, kw_only=True)
class SceneOptions:
    """Which scenes. `languages` of captions: names, drawn with equal chance, or a weight for each name;
    `categories` None: all six. `near_misses` is the share of samples that come with a caption wrong by one
    fact, for the matching loss (ours). So many consecutive positions as `pictures_per_caption` are different
    pictures of one caption. `lone_spread` is how far from the middle an object that is alone stands: 1
    anywhere, 0 in the middle. ConfigError for a value out of range."""

    max_objects: int = 4
    textures: bool = True
    languages: tuple[str, ...] | dict[str, float] = ("en",)
    categories: tuple[str, ...] | None = None
    near_misses: float = 0.0
    pictures_per_caption: int = 1
    lone_spread: float = 1.0

    def __post_init__(self) -> None:
        if not self.languages or not set(self.languages) <= {"en", "zh"}:
            raise ConfigError(f"data.languages={self.languages} should name en, zh or both")
        if isinstance(self.languages, dict) and not 0 < min(self.languages.values()) < float("inf"):
            raise ConfigError(f"data.languages={self.languages} should be weights above 0")
        if not 0 <= self.near_misses <= 1:
            raise ConfigError(f"data.near_misses={self.near_misses} should be a share, from 0 to 1")
        if not 0 <= self.lone_spread <= 1:
            raise ConfigError(f"data.lone_spread={self.lone_spread} should be a share, from 0 to 1")
        if self.pictures_per_caption < 1:
            raise ConfigError(f"data.pictures_per_caption={self.pictures_per_caption} should be at least 1")


class SceneSource:
    """Scene n of a split is a function of (seed, split, n) alone."""

    def __init__(self, resolution: int, options: SceneOptions, *, seed: int = 0, split: str = "train"):
        self.resolution, self.options, self.split = resolution, options, split
        self._stream: tuple[int, ...] = (seed, SPLITS.index(split))
        self._recent: dict[int, tuple[Scene, str, str | None]] = {}

    def batch(self, positions: Sequence[int]) -> tuple[Tensor, list[str]]:
        """Pictures [len, 3, R, R] in [-1, 1] and one caption each."""
        pairs = [self.sample(position) for position in positions]
        pixels = np.stack([pixels for pixels, _ in pairs])
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
        return images.contiguous(), [text for _, text in pairs]

    def sample(self, position: int) -> tuple[np.ndarray, str]:
        """Picture [R, R, 3] of 8-bit values and its caption."""
        scene, text, _ = self._told(position)
        if position % self.options.pictures_per_caption:
            scene = self._another(scene, text, position)
        return np.asarray(render(gather_lone(scene, self.options.lone_spread), size=self.resolution)), text

    def samples(self, positions: Sequence[int]) -> list[int]:
        """Which pictures stand at the positions: no two are the same."""
        return list(positions)

    def near_misses(self, positions: Sequence[int]) -> list[str | None]:
        """For `options.near_misses` of the captions, the caption with one fact changed."""
        return [self._told(position)[2] for position in positions]

    def _told(self, position: int) -> tuple[Scene, str, str | None]:
        """The scene that the caption at a position was made for, the caption, its near miss. The last ones
        are kept: a step asks twice, and so do pictures of one caption."""
        first = position - position % self.options.pictures_per_caption
        if first not in self._recent:
            if len(self._recent) >= _KEPT:
                self._recent.clear()
            self._recent[first] = self._tell(first)
        return self._recent[first]

    def _tell(self, position: int) -> tuple[Scene, str, str | None]:
        scene, language, rng = self._scene(position)
        wanted = np.random.default_rng((*self._stream, position, 1)).random() < self.options.near_misses
        if wanted:
            return (scene, *caption_and_contrast(scene, rng, language))
        return scene, caption(scene, rng, language), None

    def _another(self, scene: Scene, text: str, position: int) -> Scene:
        """Another scene that the caption of `scene` tells of, of the same split; `scene` itself in the rare
        case that none is found."""
        rng = np.random.default_rng((*self._stream, position, 2))
        requirement = parse_prompt(text)
        for _ in range(_TRIES):
            try:
                other = realise(requirement, rng)
            except ValueError:  # it found no room
                return scene
            if other.is_held_out == scene.is_held_out:
                return other
        return scene

    def _scene(self, position: int) -> tuple[Scene, str, np.random.Generator]:
        """The scene at a position, the language of its caption, and the generator that words it."""
        rng = np.random.default_rng((*self._stream, position))
        options = self.options
        scene = sample_scene(
            rng,
            split=self.split,
            category=options.categories,
            max_objects=options.max_objects,
            textures=options.textures,
        )
        return scene, drawn_language(options.languages, rng), rng

    def phrasings(self, position: int, count: int) -> list[str]:
        """`count` captions of the scene at a position, each in a language drawn for itself, without drawing
        the picture."""
        scene = self._scene(position)[0]
        rngs = (np.random.default_rng((*self._stream, position, number)) for number in range(count))
        return [caption(scene, rng, language=self._language(position, rng)) for rng in rngs]

    def in_languages(self, position: int) -> tuple[Scene, dict[str, str]]:
        """The scene at a position, and the same facts of it told in every language."""
        scene, _, rng = self._scene(position)
        return scene, caption_in_languages(scene, rng)

    def _language(self, position: int, rng: np.random.Generator) -> str:
        """Of one phrasing of the scene at a position."""
        return drawn_language(self.options.languages, rng)

    def captions(self, count: int, start: int = 0) -> list[str]:
        """What is told of scenes start, start + 1, ...: one caption each, whatever `pictures_per_caption`."""
        return [self._tell(number)[1] for number in range(start, start + count)]


def drawn_language(languages: Sequence[str] | Mapping[str, float], rng: np.random.Generator) -> str:
    """One of the languages of captions: of names with equal chance, of weighted ones by weight."""
    if not isinstance(languages, Mapping):
        return languages[int(rng.integers(len(languages)))]
    names, weights = list(languages), np.array(list(languages.values()))
    return names[int(rng.choice(len(names), p=weights / weights.sum()))]
