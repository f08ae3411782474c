"""Captions for a drawing: CLDR's names made into phrases, with the words for the style, in two languages.

Every picture has a few, always the same ones: the name with its style (first), the name alone, and others
with keywords, with the background, or in a sentence, chosen by a hash of what is shown and of the style.
"""

import re
from collections.abc import Sequence

from impasto.data.glyphs.concepts import Concept
from impasto.data.glyphs.packages import GlyphSet
from impasto.data.glyphs.splits import fraction
from impasto.data.records import Caption

TAGS = 3  # keywords in a caption
LONGEST = 160  # characters
THINGS = (0, 1, 3, 4, 5, 6, 7)  # groups of which one can say "a ..."
# Things that one does not count; the last word of what is named.
UNCOUNTED = frozenset(
    re.findall(
        r"\w+",
        "rice bread milk sake tea coffee honey butter salt bacon meat cheese fire water air hair ice money "
        "mail news rain snow wind fog ginger garlic corn popcorn seaweed food curry spaghetti sushi music "
        "luggage hay wood soap ramen oden dango fuji liberty japan sunrise sunset footwear baseball "
        "basketball volleyball tennis football softball badminton golf sweat yarn",
    )
)
COUNTED = ("ring", "king", "wing", "building", "painting", "string", "earring", "duckling", "dumpling")
TOGETHER = re.compile(r"\b(?:and|or|people|men|women|o'clock|\w+-thirty)\b")
PERSON = re.compile(r"(?:man|woman|person|boy|girl|child|baby|mother|father)\b")
# In English and in Chinese, by what a set calls its pictures.
SENTENCES = {
    "emoji": (
        (
            "an emoji of {thing}, {style}",
            "a picture of {thing} in {style}",
            "a drawing of {thing}, {style}",
            "{thing} drawn in {style}",
        ),
        (
            "{style}的{thing}表情符号",
            "一幅{style}的{thing}图画",
            "用{style}画的{thing}",
            "{thing}的{style}图标",
        ),
    ),
    "icon": (
        ("an icon of {thing}, {style}", "a picture of {thing}, {style}", "{thing} drawn as an icon, {style}"),
        ("{thing}的{style}图标", "一幅{thing}的图画，{style}", "{thing}图标，{style}"),
    ),
    "drawing": (
        ("a drawing of {thing}, {style}", "a picture of {thing}, {style}", "{thing} drawn in {style}"),
        ("一幅{style}的{thing}图画", "用{style}画的{thing}", "{thing}的图画，{style}"),
    ),
    "photograph": (
        ("a photograph of {thing}", "a photo of {thing}", "{thing}, cut out of a photo"),
        ("一张{thing}的照片", "{thing}的照片", "{thing}的实物照片"),
    ),
}


def captions_of(
    concept: Concept,
    glyph_set: GlyphSet,
    background: tuple[str, str] = ("white", "白色"),
    tint: tuple[str, str] = ("", ""),
) -> tuple[Caption, ...]:
    """At least two; `background` and `tint` are named in English and Chinese. The first is "NAME, STYLE"."""
    choice = fraction("openglyphs caption", concept.key, glyph_set.style)
    sentences = [some[int(choice * len(some))] for some in SENTENCES[glyph_set.called]]
    style = f"{tint[0]} {glyph_set.english}".strip()
    english = _english(concept, style, background[0], sentences[0], choice)
    style = tint[1] + glyph_set.chinese
    chinese = _chinese(concept, style, background[1], sentences[1], choice) if concept.chinese else []
    found = [Caption(" ".join(text.split()), "en") for text in english]
    found += [Caption(text, "zh") for text in chinese]
    return tuple(dict.fromkeys(caption for caption in found if len(caption.text) <= LONGEST))


def _english(concept: Concept, style: str, background: str, sentence: str, choice: float) -> list[str]:
    plain = phrase(concept.english, concept.group, article=False)
    thing = phrase(concept.english, concept.group)
    found = [
        f"{thing}, {style}",
        plain,
        sentence.format(thing=thing, style=style),
        f"{thing} on a {background} background, {style}",
    ]
    tags = _keywords(concept.english_tags, concept.english, choice)
    return [*found, f"{plain}, {', '.join(tags)}, {style}"] if tags else found


