"""Captions: say what a scene shows, in English or Chinese, with synonyms and varied word order."""

from __future__ import annotations

import numpy as np

from impasto.data.scenes.chinese import ChineseSpeaker
from impasto.data.scenes.english import EnglishSpeaker
from impasto.data.scenes.requirement import Requirement, describe
from impasto.data.scenes.world import LANGUAGES, Scene


def caption(scene: Scene, rng: np.random.Generator, language: str = "en") -> str:
    """A true caption in English ("en") or Chinese ("zh"), its facts chosen after the scene's category."""
    shape_led = 0.5 if scene.category == "shape" else 0.08
    return phrase(describe(scene, rng), rng, language, shape_led)


def phrase(
    requirement: Requirement, rng: np.random.Generator, language: str = "en", shape_led: float = 0.08
) -> str:
    """Say exactly the facts of a requirement.

    ``shape_led`` is the chance that an object's shape is said as an adjective ("a heart-shaped red object").
    """
    if language not in LANGUAGES:
        raise ValueError(f"no language called {language!r}: choose from {', '.join(LANGUAGES)}")
    speaker = EnglishSpeaker(rng, shape_led) if language == "en" else ChineseSpeaker(rng, shape_led)
    return speaker.say(requirement)
