"""Which column of a table of web pictures holds what: the names LAION and COYO use, and what a file has.

Checked: LAION's names in img2dataset's dataset_examples (URL, TEXT, similarity, punsafe, pwatermark,
aesthetic, AESTHETIC_SCORE, LANGUAGE) and in dataset cards of subsets (WIDTH and HEIGHT, as float64);
COYO-700M's in the table of its README. Recollected, not checked: LAION's `hash` is of address and text, not
of the picture; so it is no preset for `hash`.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from impasto.config import ConfigError, nearest

Preset = Literal["auto", "laion", "coyo"]
ROLES = (
    "url",
    "caption",
    "width",
    "height",
    "similarity",
    "aesthetic",
    "watermark",
    "unsafe",
    "hash",
    "language",
)
PRESETS: dict[str, dict[str, tuple[str, ...]]] = {
    "laion": {
        "url": ("URL",),
        "caption": ("TEXT",),
        "width": ("WIDTH",),
        "height": ("HEIGHT",),
        "similarity": ("similarity",),
        "aesthetic": ("AESTHETIC_SCORE", "aesthetic"),
        "watermark": ("pwatermark",),
        "unsafe": ("punsafe",),
        "language": ("LANGUAGE",),
    },
    "coyo": {
        "url": ("url",),
        "caption": ("text",),
        "width": ("width",),
        "height": ("height",),
        "similarity": ("clip_similarity_vitb32",),  # of two; LAION's similarity is by the same network
        "aesthetic": ("aesthetic_score_laion_v2",),
        "watermark": ("watermark_score",),
        "unsafe": ("nsfw_score_opennsfw2",),  # of two; the other is nsfw_score_gantman
        "hash": ("image_phash",),
        "language": ("language",),  # COYO has none; tables made from it may
    },
}
SQL_TYPES = {"url": "VARCHAR", "caption": "VARCHAR", "width": "INTEGER", "height": "INTEGER"} | {
    role: "DOUBLE" if role in ("similarity", "aesthetic", "watermark", "unsafe") else "VARCHAR"
    for role in ROLES[4:]
}
KEY = "select_key"
# Fields that img2dataset writes itself: a column of that name would stand twice in its tables.
RESERVED = {
    "key", "status", "error_message", "url", "caption", "width", "height",
    "original_width", "original_height", "exif", "md5", "sha256", "sha512",
}  # fmt: skip


def find_columns(
    file: str, names: Sequence[str], preset: Preset, mapped: Mapping[str, str], needed: Mapping[str, str]
) -> dict[str, str]:
    """{role: column of this file}. `needed`: {role: the setting without the rule
    that looks at it, if there is one}. ConfigError if one is missing."""
    actual = {name.lower(): name for name in names}
    if preset == "auto":
        preset = max(("laion", "coyo"), key=lambda name: sum(_known(actual, name)))
    found = {}
    for role in ROLES:
        choices = (mapped[role],) if role in mapped else PRESETS[preset].get(role, ())
        column = next((actual[choice.lower()] for choice in choices if choice.lower() in actual), None)
        if column is not None:
            found[role] = column
        elif role in needed or role in mapped:
            wanted = choices[0] if choices else role
            way_out = f"--columns {role}=COLUMN"
            if needed.get(role):
                way_out += f", or set the rule off: --set {needed[role]}"
            raise ConfigError(f"{file} has no column '{wanted}'; {nearest(wanted, names)} ({way_out})")
    return found


def check_mapping(mapped: Mapping[str, str]) -> None:
    """Raises ConfigError, with the nearest role, where one of the roles is none."""
    for role in mapped:
        if role not in ROLES:
            raise ConfigError(f"'{role}' is nothing a column can be; {nearest(role, ROLES)}")


def check_kept(file: str, kept: Sequence[str], names: Sequence[str]) -> None:
    """ConfigError unless `file` has every column to keep, under a name that does no harm."""
    for column in kept:
        if column.lower() in RESERVED | set(ROLES) | {KEY}:
            raise ConfigError(f"keep={column}: this name is taken in the selection or by img2dataset")
        if column not in names:
            raise ConfigError(f"{file} has no column '{column}'; {nearest(column, names)} (--set keep=...)")


def quoted(column: str) -> str:
    """A column's name as SQL takes it, whatever is in it."""
    return '"' + column.replace('"', '""') + '"'


def projection(columns: Mapping[str, str], kept: Sequence[str]) -> str:
    """SQL for the columns by role: text trimmed, numbers as numbers; empty text and not-a-number are NULL."""
    parts = [f"{_value(role, columns)} AS {role}" for role in ROLES]
    return ", ".join([*parts, *(quoted(column) for column in kept)])


def _value(role: str, columns: Mapping[str, str]) -> str:
    kind = SQL_TYPES[role]
    if role not in columns:
        return f"CAST(NULL AS {kind})"
    column = quoted(columns[role])
    if kind == "VARCHAR":
        text = f"CAST({column} AS VARCHAR)"
        blank = f"unicode({text}) <= 32 OR unicode(right({text}, 1)) <= 32"  # trim alone is slow
        return f"nullif(CASE WHEN {blank} THEN trim({text}, E' \\t\\r\\n') ELSE {text} END, '')"
    number = f"TRY_CAST({column} AS {kind})"
    if kind == "DOUBLE":  # isnan and comparisons trust pyarrow's statistics, which pass over not-a-number
        return f"CASE WHEN isfinite({number}) THEN {number} END"  # duckdb/duckdb#25521
    return f"CASE WHEN {number} > 0 THEN {number} END"


def _known(actual: Mapping[str, str], preset: str) -> list[bool]:
    """For each name of a preset whether the file writes it just so."""
    return [name in actual.values() for names in PRESETS[preset].values() for name in names]