def _chinese(concept: Concept, style: str, background: str, sentence: str, choice: float) -> list[str]:
    thing = phrase_chinese(concept.chinese)
    found = [
        f"{thing}，{style}",
        thing,
        sentence.format(thing=thing, style=style),
        f"{background}背景上的{thing}，{style}",
    ]
    tags = [tag for tag in _keywords(concept.chinese_tags, "", choice) if tag not in thing]
    return [*found, f"{thing}，{'、'.join(tags)}，{style}"] if tags else found


def phrase(name: str, group: int | None, article: bool = True) -> str:
    """A CLDR name as one says it: "woman: light skin tone, red hair" is "a woman with light skin tone and red
    hair", "flag: Chile" is "the flag of Chile"."""
    name = re.sub(r"[“”\"]", "", name.replace("’", "'")).strip()
    head, _, rest = name.partition(": ")
    details = [part for part in re.split(r", |: ", rest) if part]
    if head == "flag":
        return f"the flag of {rest}" if article else f"flag of {rest}"
    if head == "keycap":
        return f"the keycap {rest}" if article else f"keycap {rest}"
    if head in ("family", "kiss", "couple with heart"):
        people = [part for part in details if not part.endswith("skin tone")]
        tones = [part for part in details if part.endswith("skin tone")]
        head += f" of {_listed(people)}" if people else ""
        details = tones
    facing = [part for part in details if part.startswith("facing")]
    having = [part for part in details if part not in facing]
    if having == ["bald"]:
        head, having = f"bald {head}", []
    elif "bald" in having:
        head, having = f"bald {head}", [part for part in having if part != "bald"]
    having = ["a beard" if part == "beard" else part for part in having]
    joint = " and " if " with " in head and " of " not in head else " with "
    text = head + (joint + _listed(having) if having else "") + "".join(f" {part}" for part in facing)
    return f"{_article(head)}{text}" if article and group in THINGS else text


def phrase_chinese(name: str) -> str:
    """ "女老师: 中等肤色" is "中等肤色的女老师", "旗: 智利" is "智利旗"."""
    name = re.sub(r"[“”\"]", "", name).replace("：", ":").replace("中等-", "中等偏").strip()
    head, _, rest = name.partition(":")
    apart = re.sub("(肤色|男人|女人|男孩|女孩|成人|儿童)(?=.)", r"\1,", rest)  # written without a comma
    details = [part.strip() for part in re.split("[,，:]", apart) if part.strip()]
    if not details:
        return head
    if head in ("旗", "旗帜"):
        return f"{''.join(details)}旗"
    if head in ("按键", "键帽"):
        return f"{head}{''.join(details)}"
    return f"{'、'.join(details)}的{head}"


def _article(head: str) -> str:
    """ "a ", "an " or nothing, by the noun before "with", "of" and the like."""
    noun = re.split(r" (?:with|of|on|in|without|from|at|over|behind) ", head)[0]
    last = noun.split()[-1].lower()
    if PERSON.match(head) and " and " not in noun:
        return "a "
    plural = last.endswith("s") and not last.endswith(("ss", "us", "is"))
    doing = last.endswith("ing") and last not in COUNTED
    if plural or doing or last in UNCOUNTED or head[:1].isupper() or TOGETHER.search(noun):
        return ""
    silent = head.startswith(("hour", "heir", "honest"))
    sounded = re.match(r"(?:un[ai]|us[ae]|eu|one\b|uk)", head) is not None
    return "an " if silent or (head[0] in "aeiou" and not sounded) else "a "


def _listed(parts: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + parts[-1]


def _keywords(tags: Sequence[str], name: str, choice: float) -> list[str]:
    """A few of the tags that say something new, another few for another style."""
    known = set(re.findall(r"\w+", name.lower()))
    new = [tag for tag in tags if not set(re.findall(r"\w+", tag.lower())) <= known and len(tag) < 25]
    start = int(choice * 997) % max(1, len(new))
    return (new[start:] + new[:start])[:TAGS]
