"""How true a model's sentences about pictures are, by the oracle of scenes."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from PIL import Image

from impasto.data.scenes import (
    Reading,
    Requirement,
    Scene,
    parse_prompt,
    read_image,
    reading_of,
    score_reading,
)
from impasto.metrics.intervals import Estimate, bootstrap
from impasto.metrics.scenes import shuffled

Describer = Callable[[Sequence[Image.Image], str], list[str]]  # pictures and a language -> a sentence each


@dataclass(frozen=True)
class CaptionScore:
    """Sentences about real renders. `true`: the share in which everything said holds and nothing is left
    unsaid of what is counted; `exact`: the share that parses back to the scene (`is_exact`); `colours`,
    `shapes`: the share that names just the scene's; `overall`: the oracle's mean; `unread`: sentences outside
    the oracle's grammar, which count as false; `chance`, `chance_exact`: of the same sentences for other
    pictures."""

    true: Estimate
    exact: Estimate
    colours: Estimate
    shapes: Estimate
    overall: float
    chance: float
    chance_exact: float
    unread: int
    pictures: int


def is_true(text: str, picture: Image.Image) -> bool:
    """Whether the oracle understands a sentence and finds everything that it says in the picture."""
    return _score(_parsed(text), read_image(picture)) == 1.0


def is_exact(text: str, scene: Scene) -> bool:
    """Whether a sentence parses back to the scene: as many objects of each colour and shape, both said, and
    whatever else it says is so."""
    found = _parsed(text)
    return (
        found is not None
        and _named(found, "colour", "shape") == _shown(scene, "colour", "shape")
        and _score(found, reading_of(scene)) == 1.0
    )


def judge_captions(
    describe: Describer, scenes: Sequence[Scene], pictures: Sequence[Image.Image], language: str
) -> CaptionScore:
    """Let a model describe pictures of scenes in a language."""
    texts = describe(pictures, language)
    others, readings = shuffled(texts), [read_image(picture) for picture in pictures]
    parsed = [_parsed(text) for text in texts]
    found = [_score(one, reading) for one, reading in zip(parsed, readings, strict=True)]
    turned = [_score(_parsed(text), reading) for text, reading in zip(others, readings, strict=True)]
    return CaptionScore(
        true=_share(score == 1.0 for score in found),
        exact=_share(is_exact(text, scene) for text, scene in zip(texts, scenes, strict=True)),
        colours=_share(_names(one, scene, "colour") for one, scene in zip(parsed, scenes, strict=True)),
        shapes=_share(_names(one, scene, "shape") for one, scene in zip(parsed, scenes, strict=True)),
        overall=sum(score or 0.0 for score in found) / len(found),
        chance=sum(score == 1.0 for score in turned) / len(turned),
        chance_exact=sum(map(is_exact, others, scenes)) / len(others),
        unread=sum(one is None for one in parsed),
        pictures=len(pictures),
    )


def _share(holds: Iterable[bool]) -> Estimate:
    return bootstrap([float(one) for one in holds])


def _names(found: Requirement | None, scene: Scene, attribute: str) -> bool:
    return found is not None and _named(found, attribute) == _shown(scene, attribute)


def _named(found: Requirement, *attributes: str) -> Counter[tuple[str | None, ...]]:
    """How many objects a sentence names of each kind, told apart by the attributes."""
    counts = Counter[tuple[str | None, ...]]()
    for item in found.objects:
        counts[tuple(getattr(item, name) for name in attributes)] += item.count
    return counts


def _shown(scene: Scene, *attributes: str) -> Counter[tuple[str | None, ...]]:
    return Counter(tuple(getattr(item, name) for name in attributes) for item in scene.objects)


def _parsed(text: str) -> Requirement | None:
    try:
        return parse_prompt(text)
    except ValueError:
        return None


def _score(requirement: Requirement | None, reading: Reading) -> float | None:
    """The oracle's overall score of what was read for a sentence; None if it does not understand that."""
    return None if requirement is None else score_reading(reading, requirement).overall
