"""Drawings of the Open Clip Art Library: SVG files that state their title, subjects, maker and licence.

Only what says that it is in the public domain is taken. Titles are as their makers left them: of a whole
collection, in Italian, or the maker's name; then the name of the file is read instead, and what holds no
words that CLDR's names and keywords know is left out.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree import ElementTree

from impasto.data.glyphs.concepts import Concept, Concepts, fold, letters
from impasto.data.glyphs.fetch import read_members
from impasto.data.glyphs.glyph import Glyph
from impasto.data.glyphs.packages import GlyphSet
from impasto.data.glyphs.render import Drawing
from impasto.data.records import Faults

FOLDER = "usr/share/openclipart/svg/"
PUBLIC_DOMAIN = (
    "http://web.resource.org/cc/PublicDomain",
    "http://creativecommons.org/licenses/publicdomain/",
)
LARGEST = 1_000_000  # bytes of a file; larger ones take seconds to draw
LONGEST, MANY = 50, 3  # characters of a title; files that may share one which does not begin their names
# Folders of stars and gradients, of playing cards named by letters, of repeats.
ASIDE = re.compile(
    r"(shapes|special|logos|buttons|unsorted/duplicates|signs_and_symbols/led"
    r"|recreation/games/cards/(simple|bordered|ornamental|white|cardbacks))/"
)
FLAGS = re.compile(r"signs_and_symbols/flags/(?!semaphore|historic|miscellany)(?:\w+/)+")
NO_TITLE = re.compile(
    r"collection|clip ?art|theme|icon ?set|submission|s[iu]bmission|untitled|http|@|\d{3}|symbol_signs"
)
NO_SUBJECT = re.compile(r"hash|0x|theme|icons?$|unsorted|clip ?art|part$|stuff|signs_and|mapsym|sign$|symbol")
NO_AUTHOR = re.compile(r"HASH\(\w+\)|[(\[<]?\S+@\S+[)\]>]?")
# What a folder shows, by the groups of emojibase: in which names get an article.
THINGS = 7
GROUPS = {"people": 1, "animals": 3, "plants": 3, "food": 4, "buildings": 5, "transportation": 5}
GROUPS |= {"recreation": 6} | dict.fromkeys(
    ("computer", "containers", "education", "electronics", "office", "tools"), THINGS
)
WORDS_ASIDE = frozenset(re.findall(r"\w+", "simple and of the a an in on with for r s jr bw svg"))


class Described(NamedTuple):
    """What a file says of itself. `licences`: everything that is stated."""

    title: str
    subjects: tuple[str, ...]
    author: str
    licences: tuple[str, ...]


def read_clip_art(path: Path, glyph_set: GlyphSet, concepts: Concepts, faults: Faults) -> Iterator[Glyph]:
    """Every drawing that is in the public domain and has a readable name, sorted by its place."""
    members = read_members(path, lambda name: name.startswith(FOLDER) and name.endswith(".svg"))
    files = sorted((name.removeprefix(FOLDER), data) for name, data in members)
    read = [(name, data, describe(data)) for name, data in files if not ASIDE.match(name)]
    titles = Counter(one.title for _, _, one in read if one)
    for name, data, described in read:
        told = f"{glyph_set.style}:{name}"
        if described is None or len(data) > LARGEST:
            faults.add("cannot be read" if described is None else "too large", told)
        elif not described.licences or not set(described.licences) <= {*PUBLIC_DOMAIN, "Public Domain"}:
            faults.add("not stated to be in the public domain", told)
        elif (concept := concept_of(name, described, titles[described.title], concepts)) is None:
            faults.add("no readable name", told)
        else:
            drawing = Drawing(data.decode("utf-8", "replace"), b"", crop=True)
            yield Glyph(name, concept, drawing, author=described.author)


def describe(data: bytes) -> Described | None:
    """The statements in an SVG file; None if it is no XML."""
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError:
        return None
    work = next((one for one in root.iter() if _local(one) == "Work"), None)
    if work is None:
        return Described("", (), "", ())
    stated: dict[str, list[ElementTree.Element]] = {}
    for one in work:
        stated.setdefault(_local(one), []).append(one)
    return Described(
        title=" ".join(_text(one) for one in stated.get("title", ())),
        subjects=tuple(
            _text(item) for one in stated.get("subject", ()) for item in one.iter() if _local(item) == "li"
        ),
        author=" ".join(NO_AUTHOR.sub("", " ".join(map(_text, stated.get("creator", ())))).split()),
        licences=tuple(_resource(one) or _text(one) for one in stated.get("license", ())),
    )


def concept_of(name: str, described: Described, shared: int, concepts: Concepts) -> Concept | None:
    """What a drawing shows, by its title or the name of its file; None if neither can be read. `shared`: how
    many files have the title."""
    stem = PurePosixPath(name).stem
    group = GROUPS.get(name.split("/", 1)[0])
    plain = described.title.lower()
    own = 2 < len(plain) <= LONGEST and not NO_TITLE.search(plain)
    if FLAGS.match(name):
        place = _words(described.title if own and shared <= MANY else stem)
        if not place:
            return None
        known = concepts.find("-".join(["flag", *place]))
        return known if known and known.chinese else concepts.titled("flag: " + " ".join(place), group=9)
    tags = {one.lower().replace("_", " ") for one in described.subjects}
    tags = {tag for tag in tags if len(tag) > 2 and not NO_SUBJECT.search(tag)}
    subjects = {word for tag in tags for word in tag.split()}
    begins = letters(stem).startswith(letters(described.title)[:6])
    readings = [_words(_without(stem, described.author))]
    if own and (begins or shared <= MANY):
        readings.insert(0, _words(described.title))
    for words in readings:
        counted = [concepts.knows(word) or word in subjects for word in words if word not in WORDS_ASIDE]
        if counted and 2 * sum(counted) >= len(counted):
            return _titled(concepts, words, sorted(tags), group)
    return None


def _titled(concepts: Concepts, words: list[str], tags: list[str], group: int | None) -> Concept:
    """CLDR's concept, but not its animal for a computer's mouse."""
    text = re.sub(r" bw$", " in black and white", " ".join(words))
    concept = concepts.titled(text, tags=tags, group=group)
    if group != THINGS or concept.group == THINGS:
        return concept
    key = f"name:{letters(text)}"
    return Concept(key, concept.base, concept.base_name, text, "", tuple(tags), (), group)


def _words(name: str) -> list[str]:
    """In small letters, without numbers at the end."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    plain = re.sub(r"\bb\s*(?:&(?:amp;)*|and)\s*w\b", "bw", fold(apart))
    found = [word for word in re.findall(r"[a-z0-9]+", plain.replace("&amp;", " and ")) if word != "aiga"]
    while found and (found[-1].isdigit() or len(found[-1]) == 1):
        found.pop()
    return [re.sub(r"(?<=[a-z]{3})\d+$", "", word) for word in found]


def _without(stem: str, author: str) -> str:
    """The name of a file without its maker's, of which the library put as much behind it as had room."""
    parts = re.sub(r"_+\d*$", "", stem).split("_")
    maker = letters(author)
    for start in range(1, len(parts)):
        if maker and maker.startswith(letters("".join(parts[start:]))):
            return "_".join(parts[:start])
    return "_".join(parts)


def _local(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _text(element: ElementTree.Element) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", " ".join(element.itertext())).split())


def _resource(element: ElementTree.Element) -> str:
    return next((value for key, value in element.attrib.items() if key.endswith("resource")), "")
