"""Blind comparison of two folders of pictures by people: pairs by prompt, shuffled, and how answers count."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from impasto.config import ConfigError
from impasto.metrics.intervals import Estimate, wilson

FORMAT = 1
CHOICES = ("left", "right", "tie")


@dataclass(frozen=True)
class Pair:
    """Pictures of one prompt: the file names in A and in B, and whether A stands on the left."""

    prompt: str
    a: str
    b: str
    a_left: bool


@dataclass(frozen=True)
class Verdict:
    """`share`: how often A was preferred, of the answers that preferred one, with Wilson's interval; None
    where none did."""

    share: Estimate | None
    a: int
    b: int
    ties: int
    unanswered: int


def make_pairs(
    first: Sequence[tuple[str, str | None]],
    second: Sequence[tuple[str, str | None]],
    *,
    seed: int = 0,
    most: int | None = None,
) -> list[Pair]:
    """Pairs from (file name, prompt) of two folders: picture k of a prompt with picture k of it in the other.
    Order and sides are drawn with the seed. Pictures without a prompt and without a partner are left out;
    ConfigError where nothing is left."""
    pairs = []
    found_a, found_b = _by_prompt(first), _by_prompt(second)
    rng = random.Random(seed)
    for prompt in sorted(found_a.keys() & found_b.keys()):
        for a, b in zip(found_a[prompt], found_b[prompt], strict=False):
            pairs.append((prompt, a, b))
    if not pairs:
        raise ConfigError("the folders share no prompt; generate both from the same prompts")
    rng.shuffle(pairs)
    return [Pair(prompt, a, b, rng.random() < 0.5) for prompt, a, b in pairs[:most]]


def key_document(pairs: Sequence[Pair], a: str, b: str, seed: int) -> dict[str, Any]:
    """What the page hides, ready for JSON. `page`: a name for it that tells nothing."""
    left = [{"prompt": p.prompt, "a": p.a, "b": p.b, "a_left": p.a_left} for p in pairs]
    page = hashlib.sha256(json.dumps([left, a, b, seed]).encode()).hexdigest()[:12]
    return {"format": FORMAT, "page": page, "a": a, "b": b, "seed": seed, "pairs": left}


def answer_sheet(page: str, count: int) -> str:
    """The file to fill in: a line for each pair, "left", "right" or "tie" after the comma."""
    head = [f"page,{page}", f"# after each comma: {', '.join(CHOICES)}; leave out what you cannot tell"]
    return "\n".join([*head, *(f"{number}," for number in range(1, count + 1))]) + "\n"


def read_answers(text: str, key: Mapping[str, Any]) -> dict[int, str]:
    """{number of a pair: choice} of a filled-in file. ConfigError for another page's file, and, with its
    line, for what is no answer."""
    answers: dict[int, str] = {}
    page = None
    for number, line in enumerate(text.splitlines(), start=1):
        name, _, value = (part.strip() for part in line.partition(","))
        if not name or name.startswith("#"):
            continue
        if name == "page":
            page = value
            continue
        if not name.isdecimal() or not 1 <= int(name) <= len(key["pairs"]):
            raise ConfigError(f"line {number}: there is no pair '{name}'")
        if value and value.lower() not in CHOICES:
            raise ConfigError(f"line {number}: '{value}' should be {', '.join(CHOICES)} or nothing")
        if int(name) in answers:
            raise ConfigError(f"line {number}: pair {name} was answered before")
        if value:
            answers[int(name)] = value.lower()
    if page != key["page"]:
        raise ConfigError(f"these are answers to page {page}, the key is of page {key['page']}")
    return answers


def score_answers(answers: Mapping[int, str], key: Mapping[str, Any]) -> Verdict:
    """Ties count for neither."""
    wins = {"a": 0, "b": 0, "tie": 0}
    for number, choice in answers.items():
        a_left = key["pairs"][number - 1]["a_left"]
        wins["tie" if choice == "tie" else "a" if (choice == "left") == a_left else "b"] += 1
    decided = wins["a"] + wins["b"]
    share = wilson(wins["a"], decided) if decided else None
    return Verdict(share, wins["a"], wins["b"], wins["tie"], len(key["pairs"]) - len(answers))


def _by_prompt(pictures: Sequence[tuple[str, str | None]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, prompt in pictures:
        if prompt is not None:
            found.setdefault(prompt, []).append(name)
    return found
