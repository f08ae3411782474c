"""The oracle: how much of what a prompt says can be seen in a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations

import numpy as np
from PIL import Image

from impasto.data.scenes.parsing import parse_prompt
from impasto.data.scenes.reading import Reading, SeenObject, read_image
from impasto.data.scenes.requirement import Described, Relation, Requirement

MOST_MATCHED = 6  # of the objects seen, only this many of the largest take part in the matching


@dataclass(frozen=True)
class SceneScore:
    """How a picture answers a prompt, each number in [0, 1].

    binding     fraction of the described objects (each of "three red circles" is one) that are matched by an
                object of their own with every attribute the prompt states: colour, shape, texture, size
    relations   fraction of the stated relations that hold between the objects matched; 1 if none is stated
    counts      fraction of the described kinds with exactly the stated number in the picture, times
                min(seen, asked) / max(seen, asked): extra objects and missing objects both cost
    background  whether the stated background is there; 1 if none is stated
    overall     (2 binding + counts + relations + background) / (number of terms), terms not stated left out;
                it is 1 exactly if everything stated holds and nothing else is there
    attributes  for each attribute the prompt states, the fraction of described objects that have it

    A picture that cannot be read has readable False and 0 everywhere.
    """

    readable: bool
    binding: float
    relations: float
    counts: float
    background: float
    overall: float
    relations_stated: int
    background_stated: bool
    attributes: dict[str, float]
    reason: str | None = None


def score_image(image: Image.Image, text: str) -> SceneScore:
    """Score a picture against a prompt in either language."""
    return score_reading(read_image(image), parse_prompt(text))


def score_reading(reading: Reading, requirement: Requirement) -> SceneScore:
    """Score what was seen against what was asked for."""
    stated = len(requirement.relations), requirement.background is not None
    if not reading.readable:
        nothing = {name: 0.0 for item in requirement.objects for name in item.stated()}
        return SceneScore(False, 0.0, 0.0, 0.0, 0.0, 0.0, *stated, nothing, reading.reason)
    match = _Match.best(reading, requirement)
    background = float(requirement.background in (None, reading.background))
    terms = [(2.0, match.binding()), (1.0, match.counts())]
    terms += [(1.0, match.relations())] if stated[0] else []
    terms += [(1.0, background)] if stated[1] else []
    overall = sum(weight * value for weight, value in terms) / sum(weight for weight, _ in terms)
    return SceneScore(
        True,
        match.binding(),
        match.relations(),
        match.counts(),
        background,
        overall,
        *stated,
        match.attributes(),
    )


def _has(seen: SeenObject, name: str, value: str) -> bool:
    return getattr(seen, name) == value


def _fits(
    seen: SeenObject, asked: Described, names: Sequence[str] = ("colour", "shape", "texture", "size")
) -> bool:
    """Whether an object has what is asked of the named attributes."""
    return all(_has(seen, name, value) for name, value in asked.stated().items() if name in names)


_KIND = ("colour", "shape")  # attributes that make an object the one that a count or a relation is about


def _holds(kind: str, reading: Reading, first: int, second: int) -> bool:
    """Whether a relation holds between two seen objects."""
    if kind == "touching":
        return (min(first, second), max(first, second)) in reading.touching
    if kind == "inside":
        return (first, second) in reading.inside
    if (first, second) in reading.inside or (second, first) in reading.inside:
        return False
    dx = reading.objects[first].x - reading.objects[second].x
    dy = reading.objects[first].y - reading.objects[second].y
    return (dx < 0 and -dx > abs(dy)) if kind == "left of" else (dy < 0 and -dy > abs(dx))


@dataclass(frozen=True)
class _Match:
    """Seen objects dealt out to the described ones: for each kind of the requirement the indices given to it.

    An index is None where too few objects were seen.
    """

    reading: Reading
    requirement: Requirement
    given: tuple[tuple[int | None, ...], ...]

    @classmethod
    def best(cls, reading: Reading, requirement: Requirement) -> _Match:
        """The deal that satisfies most described objects, then most relations, then most attributes."""
        by_size = sorted(range(len(reading.objects)), key=lambda index: -reading.objects[index].width)
        available: list[int | None] = list(by_size[:MOST_MATCHED])
        available += [None] * (requirement.total - len(available))
        deals = (cls(reading, requirement, given) for given in _deals(available, requirement))
        return max(deals, key=lambda deal: deal._merit())

    def _merit(self) -> tuple[float, float, float]:
        return self.binding(), self.relations(), sum(self.attributes().values())

    def _pairs(self) -> Iterator[tuple[Described, SeenObject | None]]:
        """Each described object with the seen one given to it."""
        for asked, indices in zip(self.requirement.objects, self.given, strict=True):
            for index in indices:
                yield asked, None if index is None else self.reading.objects[index]

    def binding(self) -> float:
        """Fraction of described objects that are matched in every stated attribute."""
        return (
            sum(seen is not None and _fits(seen, asked) for asked, seen in self._pairs())
            / self.requirement.total
        )

    def attributes(self) -> dict[str, float]:
        """For each stated attribute, the fraction of described objects that have it."""
        found: dict[str, list[bool]] = {}
        for asked, seen in self._pairs():
            for name, value in asked.stated().items():
                found.setdefault(name, []).append(seen is not None and _has(seen, name, value))
        return {name: sum(values) / len(values) for name, values in found.items()}

    def relations(self) -> float:
        """Fraction of the stated relations that hold between objects of the right kind, or 1."""
        stated = self.requirement.relations
        return sum(self._relation_holds(relation) for relation in stated) / len(stated) if stated else 1.0

    def _relation_holds(self, relation: Relation) -> bool:
        subjects, others = self.given[relation.subject], self.given[relation.object]
        for kind, indices in ((relation.subject, subjects), (relation.object, others)):
            for index in indices:
                if index is None or not _fits(
                    self.reading.objects[index], self.requirement.objects[kind], _KIND
                ):
                    return False
        return all(
            _holds(relation.kind, self.reading, one, other)
            for one in subjects
            for other in others
            if one is not None and other is not None
        )

    def counts(self) -> float:
        """Fraction of kinds present in exactly the stated number, times how well the total agrees."""
        dealt = {index for indices in self.given for index in indices}
        spare = [item for index, item in enumerate(self.reading.objects) if index not in dealt]
        exact = 0
        for asked, indices in zip(self.requirement.objects, self.given, strict=True):
            candidates = [self.reading.objects[index] for index in indices if index is not None] + spare
            exact += sum(_fits(item, asked, _KIND) for item in candidates) == asked.count
        seen, total = len(self.reading.objects), self.requirement.total
        return exact / len(self.requirement.objects) * min(seen, total) / max(seen, total)


def _deals(
    available: Sequence[int | None], requirement: Requirement
) -> Iterator[tuple[tuple[int | None, ...], ...]]:
    """Every way to give available objects to the described ones, cut up by kind."""
    bounds = np.cumsum([0, *(item.count for item in requirement.objects)]).tolist()
    for dealt in permutations(available, requirement.total):
        yield tuple(dealt[start:end] for start, end in pairwise(bounds))


@dataclass(frozen=True)
class ScoreSummary:
    """Means over many pictures. Unreadable ones are counted, and count as 0 in every mean.

    ``relations`` and ``background`` are over the prompts that state one (nan if none does); ``perfect`` is
    the fraction of pictures whose overall score is 1.
    """

    total: int
    unreadable: int
    binding: float
    relations: float
    counts: float
    background: float
    overall: float
    perfect: float
    attributes: dict[str, float]
    scores: tuple[SceneScore, ...]


def score_images(images: Sequence[Image.Image], texts: Sequence[str]) -> ScoreSummary:
    """Score each picture against its prompt, and sum up. ValueError unless there are as many of each, and at
    least one."""
    if len(images) != len(texts) or not images:
        raise ValueError(
            f"{len(images)} pictures and {len(texts)} prompts: give as many of each, and at least one"
        )
    scores = tuple(score_image(image, text) for image, text in zip(images, texts, strict=True))

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values) if values else float("nan")

    names = sorted({name for score in scores for name in score.attributes})
    return ScoreSummary(
        total=len(scores),
        unreadable=sum(not score.readable for score in scores),
        binding=mean([score.binding for score in scores]),
        relations=mean([score.relations for score in scores if score.relations_stated]),
        counts=mean([score.counts for score in scores]),
        background=mean([score.background for score in scores if score.background_stated]),
        overall=mean([score.overall for score in scores]),
        perfect=mean([float(score.overall == 1) for score in scores]),
        attributes={
            name: mean([s.attributes[name] for s in scores if name in s.attributes]) for name in names
        },
        scores=scores,
    )
