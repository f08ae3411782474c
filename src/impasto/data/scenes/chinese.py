"""Chinese: saying captions and reading them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from impasto.data.scenes import words
from impasto.data.scenes.reader import ATTRIBUTES, NOUN_PHRASE_KINDS, NounPhrase, Reader
from impasto.data.scenes.requirement import Described
from impasto.data.scenes.speaker import Speaker, enumerated


class ChineseSpeaker(Speaker):
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
            adjective = words.CHINESE_SHAPE_ADJECTIVES[item.shape]
            noun = f"{adjective}的{''.join(looks)}{self.pick(words.CHINESE_OBJECTS)}"
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
        size = item.size if self.chance(0.3) else None
        return self.name(Described(1, item.colour, item.shape, None, size), definite=True)

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
        forward = f"{a}{self.form(('在', '位于'))}{b}{of}{place}"
        ways = [forward, forward, f"{b}{of}{place}{self.form(('有', '是'))}{a}"]
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
            front = f"{self.pick(('', '在'))}{colour}{self.pick(('', '的'))}背景上，{first}"
            ways.append(lambda: [front, *rest])
        return self.form(ways)()

    def joined(self, sentences: list[str]) -> str:
        return self.form(("，", "。")).join(sentences) + self.form(("", "。"))


class ChineseReader(Reader):
    """Chinese clauses. Whatever reads raises ValueError for words that do not fit."""

    def clause(self) -> None:
        if self.background_clause():
            return
        named = [self.noun()]
        while True:
            if self.peek() == "and" and self.peek(1) in NOUN_PHRASE_KINDS:
                self.at += 1
                named.append(self.noun())
            elif not self.tail(named):
                return

    def tail(self, named: list[int]) -> bool:
        """Read what may follow a noun: a relation or a property; False if nothing does. ValueError for a
        mutual contact of one object."""
        of = 1 if self.peek() == "of" else 0
        if self.peek() == "at":  # A在B的左边
            self.at += 1
            named.append(self.noun())
            self.take("of")
            self.relate(self.need("place").value, named[-2], named[-1])
        elif self.peek(of) == "place":  # B的左边有A
            self.at += of
            place = self.need("place")
            self.need("has", "is")
            named.append(self.noun())
            self.relate(place.value, named[-1], named[-2])
        elif self.take("touches"):
            named.append(self.noun())
            self.relate("touching", named[-2], named[-1])
        elif self.take("holds"):
            named.append(self.noun())
            self.relate("inside", named[-1], named[-2])
        elif self.take("mutual"):
            if len(named) < 2:
                raise ValueError("相互接触 needs two objects: write A和B相互接触")
            self.relate("touching", named[-2], named[-1])
        else:
            return self.predicate(named[-1])
        return True

    def background_clause(self) -> bool:
        """Read 在黑色背景上, 黑色背景 or 背景是黑色."""
        if self.take("background"):
            self.need("is")
            self.set_background(self.need("background colour"))
            self.take("of")
            return True
        at = 1 if self.peek() == "at" else 0
        if self.peek(at) != "background colour":
            return False
        self.take("at")
        colour_at = self.at
        colour = self.need("background colour")
        self.take("of")
        if not self.take("background"):
            self.at = colour_at
            raise self.surprise("background")
        self.set_background(colour)
        self.take("on", "of")
        return True

    def noun(self) -> int:
        """Read a noun phrase and return the object it means."""
        number = self.take("number")
        attributes: dict[str, str] = {}
        named = False
        while self.peek() in (*ATTRIBUTES, "object") or (self.peek() == "of" and self.continues()):
            token = self.need(*ATTRIBUTES, "object", "of")
            named = named or token.kind in ("shape", "object")
            if token.kind in ATTRIBUTES:
                self.set_attribute(attributes, token)
        if not named:
            raise self.surprise("shape")
        return self.settle(NounPhrase(attributes, int(number.value) if number else 1, back=number is None))

    def continues(self) -> bool:
        """Whether a 的 is followed by more of the same noun phrase."""
        return self.peek(1) in (*ATTRIBUTES, "object")
