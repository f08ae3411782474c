"""How true a model's sentences about pictures are, by the oracle of scenes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from impasto.data.scenes import parse_prompt, read_image, score_reading
from impasto.metrics.intervals import Estimate, bootstrap
from impasto.metrics.scenes import renders, shuffled

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
    return oracle(text, picture) == 1.0


def oracle(text: str, picture: Image.Image) -> float | None:
    """The oracle's overall score of a picture for a sentence; None if it does not understand the sentence."""
    try:
        requirement = parse_prompt(text)
    except ValueError:
        return None
    return score_reading(read_image(picture), requirement).overall


def judge_captions(
    describe: Describer, prompts: Sequence[str], language: str, *, resolution: int, seed: int
) -> CaptionScore:
    """Let a model describe renders of the prompts' scenes, in a language."""
    pictures = renders(resolution)(prompts, seed)
    texts = describe(pictures, language)
    found = [oracle(text, picture) for text, picture in zip(texts, pictures, strict=True)]
    others = [is_true(text, picture) for text, picture in zip(shuffled(texts), pictures, strict=True)]
    return CaptionScore(
        true=bootstrap([float(score == 1.0) for score in found]),
        overall=sum(score or 0.0 for score in found) / len(found),
        chance=sum(others) / len(others),
        unread=sum(score is None for score in found),
        pictures=len(pictures),
    )
