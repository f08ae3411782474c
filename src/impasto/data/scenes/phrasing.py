"""The grammar: say a requirement in English or Chinese, with synonyms and varied word order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from impasto.data.scenes import words
from impasto.data.scenes.requirement import Described, Relation, Requirement, describe
from impasto.data.scenes.world import LANGUAGES, Scene

USUAL = 0.7  # chance that the first form of a word is taken; the others share the rest
Option = TypeVar("Option")


def caption(scene: Scene, rng: np.random.Generator, language: str = "en") -> str:
    """A true caption of the scene, its facts chosen after the scene's category; ``language`` is "en" or "zh"."""
    shape_led = 0.5 if scene.category == "shape" else 0.08
    return phrase(describe(scene, rng), rng, language, shape_led)


def phrase(requirement: Requirement, rng: np.random.Generator, language: str = "en", shape_led: float = 0.08) -> str:
    """Say exactly the facts of a requirement.

    ``shape_led`` is the chance that an object's shape is said as an adjective ("a heart-shaped red object").
    """
    if language not in LANGUAGES:
        raise ValueError(f"no language called {language!r}: choose from {', '.join(LANGUAGES)}")
    speaker = English(rng, shape_led) if language == "en" else Chinese(rng, shape_led)
    return speaker.say(requirement)


class Speaker:
    """What the two languages share: choosing forms, and the plan of a caption.

    A caption either opens with one relation and then adds the rest, or lists all objects and then relates them.
    """

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
            sentences.append(self.opening_relation(word, requirement.objects[subject], requirement.objects[other]))
            rest = [index for index in everything if index not in (subject, other)]
            if rest:
                sentences.append(self.addition([requirement.objects[index] for index in rest]))
        else:
            sentences += self.listing([requirement.objects[index] for index in everything], not relations)
        if requirement.background is not None:
            sentences = self.with_background(sentences, requirement.background)
        for relation in relations:
            word, subject, other = self.turned(relation)
            sentences.append(self.later_relation(word, requirement.objects[subject], requirement.objects[other]))
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


