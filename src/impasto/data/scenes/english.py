"""English: saying captions and reading them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from impasto.data.scenes import words
from impasto.data.scenes.lexicon import Token
from impasto.data.scenes.reader import ATTRIBUTES, NOUN_PHRASE_KINDS, NounPhrase, Reader
from impasto.data.scenes.requirement import Described
from impasto.data.scenes.speaker import Speaker, enumerated


class EnglishSpeaker(Speaker):
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
        size = item.size if self.chance(0.3) else None
        return self.name(Described(1, item.colour, item.shape, None, size), definite=True)

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
        single_coloured = all(item.colour and item.count == 1 for item in items)
        return single_coloured and None not in shapes and len(shapes) == len(items)

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


def article(word: str) -> str:
    """The indefinite article for a word: a or an."""
    return "an" if word[0] in "aeiou" else "a"


class EnglishReader(Reader):
    """English clauses. Whatever reads raises ValueError for words that do not fit."""

    def clause(self) -> None:
        if self.background_clause():
            return
        if place := self.take("place"):  # "to the left of B is A"
            other = self.noun()
            self.take("and")
            self.need("is", "opening")
            self.relate(place.value, self.noun(), other)
            return
        named = [self.noun()]
        while True:
            if self.peek() == "and" and self.peek(1) in NOUN_PHRASE_KINDS and not self.background_ahead(1):
                self.at += 1
                named.append(self.noun())
            elif not self.tail(named):
                return

    def tail(self, named: list[int]) -> bool:
        """Read what may follow a noun: a relation or a property; False if nothing does."""
        verb = 1 if self.peek() == "is" else 0
        has_object = self.peek(verb + 1) in NOUN_PHRASE_KINDS
        if self.peek(verb) == "mutual" or (self.peek(verb) == "place" and not has_object):
            self.mutual(named, verb)
        elif self.peek(verb) == "place":
            self.at += verb
            place = self.need("place")
            named.append(self.noun())
            self.relate(place.value, named[-2], named[-1])
        elif self.take("holds"):
            named.append(self.noun())
            self.relate("inside", named[-1], named[-2])
        elif self.peek() == "with" and not self.background_ahead(1):
            self.at += 1
            holder = named[-1]
            named.append(self.noun())
            self.relate(self.need("aside").value, named[-1], holder)
        else:
            return self.predicate(named[-1])
        return True

    def mutual(self, named: list[int], verb: int) -> None:
        """Read "A and B touching (each other)". ValueError for one object alone."""
        self.at += verb
        token = self.need("mutual", "place")
        if token.value != "touching":
            raise self.surprise("object")
        if len(named) < 2:
            raise ValueError(f"{token.text!r} needs two objects: write 'A {token.text} B'")
        self.relate("touching", named[-2], named[-1])

    def background_ahead(self, ahead: int) -> bool:
        """Whether the words from ``ahead`` on are about the background: "a black background", "on black"."""
        plain = self.peek(ahead - 1) == "on"
        ahead += self.peek(ahead) in ("indefinite", "definite")
        if self.peek(ahead) == "background colour":
            return plain or self.peek(ahead + 1) == "background"
        return self.peek(ahead) == "background"

    def background_clause(self) -> bool:
        """Read "on a black background", "the background is black", "black background" or "on black"."""
        on = 1 if self.peek() in ("on", "with", "in") else 0
        if not self.background_ahead(on):
            return False
        self.at += on
        self.take("indefinite", "definite")
        if self.take("background"):
            self.need("is")
            self.set_background(self.need("background colour"))
            return True
        self.set_background(self.need("background colour"))
        self.take("background")
        self.take("with")  # "a black background with ..."
        return True

    def noun(self) -> int:
        """Read a noun phrase and return the object it means. ValueError for any other words, or a plural
        without its number."""
        definite = self.take("definite") is not None
        number = self.take("number")
        indefinite = number is None and self.take("indefinite") is not None
        attributes: dict[str, str] = {}
        last: Token | None = None
        while token := self.take(*ATTRIBUTES, "object"):
            if token.kind != "object":
                self.set_attribute(attributes, token)
            last = token if token.kind in ("shape", "object") else last
        if last is None:
            raise self.surprise("shape")
        while token := self.ending():
            self.set_attribute(attributes, token, "texture" if token.kind == "ending" else None)
        if last.plural and number is None and not definite:
            raise ValueError(f"how many {last.text!r} is not said: write 'two {last.text}' or another number")
        count = int(number.value) if number is not None else 1
        return self.settle(NounPhrase(attributes, count, back=definite or not (number or indefinite)))

    def ending(self) -> Token | None:
        """Read what describes a noun from behind: "with dots", "in red", "shaped like a heart"."""
        if token := self.take("ending"):
            return token
        if self.peek() == "in" and self.peek(1) == "colour":
            self.at += 1
            return self.need("colour")
        if self.take("like"):
            self.take("indefinite")
            return self.need("shape")
        return None
