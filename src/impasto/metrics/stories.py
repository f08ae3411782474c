"""How well the pictures of a story show the sentences before them, by the oracle of scenes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from impasto.data.scenes import Reading, parse_prompt, read_image, score_reading
from impasto.data.stories import goes_on
from impasto.metrics.intervals import Estimate, bootstrap, wilson


@dataclass(frozen=True)
class Told:
    """A story as it was written: texts and pictures in order; ended: by the model, not by a limit."""

    parts: Sequence[str | Image.Image]
    ended: bool

    @property
    def pairs(self) -> list[tuple[str, Image.Image]]:
        """Each picture with the text right before it, "" where there is none."""
        found, text = [], ""
        for part in self.parts:
            if isinstance(part, str):
                text = part
            else:
                found.append((text, part))
                text = ""
        return found


@dataclass(frozen=True)
class StoryScore:
    """Pictures against sentences; intervals are over stories, whose pictures are averaged first.

    match: the oracle's overall score of a picture against its own sentence; shuffled: against the sentence
    at the same place of another story; difference: the two paired; first, later: `match` of first pictures,
    whose sentence was given, and of the others, whose sentence the model wrote. A sentence that the oracle
    does not understand scores 0 and is counted in `unread`. ended: the share that the model ended itself;
    goes_on: the share of sentences that keep a colour or a shape of the one before and change the other, of
    those where both sentences state both; with the same of shuffled stories beside it.
    """

    match: Estimate
    shuffled: Estimate
    difference: Estimate
    first: Estimate
    later: Estimate | None
    goes_on: Estimate | None
    goes_on_shuffled: Estimate | None
    ended: Estimate
    stories: int
    pictures: int
    unread: int
    unreadable: int
    without_picture: int


def judge_stories(stories: Sequence[Told]) -> StoryScore:
    """Raises ValueError for fewer than two stories with pictures: there is nothing to shuffle."""
    told = [story.pairs for story in stories if story.pairs]
    if len(told) < 2:
        raise ValueError(f"{len(told)} of {len(stories)} stories have pictures; two are needed to compare")
    readings = [[read_image(picture) for _, picture in pairs] for pairs in told]
    texts = [[text for text, _ in pairs] for pairs in told]
    others = [*texts[1:], texts[0]]
    own = [_scores(seen, said) for seen, said in zip(readings, texts, strict=True)]
    control = [_scores(seen, _as_many(said, len(seen))) for seen, said in zip(readings, others, strict=True)]
    means, control_means = ([_mean(row) for row in rows] for rows in (own, control))
    later = [_mean(row[1:]) for row in own if len(row) > 1]
    steps, mixed = _steps(texts, texts), _steps(texts, others)
    return StoryScore(
        match=bootstrap(means),
        shuffled=bootstrap(control_means),
        difference=bootstrap([a - b for a, b in zip(means, control_means, strict=True)]),
        first=bootstrap([row[0] for row in own]),
        later=bootstrap(later) if later else None,
        goes_on=wilson(sum(steps), len(steps)) if steps else None,
        goes_on_shuffled=wilson(sum(mixed), len(mixed)) if mixed else None,
        ended=wilson(sum(story.ended for story in stories), len(stories)),
        stories=len(stories),
        pictures=sum(map(len, readings)),
        unread=sum(_parsed(text) is None for row in texts for text in row),
        unreadable=sum(not reading.readable for row in readings for reading in row),
        without_picture=len(stories) - len(told),
    )


def _scores(readings: Sequence[Reading], texts: Sequence[str]) -> list[float]:
    found = []
    for reading, text in zip(readings, texts, strict=True):
        requirement = _parsed(text)
        found.append(0.0 if requirement is None else score_reading(reading, requirement).overall)
    return found


def _steps(before: Sequence[Sequence[str]], after: Sequence[Sequence[str]]) -> list[bool]:
    """Of each sentence after the first of its story: whether it goes on from the one before."""
    found = []
    for first, second in zip(before, after, strict=True):
        for text, following in zip(first, second[1:], strict=False):
            pair = _parsed(text), _parsed(following)
            if _states_both(pair[0]) and _states_both(pair[1]):
                found.append(goes_on(*pair))
    return found


def _states_both(requirement: Any) -> bool:
    return requirement is not None and any(item.colour and item.shape for item in requirement.objects)


def _parsed(text: str) -> Any:
    try:
        return parse_prompt(text)
    except ValueError:
        return None


def _as_many(texts: Sequence[str], count: int) -> list[str]:
    return [texts[index % len(texts)] for index in range(count)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
