"""What reading a prompt has in common in both languages: a cursor over its tokens, and the facts so far."""

from __future__ import annotations

from dataclasses import dataclass

from impasto.data.scenes.lexicon import Token
from impasto.data.scenes.requirement import Relation
from impasto.data.scenes.world import COLOURS

ATTRIBUTES = ("size", "texture", "colour", "shape")
NOUN_PHRASE_KINDS = (*ATTRIBUTES, "object", "number", "indefinite", "definite")


@dataclass
class NounPhrase:
    """A noun phrase as read: attributes and number; ``back`` if it may refer to an object named before."""

    attributes: dict[str, str]
    count: int
    back: bool


class Reader:
    """A cursor over the tokens, and the facts gathered so far; the languages differ in their clauses.
    Whatever reads or notes raises ValueError, in one line, for words that do not fit or contradict others."""

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
        """The next token, which must be of one of these kinds. ValueError for any other."""
        token = self.take(*kinds)
        if token is None:
            raise self.surprise(" or ".join(kinds))
        return token

    def surprise(self, expected: str) -> ValueError:
        """The error for a token that does not fit where it stands."""
        if self.at >= len(self.tokens):
            return ValueError(f"the prompt ends too early: add a word for {expected}")
        token = self.tokens[self.at]
        if token.kind == "background colour":
            return ValueError(
                f"{token.text!r} can only colour the background: objects are {', '.join(COLOURS)}"
            )
        return ValueError(f"cannot place the word {token.text!r}: a word for {expected} is expected here")

    def relate(self, kind: str, subject: int, other: int) -> None:
        """Note a relation between two described objects. ValueError for an object and itself."""
        if subject == other:
            raise ValueError(f"an object is said to be {kind!r} itself: name two different objects")
        self.relations.append(Relation.of(kind, subject, other))

    def settle(self, phrase: NounPhrase) -> int:
        """The index of the object that a phrase means: an earlier one it refers back to, or a new one.
        ValueError if it could be several."""
        if phrase.back:
            stated = phrase.attributes.items()
            matches = [index for index, known in enumerate(self.objects) if stated <= known.items()]
            if len(matches) > 1:
                named = " ".join(phrase.attributes.values())
                raise ValueError(
                    f"'the {named}' could be several objects: say which one by colour, shape or size"
                )
            if matches:
                return matches[0]
        self.objects.append({**phrase.attributes, "count": phrase.count})
        return len(self.objects) - 1

    def set_background(self, token: Token) -> None:
        """Note the background, which can be stated once. ValueError for a second one."""
        if self.background not in (None, token.value):
            raise ValueError(f"two backgrounds, {self.background!r} and {token.value!r}: name one")
        self.background = token.value

    def set_attribute(self, attributes: dict[str, str], token: Token, kind: str | None = None) -> None:
        """Add what a word says about an object. ValueError if it contradicts what was said."""
        kind = kind or token.kind
        if attributes.setdefault(kind, token.value) != token.value:
            raise ValueError(
                f"{token.text!r} contradicts {attributes[kind]!r} of the same object: name one {kind}"
            )

    def predicate(self, index: int) -> bool:
        """Read "is red" about an object; False if the next words are not of that kind. ValueError if it
        contradicts what was said before."""
        if self.peek() != "is" or self.peek(1) not in ("size", "texture", "colour"):
            return False
        self.at += 1
        while token := self.take("size", "texture", "colour", "of"):
            if token.kind != "of":
                known = self.objects[index]
                if known.setdefault(token.kind, token.value) != token.value:
                    raise ValueError(
                        f"{token.text!r} contradicts {known[token.kind]!r} said before: name one"
                    )
        return True

    def read(self) -> None:
        """Read all clauses."""
        while self.peek() != "end":
            if not self.take("stop", "and", "opening", "has"):
                self.clause()

    def clause(self) -> None:
        """Read one clause."""
        raise NotImplementedError
