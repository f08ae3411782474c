"""What a drawing shows: names and keywords in English and Chinese by code points, and icon names led to them.

The names are those of emojibase-data (Unicode CLDR). Icon sets name their drawings by code points, by CLDR
names with hyphens, or by run-together names of the Unicode standard: all of them lead to the same concept, so
that a concept that is held out is held out in every style.
"""

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from impasto.data.glyphs.fetch import read_json
from impasto.data.records import DataError

SHORT_NAMES = ("emojibase", "emojibase-legacy", "cldr", "joypixels", "iamcal", "github")
TONES = ("medium light", "medium dark", "light", "medium", "dark")  # longer ones first
FILLERS = {"skin", "tone", "with", "for", "the", "of", "and", "face", "sign", "symbol", "in", "island"}
ALIKE = {"blonde": "blond", "haired": "hair", "merpeople": "merperson", "st": "saint", "islands": "island"}
ALIKE |= {"swaziland": "eswatini", "turkey": "turkiye"}  # countries that changed their names
LONGEST_WORD = 5  # letters; a longer "word" that no name or keyword has is several run together
# Names that some sets have of their own, and CLDR's.
RENAMED = (
    (r"^man-merpeople", "merman"),
    (r"^woman-merpeople", "mermaid"),
    (r"^person-merpeople", "merperson"),
    (r"^person-(elf|fairy|genie|mage|superhero|supervillain|vampire|zombie)", r"\1"),
    (r"^man-with-bunny-ears", "men-with-bunny-ears"),
    (r"^person-with-bunny-ears", "people-with-bunny-ears"),
    (r"^letter-([a-z])$", r"regional-indicator-\1"),
    (r"^(a|b|o|ab)-button$", r"\1-button-blood-type"),
    (r"^phoenix-bird$", "phoenix"),
    (r"^knocked-out-face$", "face-with-crossed-out-eyes"),
    (r"^laptop-computer$", "laptop"),
    (r"^piata$", "pinata"),
    (r"^flag-macedonia$", "flag-north-macedonia"),
    (r"^flag-myanmar$", "flag-myanmar-burma"),
    (r"^flag-macau-sar-china$", "flag-macao-sar-china"),
    (r"^flag-cocos-islands$", "flag-cocos-keeling-islands"),
    (r"^flag-(flags?|crossed-flags|chequered-flag|triangular-flag)$", r"\1"),
)
AMBIGUOUS = ("mouse", "bat", "seal")  # CLDR's animals; other sets draw other things of these names
BRANDS = frozenset(
    re.findall(
        r"[\w-]+",
        "android apple chrome discord docker duckduckgo facebook firefox git github gitlab google instagram "
        "explorer linkedin linux mastodon microsoft mozilla netflix opera pinterest pixelfed reddit "
        "safari signal snapchat spotify telegram tiktok titanic twitch twitter ubuntu vimeo whatsapp "
        "wikidata wikipedia windows youtube openstreetmap openmoji ecosia musicbrainz hfg edge",
    )
)


class Concept(NamedTuple):
    """`key`: code points without U+FE0F, or the name where it has none; `base`: the key without skin tone,
    by which the set is split. Chinese is empty where no name is known. `tone`: the skin tone's part of the
    English name is in it already."""

    key: str
    base: str
    base_name: str
    english: str
    chinese: str
    english_tags: tuple[str, ...] = ()
    chinese_tags: tuple[str, ...] = ()
    group: int | None = None  # of emojibase: 0 faces, 1 people, 3 animals and plants ... 8 symbols, 9 flags


