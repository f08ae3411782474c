"""Photographs among the stamps of Tux Paint: cut out of their backgrounds, with a line of text in many
languages.

Which of the stamps are photographs was told by looking at them. The package says GPL of them all; its list of
changes says something else of those in STATED. Pictures that it says are from an exchange of stock
photographs are left out. A stamp's line is taken for a name if it is one ("A steam locomotive."), else the
name of its file is ("Eat your broccoli!"); Chinese lines that say something else than the English ones are
left out (WRONG).
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from impasto.data.glyphs.concepts import Concept, Concepts
from impasto.data.glyphs.fetch import read_members
from impasto.data.glyphs.glyph import Glyph
from impasto.data.glyphs.packages import GlyphSet
from impasto.data.glyphs.render import Drawing
from impasto.data.records import Faults

FOLDER = "usr/share/tuxpaint/stamps/"
GROUPS = {"animals": 3, "plants": 3, "food": 4, "town": 5, "vehicles": 5, "hobbies": 6, "sports": 6}
GROUPS |= {"people": 1, "household": 7, "clothes": 7, "medical": 7, "military": 7, "seasonal": 7}
DRAWN = re.compile(
    r".*cartoon/|.*_(mirror|flip)\b|symbols/(?!money/(canadian|japanese|us)/)|naturalforces/|town/flags/"
    r"|seasonal/(easter|hanukkah|newyears|winter)/|seasonal/halloween/(?!grave)"
    r"|seasonal/christmas/(Santa|bow|hard_candy|lamp|santahat|star|stocking|tree|xmas_tp_bulb)"
    r"|town/roadsigns/(arrow|crossroads|give|hospital|roundabout|stop|t-junction|toilets|xing|yield)"
    r"|town/(usps|monuments/inukshuk-outline)|clothes/(t_|button)|people/body_parts/|medical/tooth|food/pizza"
    r"|animals/mammals/hedgehog|household/arttools/highlighter|household/dishes/glass|space/planets/0_sun"
    r"|vehicles/emergency/sedan_police|military/fireman"
)
STOCK = frozenset(("grapes", "sliced_orange", "sliced_lime", "pineapple"))
SHARED = "of VHSS Irimpanam school"
# What the list of changes says of pictures: licence, maker.
STATED = {
    **dict.fromkeys(("adeenia", "anthoorium", "appooppanthady", "bolsom"), ("CC-BY-SA-3.0", SHARED)),
    **dict.fromkeys(("chemparathi", "chuvanna_plastic_poo"), ("CC-BY-SA-3.0", SHARED)),
    **dict.fromkeys(
        ("pelican", "heron_greatblue", "heron_greatblue_flying"), ("CC-BY-SA-2.5", "Erinn Lynch")
    ),
    "inukshuk-photo": ("CC-BY-SA-2.5", "Ansgar Walk"),
    "German_Christmas_toy": ("CC-BY-SA", "André Karwath"),
    "Brown_slug": ("GFDL or CC-BY-SA-2.5", "Guttorm Flatabø"),
    "helmeted_guineafowl": ("GFDL", "Paul Venter"),
    "Christmas_pudding": ("GFDL", "Musical Linguist at Wikipedia"),
    "Lightbulb": ("GFDL", "KMJ and Edokter at Wikipedia"),
    **dict.fromkeys(("Apricot_whole", "Cherry_Stella", "Strawberry2"), ("GFDL", "Benjamint444 at Wikipedia")),
    "Woodlouse": ("GFDL", "Joaquim Alves Gaspar"),
    "Mince_Pie": ("CC-BY-2.5", "Jmb at Wikipedia"),
    "firetruck": ("CC-BY-2.5", "Aaron M. Lang"),
    "Roast_turkey": ("CC-BY-2.0", "Patrick Fitzgerald"),
    **dict.fromkeys(("Candy_cane_photo_1", "Candy_cane_photo_2"), ("public domain", "Kathleen French")),
    "Christmas_Tree_photo": ("public domain", "Jorge Barrios"),
    "stethoscope": ("public domain", ""),
    **dict.fromkeys(("shrimp", "lobster", "seahorse"), ("public domain", "NOAA")),
}
# Chinese lines that are about something else: an onion for a lion, a pear for a bear.
WRONG = frozenset(
    re.findall(
        r"[\w-]+",
        "lion lion-2 bear xanthia yak sea_lion tucan nandou chilepepper anemone_red anthoorium bolsom "
        "red-gazania tree336 xmaswreath grave-b grave-i pen_dryerase rambutan terex dumper blackbird",
    )
)
# Files whose names say more than their lines.
BY_FILE = frozenset(("rambutan", "bluegroper", "hoverfly", "tomato", "dead_end_sign", "school_sign"))
NAME = re.compile(r"(?:(?:An?|The|Some|Our|Another) )?(.+)")
NO_NAME = re.compile(r"\b(is|are|means?|lets|has|stands|remember|this|it's|your?|we)\b", re.IGNORECASE)
MEASURES = re.compile(r"^一[只个朵支把辆位棵条艘座匹头颗张枚架台]")


def read_stamps(path: Path, glyph_set: GlyphSet, concepts: Concepts, faults: Faults) -> Iterator[Glyph]:
    """Every photograph with a line of text, sorted by its place."""
    members = read_members(
        path, lambda name: name.startswith(FOLDER) and name.endswith((".png", ".svg", ".txt"))
    )
    files = {name.removeprefix(FOLDER): data for name, data in members}
    for name in sorted(files):
        place = PurePosixPath(name)
        lines = files.get(str(place.with_suffix(".txt")))
        drawn = DRAWN.match(name) or str(place.with_suffix(".svg")) in files
        if place.suffix != ".png" or drawn or lines is None:
            continue
        if place.stem in STOCK:
            faults.add("from an exchange of stock photographs", f"{glyph_set.style}:{name}")
            continue
        licence, author = STATED.get(place.stem, ("", ""))
        concept = concept_of(place, lines.decode("utf-8", "replace").splitlines(), concepts)
        yield Glyph(name, concept, Drawing("", files[name], crop=True), licence=licence, author=author)


def concept_of(place: PurePosixPath, lines: list[str], concepts: Concepts) -> Concept:
    """What a photograph shows: by the first line, which is English, or by the name of the file."""
    first = re.split(r"[.!?—]|[,;:] | \(", lines[0].strip() if lines else "")[0].strip()
    for mark in '“”"':
        first = first.replace(mark, "")
    tags = [part for part in place.parts[:-1] if part.isalpha()][:2]
    group = GROUPS.get(place.parts[0])
    if not first or NO_NAME.search(first) or place.stem in BY_FILE:
        stem = re.sub(r"photo|\d+", "", place.stem)
        words = " ".join(re.findall(r"[a-z]+", stem.lower()))
        return concepts.titled(words, tags=tags, group=group)
    found = NAME.fullmatch(first)
    assert found is not None
    english = " ".join(word if word.isupper() else word.lower() for word in found[1].split())
    chinese = next((line.partition("=")[2] for line in lines if line.startswith("zh_CN.utf8=")), "")
    chinese = "" if place.stem in WRONG else re.split("[。！，（!,(—－]", chinese.strip())[0].strip()
    chinese = MEASURES.sub("", chinese) if re.search("[\u4e00-\u9fff]", chinese) else ""
    return concepts.titled(english, chinese=chinese, tags=tags, group=group)
