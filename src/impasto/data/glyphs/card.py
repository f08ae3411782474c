"""What a finished set says of itself: counts, README.md (the data card), NOTICE, contact sheets."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from impasto.data.glyphs.captions import phrase
from impasto.data.glyphs.glyph import Glyph
from impasto.data.glyphs.notice import notice
from impasto.data.glyphs.pictures import Picture
from impasto.data.glyphs.sources import LABELS
from impasto.data.glyphs.splits import CELL_SHARE, CONCEPT_SHARE, SPLITS, fraction
from impasto.data.records import Faults
from impasto.runtime.files import atomic_write_text

SHEET_ROWS, SHEET_COLUMNS, STYLE_ROWS, CELL = 8, 12, 14, 64
GROUPS = (
    "faces",
    "people and hands",
    "signs of tone and hair",
    "animals and plants",
    "food and drink",
    "travel and places",
    "activities",
    "objects",
    "symbols",
    "flags",
)
OTHER = "without a CLDR name"
CARD = """# Open Glyphs

Emoji and other pictures of openly licensed sets (groups: {groups}), drawn at {size} px
on {backgrounds}, with captions in English and Chinese. Made by `impasto data build openglyphs`, version
{version}; the same command gives the same shards. Look at `sheet-styles.png` first (a concept a row; columns
in the order of the table below), then at the sheets of the styles.

{pictures:,} pictures of {concepts:,} concepts (skin tones not counted) in {styles} styles; {chinese:,}
have Chinese captions; {captions:,} captions, {distinct:,} of them distinct.

## Counts

{table}

`drawings`: in the package, hidden ones, aliases and whole folders left out. Left out, by reason:

{dropped}

Duplicates look the same as a picture further up the table (16 x 16 directions of gradients, 4 x 4 coarse
colours), or show the same and differ by less than 1.5 levels on average.

| licence | pictures |
|---|---|
{licences}

| subject | pictures |
|---|---|
{subjects}

## Splits

- `train`.
- `heldout_concepts`: {concept_share:.0%} of the concepts, by a hash of the concept: in no style and no
  skin tone in `train`.
- `heldout_cells`: {cell_share:.0%} of the pairs of a concept and a style, by a hash of both: the concept
  is in `train` in another style. Two styles with the same light and shade (fluent-3d and fluent-gradient)
  count as one here.

The hashes belong to concept and style alone: the core's splits are the same at any size, on any background,
with any groups beside it (but for the few pictures that are duplicates at one size and not at another).
Related concepts (man and woman teacher, sunrise and sunrise over mountains) are concepts of their own.

## Captions

Every picture has the name with its style first ("a red apple, 3d style"), then the name alone, a sentence,
one with the background, and one with keywords where there are any; the same in Chinese where the concept has
a Chinese name. Names and keywords are CLDR's, from {labels}; for drawings without one, the words of the
icon's own name or the maker's title, mostly in English only.

## Biases and limits

Single things in the middle, frontal, clean, no scenes. People and hands are {people:.0%} of the pictures,
many of them one drawing in five skin tones; flags are {flags:.0%}. The choice of the emoji's subjects is
Unicode's, and tilts to Japan and North America. Keywords are loose ("sassy"). Names of styles are those of
the sets. Chinese names are short, and their translations are uneven.
{notes}
## Licences

Every sample's JSON has `licence`, `attribution`, `package`, `package_version` and `source`; NOTICE lists the
sets, and the pictures whose licence is not their set's.

| package | SHA-256 |
|---|---|
{packages}
"""

# Beside the core.
NOTES = {
    "icons": """
Icons: signs more than pictures. Their names are words in the order of a catalogue ("cash payment coin"),
and often of an action. `game-icons` are drawn in one of eight colours by a hash of their name; `colour` in
the JSON and the captions name it.""",
    "public-domain": """
Clip art: titles of amateurs in the early 2000s, some of them of no use or not English; half of the words have
to be known to CLDR or to the maker's own keywords. About one in three shows an icon of a desktop or a flag.
Nothing in it was looked at one by one; weapons, smoking and stereotypes are among it.""",
    "photographs-mixed-licences": """
