"""The rules of `impasto data select`: options, and each rule as the SQL that says which rows it drops."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from impasto.config import ConfigError, nearest
from impasto.data.select_columns import Preset, check_mapping

# Letters of a writing system, as regular expressions know it; a caption is of it by its share of letters.
SCRIPTS = {
    "latin": r"\p{Latin}",
    "zh": r"\p{Han}",
    "ja": r"\p{Han}\p{Hiragana}\p{Katakana}",
    "ko": r"\p{Hangul}",
    "cyrillic": r"\p{Cyrillic}",
    "greek": r"\p{Greek}",
    "arabic": r"\p{Arabic}",
    "hebrew": r"\p{Hebrew}",
    "thai": r"\p{Thai}",
    "devanagari": r"\p{Devanagari}",
}
KANA = r"[\p{Hiragana}\p{Katakana}]"
DIGESTS = 1 << 128


@dataclass(frozen=True, kw_only=True)
class SelectionOptions:
    """`null` (for numbers) or `[]` (for lists) sets a rule off. A value that equals a bound passes.
    ConfigError for a value out of range, an unknown role or script."""

    preset: Preset = "auto"  # for each file, the one of which it has more columns
    columns: dict[str, str] = field(default_factory=dict)  # {role: column}, over the preset
    keep: tuple[str, ...] = ()  # columns of the tables to hand on besides the scores
    missing: Literal["drop", "keep"] = "drop"  # rows without the value that a rule looks at
    minimum_side: int | None = 64  # pixels: what aurora-64 trains at, smaller ones would be enlarged
    maximum_aspect: float | None = 3.0  # longer side by shorter: COYO-700M's own bound, by its README
    minimum_similarity: float | None = None  # off: LAION-2B-en is cut at 0.28 already (recollection)
    minimum_aesthetic: float | None = None  # off: a matter of taste; LAION's subsets took 4.75 to 8
    maximum_watermark: float | None = 0.8  # laion-aesthetic's, by img2dataset's page of it
    maximum_unsafe: float | None = 0.5  # laion-aesthetic's; COYO-700M was cut there as well
    minimum_caption: int | None = 6  # characters: COYO-700M dropped texts of 5 or fewer
    maximum_caption: int | None = 1000  # characters: the longest of COYO-700M, by its README
    languages: tuple[str, ...] = ()  # none: all. Of the column `language`, else names of SCRIPTS
    language_from: Literal["auto", "column", "script"] = "auto"  # auto: the column if a file has it
    script_share: float = 0.5  # of a caption's letters: most of them
    share: float = 1.0  # of the addresses, by a hash of seed and address; drawn before duplicates are sought
    duplicates: tuple[Literal["pair", "url", "hash"], ...] = ("url",)  # 12 % of COYO-700M's, by its README
    maximum_rows: int | None = None  # the first by the same hash
    seed: int = 0
    part_rows: int = 1_000_000  # a part file is read whole by img2dataset; 100 of its shards

    def __post_init__(self) -> None:
        check_mapping(self.columns)
        for name in ("maximum_aspect", "minimum_side", "minimum_caption", "maximum_rows", "part_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value} should be at least 1, or null for no such rule")
        if not 0 < self.share <= 1 or not 0 < self.script_share <= 1:
            raise ConfigError("share and script_share should be above 0 and at most 1")
        if (self.minimum_caption or 0) > (self.maximum_caption or float("inf")):
            raise ConfigError("minimum_caption is above maximum_caption: no row could be kept")
        if self.language_from == "script":
            check_scripts(self.languages)


class Rule(NamedTuple):
    """`drops`: SQL over the roles, true for the rows to drop; NULL keeps. `off`: the setting without it."""

    name: str
    roles: tuple[str, ...]
    drops: str
    off: str


def check_scripts(languages: tuple[str, ...]) -> None:
    """ConfigError for what cannot be told from the letters."""
    for language in languages:
        if language not in SCRIPTS:
            raise ConfigError(
                f"languages={language}: without a column `language` only scripts can be told; "
                f"{nearest(language, SCRIPTS)}"
            )


def row_rules(options: SelectionOptions, by_column: bool) -> list[Rule]:
    """The rules that look at one row, in their order. `by_column`: the language is stated."""
    size, aspect = ("width", "height"), _double(options.maximum_aspect)
    bounds = [
        Rule(
            "minimum_side",
            size,
            f"width < {options.minimum_side} OR height < {options.minimum_side}",
            "minimum_side=null",
        ),
        Rule(
            "maximum_aspect",
            size,
            f"width > {aspect} * height OR height > {aspect} * width",
            "maximum_aspect=null",
        ),
        *(
            Rule(name, (role,), f"{role} {sign} {_double(getattr(options, name))}", f"{name}=null")
            for name, role, sign in (
                ("minimum_similarity", "similarity", "<"),
                ("minimum_aesthetic", "aesthetic", "<"),
                ("maximum_watermark", "watermark", ">"),
                ("maximum_unsafe", "unsafe", ">"),
            )
        ),
        Rule("minimum_caption", (), f"length(caption) < {options.minimum_caption}", ""),
        Rule("maximum_caption", (), f"length(caption) > {options.maximum_caption}", ""),
    ]
    rules = [
        Rule("no url", ("url",), "url IS NULL", ""),
        Rule("no caption", ("caption",), "caption IS NULL", ""),
    ]
    for rule in bounds:
        if getattr(options, rule.name) is not None:
            rules += _with_missing(rule, options)
    if options.languages:
        rules += _with_missing(_language(options, by_column), options)
    if "hash" in options.duplicates and options.missing == "drop":
        rules.append(Rule("no hash", ("hash",), "hash IS NULL", ""))
    if options.share < 1:
        limit = int(options.share * DIGESTS)
        rules.append(Rule("share", (), f"{rank(options)} >= CAST('{limit}' AS UHUGEINT)", ""))
    return [rule for number, rule in enumerate(rules) if rule not in rules[:number]]  # "no size" once


def needs(rules: list[Rule], options: SelectionOptions) -> dict[str, str]:
    """{role: the setting without the rule that looks at it, if there is one}."""
    needed = {role: rule.off for rule in reversed(rules) for role in rule.roles}
    needed |= {"url": "", "caption": ""}
    if "hash" in options.duplicates:
        others = ",".join(way for way in options.duplicates if way != "hash")
        needed["hash"] = f"duplicates={others or '[]'}"
    return needed


def rank(options: SelectionOptions) -> str:
    """SQL: 128 bits of the address and the seed; the same everywhere."""
    return f"md5_number('{options.seed}:' || url)"


def reason(rules: list[Rule]) -> str:
    """SQL: the number of the first rule that drops a row, or NULL."""
    cases = " ".join(f"WHEN {rule.drops} THEN {number}" for number, rule in enumerate(rules))
    return f"CASE {cases} END"


def _double(value: float | None) -> str:
    """A number as a double: a plain 0.8 would be a decimal, and compared as one."""
    return f"CAST({value!r} AS DOUBLE)"


def _with_missing(rule: Rule, options: SelectionOptions) -> list[Rule]:
    """The rule, after one for the rows that lack what it looks at."""
    if not rule.roles or options.missing == "keep":
        return [rule]
    name = "size" if "width" in rule.roles else rule.roles[0]
    return [
        Rule(f"no {name}", rule.roles, " OR ".join(f"{role} IS NULL" for role in rule.roles), rule.off),
        rule,
    ]


def _language(options: SelectionOptions, by_column: bool) -> Rule:
    if by_column:
        names = ", ".join("'" + name.lower().replace("'", "''") + "'" for name in options.languages)
        stated = "lower(language)"
        outside = f"{stated} NOT IN ({names}) AND regexp_extract({stated}, '^[a-z]+') NOT IN ({names})"
        return Rule("languages", ("language",), outside, "languages=[]")
    check_scripts(options.languages)
    passes = " OR ".join(_of_script(name, options.script_share) for name in options.languages)
    return Rule("languages", (), f"NOT coalesce({passes}, false)", "languages=[]")


def _of_script(name: str, share: float) -> str:
    """SQL: whether enough letters of the caption are of a script. Most captions are ASCII: that is quick."""
    plain = "regexp_matches(caption, '[A-Za-z]')" if name == "latin" else "false"
    letters = r"regexp_replace(caption, '\P{L}+', '', 'g')"
    others = f"length(regexp_replace({letters}, '[{SCRIPTS[name]}]+', '', 'g'))"
    found = f"length({letters}) > 0 AND {others} <= {_double(1 - share)} * length({letters})"
    if name in ("zh", "ja"):  # Han letters are of both; only Japanese has kana
        found += f" AND {'NOT ' if name == 'zh' else ''}regexp_matches(caption, '{KANA}')"
    return f"CASE WHEN strlen(caption) = length(caption) THEN {plain} ELSE {found} END"
