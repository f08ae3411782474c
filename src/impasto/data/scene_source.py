"""Scenes as training data: an endless order of pictures and captions in which every position can be computed
on its own, so that a run resumes anywhere and any number of ranks can share it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from impasto.config import ConfigError
from impasto.data.scenes import Scene, caption, caption_and_contrast, render, sample_scene


@dataclass(frozen=True, kw_only=True)
class SceneOptions:
    """Which scenes. `languages` are drawn with equal chance; `categories` None: all six. `near_misses` is the
    share of samples that come with a caption wrong by one fact, for the matching loss (ours)."""

    max_objects: int = 4
    textures: bool = True
    languages: tuple[str, ...] = ("en",)
    categories: tuple[str, ...] | None = None
    near_misses: float = 0.0

    def __post_init__(self) -> None:
        if not self.languages or not set(self.languages) <= {"en", "zh"}:
            raise ConfigError(f"data.languages={self.languages} should name en, zh or both")
        if not 0 <= self.near_misses <= 1:
            raise ConfigError(f"data.near_misses={self.near_misses} should be a share, from 0 to 1")


class SceneSource:
    """Scene n of a split is a function of (seed, split, n) alone."""

    def __init__(self, resolution: int, options: SceneOptions, *, seed: int = 0, split: str = "train"):
        self.resolution, self.options, self.split = resolution, options, split
        self._stream = (seed, 0 if split == "train" else 1)

    def batch(self, positions: Sequence[int]) -> tuple[Tensor, list[str]]:
        """Pictures [len, 3, R, R] in [-1, 1] and one caption each."""
        pairs = [self.sample(position) for position in positions]
        pixels = np.stack([pixels for pixels, _ in pairs])
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
        return images.contiguous(), [text for _, text in pairs]

    def sample(self, position: int) -> tuple[np.ndarray, str]:
        """Picture [R, R, 3] of 8-bit values and its caption."""
        scene, language, rng = self._scene(position)
        text = caption(scene, rng, language=language)
        return np.asarray(render(scene, size=self.resolution)), text

    def near_misses(self, positions: Sequence[int]) -> list[str | None]:
        """For `options.near_misses` of the positions, the sample's caption with one fact changed."""
        return [self._near_miss(position) for position in positions]

    def _near_miss(self, position: int) -> str | None:
        wanted = np.random.default_rng((*self._stream, position, 1)).random() < self.options.near_misses
        if not wanted:
            return None
        scene, language, rng = self._scene(position)
        return caption_and_contrast(scene, rng, language)[1]

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
        return scene, options.languages[int(rng.integers(len(options.languages)))], rng

    def captions(self, count: int, start: int = 0) -> list[str]:
        """Captions of positions start, start + 1, ..."""
        return [self.sample(position)[1] for position in range(start, start + count)]
