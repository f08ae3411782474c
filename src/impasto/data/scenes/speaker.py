"""What saying a caption has in common in both languages: choosing forms, and the plan of a caption."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from impasto.data.scenes.requirement import Described, Relation, Requirement

USUAL = 0.7  # chance that the first form of a word is taken; the others share the rest
Option = TypeVar("Option")


class Speaker:
    """Says requirements. A caption opens with one relation and adds the rest, or lists all objects first."""

    def __init__(self, rng: np.random.Generator, shape_led: float) -> None:
        self.rng = rng
        self.shape_led = shape_led

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return bool(self.rng.random() < probability)

    def pick(self, options: Sequence[Option]) -> Option:
        """One of the options, each as likely."""
        return options[int(self.rng.random() * len(options))]

    def form(self, forms: Sequence[Option]) -> Option:
        """The usual form mostly, another one otherwise."""
        return forms[0] if len(forms) == 1 or self.chance(USUAL) else self.pick(forms[1:])

    def shuffled(self, items: Sequence[Option]) -> list[Option]:
        """The items in a random order."""
        return [items[int(index)] for index in self.rng.permutation(len(items))]

    def turned(self, relation: Relation) -> tuple[str, int, int]:
        """The relation, or the same fact seen from the other object: (word, subject, object)."""
        word, subject, other = relation.kind, relation.subject, relation.object
        opposite = {"left of": "right of", "above": "below", "touching": "touching"}.get(word)
        if opposite is not None and self.chance(0.5):
            return opposite, other, subject
        return word, subject, other

    def say(self, requirement: Requirement) -> str:
        """The whole caption."""
        relations = self.shuffled(requirement.relations)
        everything = self.shuffled(range(len(requirement.objects)))
        sentences: list[str] = []
        if relations and (len(everything) == 2 or self.chance(0.5)):
            first = relations.pop()
            word, subject, other = self.turned(first)
            sentences.append(
                self.opening_relation(word, requirement.objects[subject], requirement.objects[other])
            )
            rest = [index for index in everything if index not in (subject, other)]
            if rest:
                sentences.append(self.addition([requirement.objects[index] for index in rest]))
        else:
            sentences += self.listing([requirement.objects[index] for index in everything], not relations)
        if requirement.background is not None:
            sentences = self.with_background(sentences, requirement.background)
        for relation in relations:
            word, subject, other = self.turned(relation)
            sentences.append(
                self.later_relation(word, requirement.objects[subject], requirement.objects[other])
            )
        return self.joined(sentences)

    def opening_relation(self, word: str, subject: Described, other: Described) -> str:
        """Introduce two objects by the relation between them."""
        raise NotImplementedError

    def later_relation(self, word: str, subject: Described, other: Described) -> str:
        """Relate two objects that have been introduced."""
        raise NotImplementedError

    def addition(self, items: Sequence[Described]) -> str:
        """Add objects after a first sentence."""
        raise NotImplementedError

    def listing(self, items: Sequence[Described], alone: bool) -> list[str]:
        """Introduce all objects in one sentence, or two; ``alone`` if nothing but a background follows."""
        raise NotImplementedError

    def with_background(self, sentences: list[str], background: str) -> list[str]:
        """State the background in or after the first sentence."""
        raise NotImplementedError

    def joined(self, sentences: list[str]) -> str:
        """Punctuate."""
        raise NotImplementedError


def enumerated(names: Sequence[str], last: str, between: str = ", ") -> str:
    """A list in words, with ``last`` before its last item."""
    return names[0] if len(names) == 1 else between.join(names[:-1]) + last + names[-1]
