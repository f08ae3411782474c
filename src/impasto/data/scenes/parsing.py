"""Read a prompt back into the facts it states."""

from __future__ import annotations

from dataclasses import dataclass

from impasto.data.scenes.lexicon import Token, is_chinese, tokenise
from impasto.data.scenes.requirement import Described, Relation, Requirement
from impasto.data.scenes.world import COLOURS, MAX_OBJECTS

_ATTRIBUTES = ("size", "texture", "colour", "shape")
_NOUN_PHRASE = (*_ATTRIBUTES, "object", "number", "indefinite", "definite")


def parse_prompt(text: str) -> Requirement:
    """The facts that an English or Chinese prompt states, in order of mention.

    Raises ValueError with one line that names the word that was not understood.

    >>> parse_prompt("a red circle left of a blue star").relations
    (Relation(kind='left of', subject=0, object=1),)
    """
    tokens = tokenise(text)
    reader = _ChineseReader(tokens) if is_chinese(text) else _EnglishReader(tokens)
    reader.read()
    if not reader.objects:
        raise ValueError("the prompt names no object: describe one, for example 'a red circle'")
    total = sum(int(draft["count"]) for draft in reader.objects)
    if total > MAX_OBJECTS:
        raise ValueError(f"the prompt asks for {total} objects: a scene holds at most {MAX_OBJECTS}")
    return Requirement(
        tuple(Described(**draft) for draft in reader.objects),  # type: ignore[arg-type]
        tuple(dict.fromkeys(reader.relations)),
        reader.background,
    )


@dataclass
class _Phrase:
    """A noun phrase as read: its attributes, and how many if it says so; ``back`` if it may refer to an earlier one."""

    attributes: dict[str, str]
    count: int
    back: bool


