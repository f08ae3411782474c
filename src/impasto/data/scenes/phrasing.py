"""Captions: say what a scene shows, in English or Chinese, with synonyms and varied word order."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np

from impasto.data.scenes.chinese import ChineseSpeaker
from impasto.data.scenes.contrast import contrast
from impasto.data.scenes.english import EnglishSpeaker
from impasto.data.scenes.requirement import Requirement, describe
from impasto.data.scenes.world import LANGUAGES, Scene


def caption(scene: Scene, rng: np.random.Generator, language: str = "en") -> str:
    """A true caption in English ("en") or Chinese ("zh"), its facts chosen after the scene's category.
    ValueError for another language."""
    return phrase(describe(scene, rng), rng, language, _shape_led(scene))


def caption_in_languages(
    scene: Scene, rng: np.random.Generator, languages: Sequence[str] = LANGUAGES
) -> dict[str, str]:
    """A true caption in each language, all of the same facts."""
    requirement, wording = describe(scene, rng), rng.spawn(len(languages))
    return {
        language: phrase(requirement, own, language, _shape_led(scene))
        for language, own in zip(languages, wording, strict=True)
    }


def caption_and_contrast(
    scene: Scene, rng: np.random.Generator, language: str = "en"
) -> tuple[str, str | None]:
    """The caption that `caption` gives, and one in the same words that is wrong by one fact (see `contrast`;
    None where there is none)."""
    requirement = describe(scene, rng)
    changing, wording = rng.spawn(1)[0], copy.deepcopy(rng)
    text = phrase(requirement, rng, language, _shape_led(scene))
    changed = contrast(scene, requirement, changing)
    return text, None if changed is None else phrase(changed, wording, language, _shape_led(scene))


def _shape_led(scene: Scene) -> float:
    return 0.5 if scene.category == "shape" else 0.08


def phrase(
    requirement: Requirement, rng: np.random.Generator, language: str = "en", shape_led: float = 0.08
) -> str:
    """Say exactly the facts of a requirement.

    ``shape_led`` is the chance that an object's shape is said as an adjective ("a heart-shaped red object").
    ValueError for a language that is not one of LANGUAGES.
    """
    if language not in LANGUAGES:
        raise ValueError(f"no language called {language!r}: choose from {', '.join(LANGUAGES)}")
    speaker = EnglishSpeaker(rng, shape_led) if language == "en" else ChineseSpeaker(rng, shape_led)
    return speaker.say(requirement)