class English(Speaker):
    """Captions in English."""

    def name(self, item: Described, definite: bool = False) -> str:
        """A noun phrase: "two small striped red circles", "the heart-shaped object with dots"."""
        many = int(item.count > 1)
        size = [self.form(words.ENGLISH_SIZES[item.size])] if item.size else []
        colour = [self.form(words.ENGLISH_COLOURS[item.colour])] if item.colour else []
        texture, ending = [], ""
        if item.texture:
            if self.chance(0.25):
                ending = " " + self.form(words.ENGLISH_TEXTURE_ENDINGS[item.texture])
            else:
                texture = [self.form(words.ENGLISH_TEXTURES[item.texture])]
        looks = [*texture, *colour] if self.chance(0.7) else [*colour, *texture]
        noun, shape = self._noun(item.shape, many)
        if colour and item.texture is None and not shape and " " not in noun and self.chance(0.05):
            looks, ending = [], f" in {colour[0]}"
        adjectives = [*size, *looks, *shape] if self.chance(0.7) else [*size, *shape, *looks]
        core = " ".join([*adjectives, noun]) + ending
        if definite:
            return f"the {core}"
        if many:
            return f"{self.form(words.ENGLISH_NUMBERS[item.count])} {core}"
        return f"{article(core)} {core}" if self.chance(0.93) else f"one {core}"

    def _noun(self, shape: str | None, many: int) -> tuple[str, list[str]]:
        """The noun, and the shape as an adjective where the noun does not say it."""
        if shape is None:
            return self.pick(words.ENGLISH_OBJECTS)[many], []
        if not self.chance(self.shape_led):
            return self.form(words.ENGLISH_SHAPES[shape])[many], []
        noun = self.pick(words.ENGLISH_OBJECTS)[many]
        if self.chance(0.4):
            named = words.ENGLISH_SHAPES[shape][0]
            return f"{noun} shaped like {named[1] if many else 'a ' + named[0]}", []
        return noun, [self.form(words.ENGLISH_SHAPE_ADJECTIVES[shape])]

    def reference(self, item: Described) -> str:
        """A definite phrase for an object named before: its size, colour and shape."""
        return self.name(Described(1, item.colour, item.shape, None, item.size if self.chance(0.3) else None), True)

    def listed(self, items: Sequence[Described]) -> str:
        """A, B and C."""
        names = [self.name(item) for item in items]
        return enumerated(names, self.form((" and ", ", and ", " together with ", " as well as ")))

    def opening_relation(self, word: str, subject: Described, other: Described) -> str:
        a, b = self.name(subject), self.name(other)
        aside = self.form(words.ENGLISH_ASIDES[word])
        fragments = [f"{a} {self.form(words.ENGLISH_RELATIONS[word])} {b}"] * 3
        if " with" not in b:
            fragments.append(f"{b} with {a} {aside}")
        if word == "inside":
            fragments += [f"{b} {self.form(words.ENGLISH_HOLDS)} {a}"] * 2
        if word == "touching":
            fragments += [f"{a} and {b} {self.form(words.ENGLISH_MUTUAL)}"]
        opening = self.chance(0.4)
        if opening:
            return f"{self.pick((*words.ENGLISH_OPENINGS, 'there is'))} {self.pick(fragments)}"
        place, front = self.form(words.ENGLISH_RELATIONS[word]), words.ENGLISH_RELATIONS[word][0]
        sentences = [f"{a} is {place} {b}", f"{front} {b} {self.pick(('is', 'there is'))} {a}"]
        return self.pick([*fragments, *sentences])

    def later_relation(self, word: str, subject: Described, other: Described) -> str:
        a, b = self.reference(subject), self.reference(other)
        place, front = self.form(words.ENGLISH_RELATIONS[word]), words.ENGLISH_RELATIONS[word][0]
        return self.pick((f"{a} is {place} {b}", f"{a} is {place} {b}", f"{front} {b} is {a}"))

    def addition(self, items: Sequence[Described]) -> str:
        verb = "is" if items[0].count == 1 else "are"
        return f"there {verb} also {self.listed(items)}"

    def listing(self, items: Sequence[Described], alone: bool) -> list[str]:
        if alone and self._can_be_told_apart(items) and self.chance(0.12):
            bare = [Described(1, None, item.shape, item.texture, item.size) for item in items]
            facts = [f"the {words.ENGLISH_SHAPES[str(item.shape)][0][0]} is {item.colour}" for item in items]
            return [self.opened(bare), enumerated(facts, " and ")]
        return [self.opened(items)]

    @staticmethod
    def _can_be_told_apart(items: Sequence[Described]) -> bool:
        """Whether "the circle" names one object, for each shape, and each object's colour is to be said."""
        shapes = {item.shape for item in items}
        return None not in shapes and len(shapes) == len(items) and all(item.colour and item.count == 1 for item in items)

    def opened(self, items: Sequence[Described]) -> str:
        """A list of objects, perhaps after "there is" or "a picture of"."""
        there = "there is" if items[0].count == 1 else "there are"
        opening = self.pick(("", "", "", "", f"{there} ", *(f"{form} " for form in words.ENGLISH_OPENINGS)))
        return opening + self.listed(items)

    def with_background(self, sentences: list[str], background: str) -> list[str]:
        colour = self.form(words.ENGLISH_BACKGROUNDS[background])
        first, rest = sentences[0], sentences[1:]
        ways: list[Callable[[], list[str]]] = [
            lambda: [f"{first} on {article(colour)} {colour} background", *rest],
            lambda: [f"{first} against {article(colour)} {colour} backdrop", *rest],
            lambda: [f"{first}, {colour} background", *rest],
            lambda: [first, *rest, f"the background is {colour}"],
        ]
        if not first.startswith(words.ENGLISH_OPENINGS):
            ways.append(lambda: [f"on {article(colour)} {colour} background, {first}", *rest])
        return self.form(ways)()

    def joined(self, sentences: list[str]) -> str:
        if len(sentences) == 1:
            return sentences[0] + self.form(("", "."))
        return ". ".join(sentence[0].upper() + sentence[1:] for sentence in sentences) + "."