class _Reader:
    """A cursor over the tokens, and the facts gathered so far; the languages differ in their clauses."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.at = 0
        self.objects: list[dict[str, int | str]] = []
        self.relations: list[Relation] = []
        self.background: str | None = None

    def peek(self, ahead: int = 0) -> str:
        """The kind of the token ``ahead`` of the cursor, "end" past the last."""
        return self.tokens[self.at + ahead].kind if self.at + ahead < len(self.tokens) else "end"

    def take(self, *kinds: str) -> Token | None:
        """Step over the next token if it is of one of these kinds."""
        if self.peek() in kinds:
            self.at += 1
            return self.tokens[self.at - 1]
        return None

    def need(self, *kinds: str) -> Token:
        """The next token, which must be of one of these kinds."""
        token = self.take(*kinds)
        if token is None:
            raise self.surprise(" or ".join(kinds))
        return token

    def surprise(self, expected: str) -> ValueError:
        """The error for a token that does not fit where it stands."""
        if self.at >= len(self.tokens):
            return ValueError(f"the prompt ends where a {expected} is expected: complete it")
        token = self.tokens[self.at]
        if token.kind == "background colour":
            return ValueError(f"{token.text!r} can only colour the background: objects are {', '.join(COLOURS)}")
        return ValueError(f"cannot place the word {token.text!r}: expected a {expected} here")

    def relate(self, kind: str, subject: int, other: int) -> None:
        """Note a relation between two described objects."""
        if subject == other:
            raise ValueError(f"an object is said to be {kind!r} itself: name two different objects")
        self.relations.append(Relation.of(kind, subject, other))

    def settle(self, phrase: _Phrase) -> int:
        """The index of the object that a phrase means: an earlier one it refers back to, or a new one."""
        if phrase.back:
            stated = phrase.attributes.items()
            matches = [index for index, known in enumerate(self.objects) if stated <= known.items()]
            if len(matches) > 1:
                named = " ".join(phrase.attributes.values())
                raise ValueError(f"'the {named}' could be several objects: say which one by colour, shape or size")
            if matches:
                return matches[0]
        self.objects.append({**phrase.attributes, "count": phrase.count})
        return len(self.objects) - 1

    def set_background(self, token: Token) -> None:
        """Note the background, which can be stated once."""
        if self.background not in (None, token.value):
            raise ValueError(f"two backgrounds, {self.background!r} and {token.value!r}: name one")
        self.background = token.value

    def set_attribute(self, attributes: dict[str, str], token: Token, kind: str | None = None) -> None:
        """Add what a word says about an object."""
        kind = kind or token.kind
        if attributes.setdefault(kind, token.value) != token.value:
            raise ValueError(f"{token.text!r} contradicts the {kind} {attributes[kind]!r} of the same object: name one")

    def predicate(self, index: int) -> bool:
        """Read "is red" about an object; False if the next words are not of that kind."""
        if self.peek() != "is" or self.peek(1) not in ("size", "texture", "colour"):
            return False
        self.at += 1
        while token := self.take("size", "texture", "colour", "of"):
            if token.kind != "of":
                known = self.objects[index]
                if known.setdefault(token.kind, token.value) != token.value:
                    raise ValueError(f"{token.text!r} contradicts {known[token.kind]!r} said before: name one")
        return True

    def read(self) -> None:
        """Read all clauses."""
        while self.peek() != "end":
            if not self.take("stop", "and", "opening", "has"):
                self.clause()

    def clause(self) -> None:
        """Read one clause."""
        raise NotImplementedError


class _EnglishReader(_Reader):
    """English clauses."""

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
            if self.peek() == "and" and self.peek(1) in _NOUN_PHRASE and not self.background_ahead(1):
                self.at += 1
                named.append(self.noun())
            elif not self.tail(named):
                return

    def tail(self, named: list[int]) -> bool:
        """Read what may follow a noun: a relation or a property; False if nothing does."""
        verb = 1 if self.peek() == "is" else 0
        if self.peek(verb) == "mutual" or (self.peek(verb) == "place" and self.peek(verb + 1) not in _NOUN_PHRASE):
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
        """Read "A and B touching (each other)"."""
        self.at += verb
        token = self.need("mutual", "place")
        if token.value != "touching":
            raise self.surprise("object")
        if len(named) < 2:
            raise ValueError(f"{token.text!r} needs two objects: write 'A {token.text} B'")
        self.relate("touching", named[-2], named[-1])

    def background_ahead(self, ahead: int) -> bool:
        """Whether the words from ``ahead`` on are about the background: "(a|the) black background"."""
        ahead += self.peek(ahead) in ("indefinite", "definite")
        return self.peek(ahead) in ("background colour", "background")

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
        if not on:
            self.need("background")
        else:
            self.take("background")
        return True

    def noun(self) -> int:
        """Read a noun phrase and return the object it means."""
        definite = self.take("definite") is not None
        number = self.take("number")
        indefinite = number is None and self.take("indefinite") is not None
        attributes: dict[str, str] = {}
        last: Token | None = None
        while token := self.take(*_ATTRIBUTES, "object"):
            if token.kind != "object":
                self.set_attribute(attributes, token)
            last = token if token.kind in ("shape", "object") else last
        if last is None:
            raise self.surprise("shape")
        while token := self.ending():
            self.set_attribute(attributes, token, "texture" if token.kind == "ending" else None)
        if last.plural and number is None and not definite:
            raise ValueError(f"how many {last.text!r} is not said: write 'two {last.text}', 'three {last.text}' ...")
        count = int(number.value) if number is not None else 1
        return self.settle(_Phrase(attributes, count, back=definite or not (number or indefinite)))

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


class _ChineseReader(_Reader):
    """Chinese clauses."""

    def clause(self) -> None:
        if self.background_clause():
            return
        named = [self.noun()]
        while True:
            if self.peek() == "and" and self.peek(1) in _NOUN_PHRASE:
                self.at += 1
                named.append(self.noun())
            elif not self.tail(named):
                return

    def tail(self, named: list[int]) -> bool:
        """Read what may follow a noun: a relation or a property; False if nothing does."""
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
        if self.peek() != "background colour" and not (self.peek() == "at" and self.peek(1) == "background colour"):
            return False
        self.take("at")
        self.set_background(self.need("background colour"))
        self.take("of")
        self.need("background")
        self.take("on", "of")
        return True

    def noun(self) -> int:
        """Read a noun phrase and return the object it means."""
        number = self.take("number")
        attributes: dict[str, str] = {}
        named = False
        while self.peek() in (*_ATTRIBUTES, "object") or (self.peek() == "of" and self.continues()):
            token = self.need(*_ATTRIBUTES, "object", "of")
            named = named or token.kind in ("shape", "object")
            if token.kind in _ATTRIBUTES:
                self.set_attribute(attributes, token)
        if not named:
            raise self.surprise("shape")
        return self.settle(_Phrase(attributes, int(number.value) if number else 1, back=number is None))

    def continues(self) -> bool:
        """Whether a 的 is followed by more of the same noun phrase."""
        return self.peek(1) in (*_ATTRIBUTES, "object")