Photographs: cut out of their background, of about 120 px; at 128 and 256 px they are enlarged. The licence is
the package's (GPL) unless its list of changes states another. Pictures that it says are from an exchange of
stock photographs are left out; where others come from was not looked into.""",
}


def counts_of(
    pictures: Sequence[Picture], faults: Faults, glyphs: Mapping[str, tuple[list[Glyph], Faults]]
) -> dict[str, Any]:
    """Everything the card states, ready for JSON."""
    dropped: dict[str, Counter[str]] = {style: Counter() for style in glyphs}
    for reason, name in faults:
        dropped[name.split(":", 1)[0]][reason] += 1
    cells = Counter((one.glyph_set.style, one.split) for one in pictures)
    chinese = Counter(one.glyph_set.style for one in pictures if one.concept.chinese)
    licences = {one.glyph_set.style: one.glyph_set.licence for one in pictures}
    styles = {
        style: {
            "licence": licences.get(style, ""),
            "drawings": sum(dropped[style].values()) + sum(cells[style, split] for split in SPLITS),
            "pictures": sum(cells[style, split] for split in SPLITS),
            **{split: cells[style, split] for split in SPLITS},
            "chinese": chinese[style],
            "dropped": dict(dropped[style]),
        }
        for style in glyphs
    }
    return {
        "pictures": len(pictures),
        "concepts": len({one.concept.base for one in pictures}),
        "styles": styles,
        "licences": dict(Counter(one.licence for one in pictures).most_common()),
        "subjects": dict(Counter(_subject(one) for one in pictures).most_common()),
    }


def table_of(counts: Mapping[str, Any]) -> str:
    """A table in markdown: a line a style, and the sum."""
    columns = ("drawings", "pictures", *SPLITS, "chinese")
    lines = [f"| style | licence | {' | '.join(columns)} |", "|" + "---|" * (len(columns) + 2)]
    for style, one in counts["styles"].items():
        lines.append(f"| {style} | {one['licence']} | {' | '.join(f'{one[c]:,}' for c in columns)} |")
    sums = [sum(one[column] for one in counts["styles"].values()) for column in columns]
    return "\n".join([*lines, f"| all | | {' | '.join(f'{value:,}' for value in sums)} |"])


def write_card(
    out: Path,
    pictures: Sequence[Picture],
    counts: dict[str, Any],
    made_of: Mapping[str, Any],
    captions: Sequence[str],
) -> None:
    """README.md, NOTICE and the sheets. `captions`: all of the set."""
    subjects = counts["subjects"]
    groups = list(dict.fromkeys(one.glyph_set.group for one in pictures))
    text = CARD.format(
        groups=", ".join(groups),
        notes="".join(f"{NOTES[group]}\n" for group in groups if group in NOTES),
        size=made_of["size"],
        backgrounds=", ".join(made_of["backgrounds"]),
        version=made_of["version"],
        pictures=counts["pictures"],
        concepts=counts["concepts"],
        styles=len(counts["styles"]),
        chinese=sum(one["chinese"] for one in counts["styles"].values()),
        captions=len(captions),
        distinct=len(set(captions)),
        table=table_of(counts),
        dropped=_dropped(counts),
        licences=_rows(counts["licences"]),
        subjects=_rows(subjects),
        concept_share=CONCEPT_SHARE,
        cell_share=CELL_SHARE,
        labels=LABELS.requirement,
        people=(subjects.get(GROUPS[1], 0)) / counts["pictures"],
        flags=(subjects.get(GROUPS[9], 0)) / counts["pictures"],
        packages="\n".join(f"| {name} | {digest} |" for name, digest in made_of["packages"].items()),
    )
    atomic_write_text(out / "README.md", text)
    used = list({one.glyph_set.style: one.glyph_set for one in pictures}.values())
    apart = [one for one in pictures if one.licence != one.glyph_set.licence]
    credits_ = [f"{one.kept.name}: {one.glyph.attribution_in(one.glyph_set)}" for one in apart]
    licences = {one.licence for one in pictures}
    text = notice(used, str(made_of["size"]), made_of["backgrounds"], licences=licences, apart=credits_)
    atomic_write_text(out / "NOTICE", text)
    write_sheets(out, pictures)


def write_sheets(out: Path, pictures: Sequence[Picture]) -> None:
    """sheet-styles.png: a concept a row, a style a column; sheet-STYLE.png: pictures drawn from the style."""
    from impasto.pictures import contact_sheet, save_png

    styles: dict[str, list[Picture]] = {one.glyph_set.style: [] for one in pictures}
    concepts: dict[str, dict[str, Picture]] = {}
    for one in sorted(pictures, key=lambda one: fraction("openglyphs sheet", one.concept.key)):
        styles[one.glyph_set.style].append(one)
        if one.concept.key == one.concept.base:
            concepts.setdefault(one.concept.key, {})[one.glyph_set.style] = one
    for style, found in styles.items():
        shown = [_open(one) for one in found[: SHEET_ROWS * SHEET_COLUMNS]]
        rows = [shown[start : start + SHEET_COLUMNS] for start in range(0, len(shown), SHEET_COLUMNS)]
        save_png(contact_sheet(rows, cell=CELL), out / f"sheet-{style}.png")
    fullest = sorted(concepts.values(), key=len, reverse=True)[:STYLE_ROWS]
    blank = Image.new("RGB", (1, 1), (250, 249, 246))
    rows = [[_open(one[style]) if style in one else blank for style in styles] for one in fullest]
    labels = [_label(next(iter(one.values()))) for one in fullest]
    if rows:
        save_png(contact_sheet(rows, labels, cell=CELL), out / "sheet-styles.png")


def _label(picture: Picture) -> str:
    return phrase(picture.concept.english, picture.concept.group)


def _open(picture: Picture) -> Image.Image:
    with Image.open(io.BytesIO(picture.spool.read(picture.kept))) as image:
        return image.convert("RGB")


def _subject(picture: Picture) -> str:
    group = picture.concept.group
    return OTHER if group is None or group >= len(GROUPS) else GROUPS[group]


def _dropped(counts: Mapping[str, Any]) -> str:
    lines = []
    for style, one in counts["styles"].items():
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in sorted(one["dropped"].items()))
        lines.append(f"- {style}: {reasons or 'none'}")
    return "\n".join(lines)


def _rows(counts: Mapping[str, int]) -> str:
    return "\n".join(f"| {name} | {number:,} |" for name, number in counts.items())