def enumerated(names: Sequence[str], last: str, between: str = ", ") -> str:
    """A list in words, with ``last`` before its last item."""
    return names[0] if len(names) == 1 else between.join(names[:-1]) + last + names[-1]


def article(word: str) -> str:
    """The indefinite article for a word: a or an."""
    return "an" if word[0] in "aeiou" else "a"


class Chinese(Speaker):
    """Captions in Chinese."""

    def name(self, item: Described, definite: bool = False) -> str:
        """A noun phrase: "两个小的条纹红色圆形"; without a numeral if it refers back."""
        colour = [self._adjective(self.form(words.CHINESE_COLOURS[item.colour]))] if item.colour else []
        texture = [self.form(words.CHINESE_TEXTURES[item.texture])] if item.texture else []
        size = [self.form(words.CHINESE_SIZES[item.size])] if item.size else []
        looks = [*texture, *colour] if self.chance(0.5) else [*colour, *texture]
        if item.shape is None:
            noun = self.pick(words.CHINESE_OBJECTS)
        elif self.chance(self.shape_led):
            noun = f"{words.CHINESE_SHAPE_ADJECTIVES[item.shape]}的{''.join(looks)}{self.pick(words.CHINESE_OBJECTS)}"
            looks = []
        else:
            noun = self.form(words.CHINESE_SHAPES[item.shape])
        number = "" if definite else self.form(words.CHINESE_NUMBERS[item.count])
        return number + "".join([*size, *looks, noun])

    def _adjective(self, colour: str) -> str:
        """A colour before its noun: two-character names take 的 or not."""
        return colour + "的" if len(colour) > 1 and self.chance(0.6) else colour

    def reference(self, item: Described) -> str:
        """A phrase for an object named before."""
        return self.name(Described(1, item.colour, item.shape, None, item.size if self.chance(0.3) else None), True)

    def listed(self, items: Sequence[Described]) -> str:
        """A、B和C."""
        names = [self.name(item) for item in items]
        return enumerated(names, self.form(("和", "与", "以及", "，还有")), "、")

    def _related(self, word: str, a: str, b: str) -> str:
        """A clause that states the relation of ``a`` to ``b``."""
        if word == "touching":
            mutual = f"{a}{self.pick(('和', '与'))}{b}{self.form(words.CHINESE_MUTUAL)}"
            return self.pick((f"{a}{self.form(words.CHINESE_TOUCHES)}{b}", mutual))
        place = self.form(words.CHINESE_PLACES[word])
        of = self.form(("的", ""))
        ways = [f"{a}{self.form(('在', '位于'))}{b}{of}{place}"] * 2 + [f"{b}{of}{place}{self.form(('有', '是'))}{a}"]
        if word == "inside":
            ways.append(f"{b}{self.form(words.CHINESE_HOLDS)}{a}")
        return self.pick(ways)

    def opening_relation(self, word: str, subject: Described, other: Described) -> str:
        return self._related(word, self.name(subject), self.name(other))

    def later_relation(self, word: str, subject: Described, other: Described) -> str:
        return self._related(word, self.reference(subject), self.reference(other))

    def addition(self, items: Sequence[Described]) -> str:
        return "还有" + self.listed(items)

    def listing(self, items: Sequence[Described], alone: bool) -> list[str]:
        return [self.pick(("", "", "有", *words.CHINESE_OPENINGS)) + self.listed(items)]

    def with_background(self, sentences: list[str], background: str) -> list[str]:
        colour = self.form(words.CHINESE_BACKGROUNDS[background])
        first, rest = sentences[0], sentences[1:]
        ways: list[Callable[[], list[str]]] = [
            lambda: [f"{first}，{colour}背景", *rest],
            lambda: [f"{first}，背景是{colour}", *rest],
            lambda: [first, *rest, f"背景为{colour}"],
        ]
        if not first.startswith(words.CHINESE_OPENINGS):
            ways.append(lambda: [f"{self.pick(('', '在'))}{colour}{self.pick(('', '的'))}背景上，{first}", *rest])
        return self.form(ways)()

    def joined(self, sentences: list[str]) -> str:
        return self.form(("，", "。")).join(sentences) + self.form(("", "。"))
