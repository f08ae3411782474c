"""How true a model's sentences about pictures are, by the oracle of scenes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from impasto.data.scenes import Reading, parse_prompt, read_image, score_reading
from impasto.metrics.intervals import Estimate, bootstrap
from impasto.metrics.scenes import Painter, shuffled

Describer = Callable[[Sequence[Image.Image], str], list[str]]  # pictures and a language -> a sentence each


@dataclass(frozen=True)
class CaptionScore:
    """Sentences about real renders. `true`: the share in which everything said holds and nothing is left
    unsaid of what is counted (the oracle's exact match); `overall`: the oracle's mean; `unread`: sentences
    outside the oracle's grammar, which count as false; `chance`: `true` of the same sentences for other
    pictures."""

    true: Estimate
    overall: float
    chance: float
    unread: int
    pictures: int


def is_true(text: str, picture: Image.Image) -> bool:
    """Whether the oracle understands a sentence and finds everything that it says in the picture."""
    return _score(text, read_image(picture)) == 1.0


def _score(text: str, reading: Reading) -> float | None:
    """The oracle's overall score of what was read for a sentence; None if it does not understand that."""
    try:
        return score_reading(reading, parse_prompt(text)).overall
    except ValueError:
        return None


def judge_captions(
    describe: Describer, prompts: Sequence[str], language: str, *, painter: Painter, seed: int
) -> CaptionScore:
    """Let a model describe the pictures that a perfect painter makes for prompts, in a language."""
    pictures = painter(prompts, seed)
    texts = describe(pictures, language)
    readings = [read_image(picture) for picture in pictures]
    found = [_score(text, reading) for text, reading in zip(texts, readings, strict=True)]
    others = [_score(text, reading) == 1.0 for text, reading in zip(shuffled(texts), readings, strict=True)]
    return CaptionScore(
        true=bootstrap([float(score == 1.0) for score in found]),
        overall=sum(score or 0.0 for score in found) / len(found),
        chance=sum(others) / len(others),
        unread=sum(score is None for score in found),
        pictures=len(pictures),
    )
