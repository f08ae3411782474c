"""Cut a prompt into words of known meaning; a word without one is an error that names it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from impasto.data.scenes import words
from impasto.data.scenes.world import COLOURS, SHAPES

_CHINESE = re.compile(r"[\u3400-\u9fff]")
_ENGLISH_WORD = re.compile(r"[a-z0-9]+(?:-[a-z]+)*|[.,;:!]|[^\sa-z0-9]")
_ENDS = {".": "stop", ";": "stop", "!": "stop", "。": "stop", "；": "stop"}


@dataclass(frozen=True)
class Token:
    """A word or fixed phrase: what kind of word it is, what it means, and how it was written."""

    kind: str
    value: str
    text: str
    plural: bool = False


def is_chinese(text: str) -> bool:
    """Whether the text is to be read as Chinese."""
    return _CHINESE.search(text) is not None


class _Lexicon:
    """Phrases with their meaning; the longest that fits is taken."""

    def __init__(self) -> None:
        self.entries: dict[str, tuple[str, str, bool]] = {}

    def add(self, kind: str, value: str, forms: Iterable[str], plural: bool = False) -> None:
        """Add forms of one meaning; the meaning that is added first stays."""
        for form in forms:
            self.entries.setdefault(form, (kind, value, plural))

    def add_all(self, kind: str, *tables: Mapping[str, Iterable[str]]) -> None:
        """Add every meaning of the tables."""
        for table in tables:
            for value, forms in table.items():
                self.add(kind, value, forms)

    def token(self, form: str) -> Token | None:
        """The token for exactly this form."""
        entry = self.entries.get(form)
        return None if entry is None else Token(entry[0], entry[1], form, entry[2])


@lru_cache(maxsize=1)
def _english() -> _Lexicon:
    lexicon = _Lexicon()
    lexicon.add_all("place", words.ENGLISH_RELATIONS, words.ENGLISH_RELATIONS_ALSO)
    lexicon.add_all("aside", words.ENGLISH_ASIDES)
    lexicon.add("mutual", "touching", (*words.ENGLISH_MUTUAL, *words.ENGLISH_MUTUAL_ALSO))
    lexicon.add("holds", "inside", (*words.ENGLISH_HOLDS, *words.ENGLISH_HOLDS_ALSO))
    lexicon.add_all("colour", words.ENGLISH_COLOURS)
    lexicon.add_all("background colour", words.ENGLISH_BACKGROUNDS)
    lexicon.add_all("size", words.ENGLISH_SIZES)
    lexicon.add_all("texture", words.ENGLISH_TEXTURES)
    lexicon.add_all("ending", words.ENGLISH_TEXTURE_ENDINGS)
    for shape, names in words.ENGLISH_SHAPES.items():
        lexicon.add("shape", shape, (singular for singular, _ in names))
        lexicon.add("shape", shape, (plural for _, plural in names), plural=True)
    lexicon.add_all("shape", words.ENGLISH_SHAPE_ADJECTIVES, {"circle": ("disk",), "cross": ("plus",)})
    for singular, plural in (*words.ENGLISH_OBJECTS, *words.ENGLISH_OBJECTS_ALSO):
        lexicon.add("object", "", (singular,))
        lexicon.add("object", "", (plural,), plural=True)
    for table in (words.ENGLISH_NUMBERS, words.ENGLISH_NUMBERS_ALSO):
        for number, forms in table.items():
            lexicon.add("number", str(number), forms)
    lexicon.add(
        "opening", "", (*words.ENGLISH_OPENINGS, *words.ENGLISH_OPENINGS_ALSO, "there is", "there are")
    )
    lexicon.add("opening", "", ("there is also", "there are also", "also"))
    lexicon.add("and", "", ("and", "together with", "as well as", "plus also", "with also", ",", ":"))
    lexicon.add("indefinite", "", ("a", "an"))
    lexicon.add("definite", "", ("the",))
    lexicon.add("is", "", ("is", "are"))
    lexicon.add("with", "", ("with", "has"))
    lexicon.add("on", "", ("on", "against", "with a background of"))
    lexicon.add("in", "", ("in", "coloured", "colored"))
    lexicon.add("like", "", ("shaped like", "in the shape of"))
    lexicon.add("background", "", ("background", "backdrop", "canvas"))
    return lexicon


@lru_cache(maxsize=1)
def _chinese() -> _Lexicon:
    lexicon = _Lexicon()
    lexicon.add_all("place", words.CHINESE_PLACES, words.CHINESE_PLACES_ALSO)
    lexicon.add("touches", "touching", (*words.CHINESE_TOUCHES, *words.CHINESE_TOUCHES_ALSO))
    lexicon.add("mutual", "touching", (*words.CHINESE_MUTUAL, *words.CHINESE_MUTUAL_ALSO))
    lexicon.add("holds", "inside", (*words.CHINESE_HOLDS, *words.CHINESE_HOLDS_ALSO))
    lexicon.add_all("colour", words.CHINESE_COLOURS, words.CHINESE_COLOURS_ALSO)
    lexicon.add_all("background colour", words.CHINESE_BACKGROUNDS, words.CHINESE_BACKGROUNDS_ALSO)
    lexicon.add_all("size", words.CHINESE_SIZES, words.CHINESE_SIZES_ALSO)
    lexicon.add_all("texture", words.CHINESE_TEXTURES)
    lexicon.add_all("shape", words.CHINESE_SHAPES, words.CHINESE_SHAPES_ALSO)
    lexicon.add("object", "", (*words.CHINESE_OBJECTS, *words.CHINESE_OBJECTS_ALSO))
    for table in (words.CHINESE_NUMBERS, words.CHINESE_NUMBERS_ALSO):
        for number, forms in table.items():
            lexicon.add("number", str(number), forms)
    lexicon.add("opening", "", (*words.CHINESE_OPENINGS, *words.CHINESE_OPENINGS_ALSO))
    lexicon.add("and", "", ("和", "与", "以及", "还有", "、", "，", ",", "：", ":", "跟", "而"))
    lexicon.add("of", "", ("的",))
    lexicon.add("at", "", ("在", "位于"))
    lexicon.add("is", "", ("是", "为"))
    lexicon.add("has", "", ("有",))
    lexicon.add("background", "", ("背景", "底色", "底"))
    lexicon.add("on", "", ("上",))
    return lexicon


def tokenise(text: str) -> list[Token]:
    """The tokens of a prompt, in English or Chinese."""
    if is_chinese(text):
        return _cut(list("".join(text.split())), _chinese(), "")
    return _cut(_ENGLISH_WORD.findall(text.lower()), _english(), " ")


@lru_cache(maxsize=4)
def _longest(glue: str) -> int:
    lexicon = _english() if glue else _chinese()
    return max(len(form.split(" ")) if glue else len(form) for form in lexicon.entries)


def _cut(pieces: list[str], lexicon: _Lexicon, glue: str) -> list[Token]:
    """Greedily take the longest known phrase at each place."""
    tokens: list[Token] = []
    start = 0
    while start < len(pieces):
        if pieces[start] in _ENDS:
            tokens.append(Token("stop", "", pieces[start]))
            start += 1
            continue
        for length in range(min(_longest(glue), len(pieces) - start), 0, -1):
            token = lexicon.token(glue.join(pieces[start : start + length]))
            if token is not None:
                tokens.append(token)
                start += length
                break
        else:
            raise ValueError(_unknown(pieces[start]))
    return tokens


def _unknown(word: str) -> str:
    return (
        f"the word {word!r} is not understood: scenes know the colours {', '.join(COLOURS)}; "
        f"the shapes {', '.join(SHAPES)}; and the words listed in docs/scenes.md"
    )
