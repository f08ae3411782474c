"""Whether a model draws a scene as well when it is asked in another language, by the oracle of scenes.

Scenes are those of the evaluation's own stream. Of each the same facts are told in every language, and its
pictures are drawn with the same noise: what differs is the language alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from impasto.data.scene_source import SceneOptions, SceneSource
from impasto.data.scenes import LANGUAGES, Scene, gather_lone, score_images
from impasto.metrics.intervals import Estimate, bootstrap
from impasto.metrics.scenes import EVALUATION_STREAM, Painter, shuffled

ALIKE = 0.05  # a difference of scores that is taken for none (issue: by how much languages may differ)
ANY_SIDE = 64  # of pictures that are not drawn here


class Reader(Protocol):
    """A model that knows how likely a picture is after a prompt."""

    def likelihoods(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        """Natural logarithms, of each picture after its prompt."""
        ...


@dataclass(frozen=True)
class LanguageScore:
    """Pictures asked for in one language. `chance`: the same pictures against shuffled captions; `attributes`
    over those that captions state; `told`: by how many nats a real picture is likelier after its own caption
    than after another scene's in the same language, which is what the model reads out of the language (None
    for a model that knows no likelihoods)."""

    overall: Estimate
    chance: float
    attributes: dict[str, float]
    unreadable: int
    told: Estimate | None


@dataclass(frozen=True)
class Consistency:
    """Scores by language, and those of the first language minus the others', paired by scene."""

    scores: dict[str, LanguageScore]
    differences: dict[str, Estimate]
    told_differences: dict[str, Estimate]
    scenes: int
    texts: dict[str, list[str]]

    def verdict(self, language: str) -> str:
        """Whether the difference to a language lies within ALIKE, by its interval."""
        found = self.differences[language]
        if found.low >= -ALIKE and found.high <= ALIKE:
            return f"alike: within {ALIKE}"
        if found.low > ALIKE or found.high < -ALIKE:
            return f"different: by more than {ALIKE}"
        return f"not decided: the interval holds {ALIKE if found.high > ALIKE else -ALIKE}"


def scenes_in_languages(
    options: SceneOptions, count: int, split: str
) -> tuple[list[Scene], dict[str, list[str]]]:
    """`count` scenes of a split, and their captions by language."""
    source = SceneSource(ANY_SIDE, options, seed=EVALUATION_STREAM, split=split)
    asked = [source.in_languages(number) for number in range(count)]
    scenes = [gather_lone(scene, options.lone_spread) for scene, _ in asked]
    return scenes, {language: [texts[language] for _, texts in asked] for language in LANGUAGES}


def judge_languages(
    paint: Painter,
    texts: Mapping[str, Sequence[str]],
    *,
    seed: int = 0,
    reader: Reader | None = None,
    renders: Sequence[Image.Image] = (),
) -> Consistency:
    """Draw and score every caption of every language; `renders` of the scenes are what a `reader` reads."""
    first, *others = texts
    scores, overall, told = {}, {}, {}
    for language, prompts in texts.items():
        pictures = paint(prompts, seed)
        found = score_images(pictures, prompts)
        overall[language] = [score.overall for score in found.scores]
        if reader is not None:
            own, other = (reader.likelihoods(renders, asked) for asked in (prompts, shuffled(prompts)))
            told[language] = _differences(own, other)
        scores[language] = LanguageScore(
            overall=bootstrap(overall[language]),
            chance=score_images(pictures, shuffled(prompts)).overall,
            attributes=found.attributes,
            unreadable=found.unreadable,
            told=bootstrap(told[language]) if reader is not None else None,
        )
    return Consistency(
        scores=scores,
        differences={name: bootstrap(_differences(overall[first], overall[name])) for name in others},
        told_differences={name: bootstrap(_differences(told[first], told[name])) for name in others if told},
        scenes=len(texts[first]),
        texts={name: list(prompts) for name, prompts in texts.items()},
    )


def _differences(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(one, other, strict=True)]
