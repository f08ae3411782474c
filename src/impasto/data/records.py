"""A set of pictures with captions, whatever it is stored in: what a sample of it is, and what can be wrong.

A set (`Records`) is indexed: any sample is read by its number. What can be seen to be bad without reading a
picture (no caption file, a member missing) is left out when the set is opened and stands in `faults`; what
only shows on reading raises BadSampleError.
"""

import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from impasto.data.options import Format

UNKNOWN_LANGUAGE = "und"  # as BCP 47 writes it
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
CAPTION_FIELDS = ("captions", "caption", "texts", "text")
LANGUAGE_FIELD = re.compile(r"(?:caption|text)s?[_.-]([a-z]{2}(?:-[A-Za-z]{2,4})?)")
NAMES_SHOWN = 2


class DataError(ValueError):
    """A set that cannot be used; the message is one line and names the way out."""


class BadSampleError(Exception):
    """One sample that cannot be used: the reason, of a few fixed ones, and the file it came from."""

    def __init__(self, reason: str, name: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.reason, self.name = reason, name


class Caption(NamedTuple):
    """A text without line breaks, and its language as the set states it ("und" where it does not)."""

    text: str
    language: str


class Record(NamedTuple):
    """A sample as it is stored. `picture`: the bytes of a JPEG, PNG or WebP file, not looked at yet; at least
    one caption; `details`: what else the set says of it (licence, address ...), ready for JSON."""

    name: str
    picture: bytes
    captions: tuple[Caption, ...]
    details: Mapping[str, Any]


class Faults:
    """Bad samples, counted by reason and by file. A file counts once for a reason. Safe between threads."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, None]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return sum(len(names) for names in self._found.values())

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return ((reason, name) for reason, names in self._found.items() for name in names)

    def add(self, reason: str, name: str) -> None:
        """Note that the sample `name` was left out; safe to call from several threads."""
        with self._lock:
            self._found.setdefault(reason, {})[name] = None

    def files(self) -> dict[str, list[str]]:
        """{reason: files}, in the order in which they were met."""
        return {reason: list(names) for reason, names in self._found.items()}

    def counts(self) -> dict[str, int]:
        """{reason: number of samples}."""
        return {reason: len(names) for reason, names in self._found.items()}

    def summary(self) -> str:
        """One line: '2 no caption (a.jpg, b.jpg), 1 picture damaged (c.jpg)'."""
        parts = []
        for reason, names in self.files().items():
            more = ", ..." if len(names) > NAMES_SHOWN else ""
            parts.append(f"{len(names)} {reason} ({', '.join(names[:NAMES_SHOWN])}{more})")
        return ", ".join(parts) or "none"


class Records(Protocol):
    """An indexed set. `format`: its name in the options; `faults`: what was left out when it was opened;
    `fingerprint`: changes when the numbering of the samples may have changed."""

    @property
    def format(self) -> Format: ...
    @property
    def faults(self) -> Faults: ...
    @property
    def fingerprint(self) -> str: ...
    def __len__(self) -> int: ...
    def key(self, index: int) -> str:
        """What a sample is called, without reading it: its path or key within the set, or its row."""
        ...

    def read(self, index: int) -> Record:
        """Sample 0 <= index < len. Raises BadSampleError. Safe to call from several threads."""
        ...


class Part:
    """Some samples of a set, numbered anew in their order. `indices` [N]: their numbers in the whole."""

    def __init__(self, whole: Records, indices: np.ndarray) -> None:
        self._whole, self._indices = whole, indices
        self.format, self.faults, self.fingerprint = whole.format, whole.faults, whole.fingerprint

    def __len__(self) -> int:
        return len(self._indices)

    def key(self, index: int) -> str:
        return self._whole.key(int(self._indices[index]))

    def read(self, index: int) -> Record:
        return self._whole.read(int(self._indices[index]))


def named_in(captions: Iterable[Caption], words: Sequence[str]) -> bool:
    """Whether one of the captions contains one of the words, whatever their case."""
    texts = [caption.text.lower() for caption in captions]
    return any(word.lower() in text for word in words for text in texts)


def decode_text(data: bytes, name: str) -> str:
    """UTF-8, with or without a byte order mark. Raises BadSampleError."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadSampleError("caption not UTF-8", name) from None


def captions_of(fields: Mapping[str, Any], name: str, column: str = "") -> tuple[Caption, ...]:
    """The captions in a table row or a JSON object; empty if there are none.

    They are the field `column`, or else the first of `captions`, `caption`, `texts` and `text` that holds
    some, and in both cases what stands in `caption_en`, `text_zh` and so on. A field holds a text, a table
    from language to texts, or a list of texts or of {"text": ..., "language": ...}. Raises BadSampleError.
    """
    found: list[Caption] = []
    for field in (column,) if column else CAPTION_FIELDS:
        found = list(_captions_in(fields.get(field), UNKNOWN_LANGUAGE, name))
        if found:
            break
    for field, value in fields.items():
        match = LANGUAGE_FIELD.fullmatch(field)
        if match and field != column:
            found += _captions_in(value, match[1], name)
    return tuple(dict.fromkeys(found))


def caption_lines(text: str, name: str, language: str = UNKNOWN_LANGUAGE) -> tuple[Caption, ...]:
    """A caption file: one caption a line, empty lines left out. Raises BadSampleError."""
    return tuple(c for line in text.splitlines() for c in _captions_in(line, language, name))


def _captions_in(value: Any, language: str, name: str) -> Iterator[Caption]:
    if isinstance(value, str):
        text = " ".join(value.split())
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise BadSampleError("caption not UTF-8", name)
        if text:
            yield Caption(text, language)
    elif isinstance(value, Mapping) and isinstance(value.get("text"), str):
        stated = value.get("language")
        yield from _captions_in(value["text"], stated if isinstance(stated, str) else language, name)
    elif isinstance(value, Mapping):
        for stated, texts in value.items():
            yield from _captions_in(texts, str(stated), name)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _captions_in(item, language, name)