class Concepts:
    """The table of concepts of an emojibase-data package, and the ways that lead into it."""

    def __init__(
        self, english: list[Any], chinese: list[Any], other_names: Iterable[tuple[str, str]]
    ) -> None:
        self.by_code: dict[str, Concept] = {}
        chinese_of = {code(e["hexcode"]): e for entry in chinese for e in (entry, *entry.get("skins", ()))}
        for entry in english:
            base = code(entry["hexcode"])
            for one in (entry, *entry.get("skins", ())):
                key = code(one["hexcode"])
                translated = chinese_of.get(key, {})
                self.by_code[key] = Concept(
                    key=key,
                    base=base,
                    base_name=entry["label"],
                    english=one["label"],
                    chinese=translated.get("label", ""),
                    english_tags=tuple(entry.get("tags") or ()),
                    chinese_tags=tuple(chinese_of.get(base, {}).get("tags") or ()),
                    group=entry.get("group"),
                )
        self._by_letters: dict[str, str] = {}
        self._by_words: dict[frozenset[str], str] = {}
        names = list(other_names)
        self._index(names)
        self._vocabulary = self._words(names)

    def _index(self, other_names: Iterable[tuple[str, str]]) -> None:
        shared: set[frozenset[str]] = set()
        for key, concept in self.by_code.items():
            self._by_letters.setdefault(letters(concept.english), key)
            words = bag(concept.english)
            if words in self._by_words:
                shared.add(words)
            self._by_words[words] = key
        for words in shared:  # such a bag does not say which one is meant
            del self._by_words[words]
        for hexcode, name in other_names:
            if code(hexcode) in self.by_code:
                self._by_letters.setdefault(letters(name), code(hexcode))

    def find(self, name: str, hexcode: str = "", run_together: bool = False) -> Concept | None:
        """The concept of an icon, by its code points or its name; a new one for a readable name that leads
        nowhere; None where the name cannot be read as words. `run_together`: the set writes names without
        anything between their words."""
        for spelling in (code(hexcode), code(hexcode) + "-E007F"):  # some leave the end of a flag's tag out
            if spelling in self.by_code:
                return self.by_code[spelling]
        plain = re.sub(r"^(flag-for-)?flag-for-", "flag-", name.lower())
        for odd, usual in RENAMED:
            plain = re.sub(odd, usual, plain)
        bare = letters(re.sub(r"-\d+$", "", plain))
        for spelling in (letters(name), letters(plain), letters(plain) + "skintone", bare, "flag" + bare):
            if spelling in self._by_letters:
                return self.by_code[self._by_letters[spelling]]
        words = bag(plain.replace("-", " "))
        if len(words) > 1 and words in self._by_words:
            return self.by_code[self._by_words[words]]
        return self._unknown(name, run_together)

    def titled(
        self, title: str, *, chinese: str = "", tags: Iterable[str] = (), group: int | None = None
    ) -> Concept:
        """The concept of a picture with a title that somebody wrote: CLDR's own where the title is its name
        and has no other meaning; else a new one, which is held out together with what the title leads to."""
        known = self.by_code.get(self._by_letters.get(letters(title), ""))
        if known and letters(known.english) == letters(title) and letters(title) not in AMBIGUOUS:
            return known
        key = f"name:{letters(title)}"
        base, base_name = (known.base, known.base_name) if known else (key, title)
        return Concept(key, base, base_name, title, chinese, tuple(tags), (), group)

    def knows(self, word: str) -> bool:
        """Whether a word, or its singular, is in the names and keywords of CLDR."""
        return word in self._vocabulary or word.removesuffix("s") in self._vocabulary

    def _words(self, other_names: Iterable[tuple[str, str]]) -> frozenset[str]:
        """What counts as a word in the name of an icon."""
        texts = [name for _, name in other_names if not re.fullmatch("[a-z]{9,}", name)]
        for concept in self.by_code.values():
            texts += [concept.english, *concept.english_tags]
        return frozenset(word for text in texts for word in re.findall("[a-z]{2,}", fold(text)))

    def _unknown(self, name: str, run_together: bool) -> Concept | None:
        """A concept of its own for a name that nothing leads from; None if it is no words, or a brand."""
        plain = re.sub(r"-\d+$", "", fold(name))
        found = re.findall(r"[a-z]+|\d+", plain) if run_together else re.findall(r"[a-z0-9]+", plain)
        if BRANDS & set(found):
            return None
        if run_together:
            found = [self._separate(word) for word in found]
        words = " ".join(found)
        if "" in found or not re.search("[a-z]{2}", words):
            return None
        base, tone = words, ""
        for shade in TONES:
            if words.endswith(f" {shade} skin tone"):
                base = words.removesuffix(f" {shade} skin tone")
                tone = f": {shade.replace(' ', '-')} skin tone"
                break
        known = self.by_code.get(self._by_letters.get(letters(base), ""))
        base_key = known.base if known else f"name:{letters(base)}"  # a tone that CLDR has not
        return Concept(f"name:{letters(words)}", base_key, base, base + tone, "")

    def _separate(self, word: str) -> str:
        """Words that are run together, apart: the fewest that are known; "" if that cannot be done."""
        if len(word) <= LONGEST_WORD or word in self._vocabulary:
            return word
        best: list[list[str] | None] = [[]]
        for end in range(1, len(word) + 1):
            parts = [
                [*before, word[start:end]]
                for start in range(end)
                if (before := best[start]) is not None
                and end - start > 2
                and word[start:end] in self._vocabulary
            ]
            best.append(min(parts, key=len) if parts else None)
        return " ".join(best[-1] or ())


def read_concepts(path: Path) -> Concepts:
    """From the tar file of emojibase-data. DataError where it holds no names."""
    tables = [f"en/shortcodes/{name}.json" for name in SHORT_NAMES]
    english, chinese, *others = read_json(
        path, "en/data.json", "zh/data.json", *tables, "meta/unicode-names.json"
    )
    if not english:
        raise DataError(f"{path} holds no names; delete it and build again")
    names = [
        (hexcode, name)
        for table in others
        for hexcode, given in table.items()
        for name in ([given] if isinstance(given, str) else given)
    ]
    return Concepts(english, chinese, names)


def code(hexcode: str) -> str:
    """Code points in one spelling: upper case, hyphens, without the variation selector U+FE0F."""
    parts = hexcode.upper().replace("_", "-").split("-")
    return "-".join(part.zfill(4) for part in parts if part not in ("FE0F", "FE0E", ""))


def fold(name: str) -> str:
    """In small letters without accents."""
    apart = unicodedata.normalize("NFKD", name.lower().replace("'", "").replace("’", ""))
    return "".join(letter for letter in apart if not unicodedata.combining(letter))


def letters(name: str) -> str:
    """A name without anything between its letters and digits."""
    return re.sub(r"[^a-z0-9]", "", fold(name))


def bag(name: str) -> frozenset[str]:
    """The words that tell names apart, in any order."""
    words = re.findall(r"[a-z0-9]+", fold(name))
    return frozenset(ALIKE.get(word, word) for word in words) - FILLERS
