"""Read a prompt back into the facts it states."""

from __future__ import annotations

from impasto.data.scenes.chinese import ChineseReader
from impasto.data.scenes.english import EnglishReader
from impasto.data.scenes.lexicon import is_chinese, tokenise
from impasto.data.scenes.requirement import Described, Requirement
from impasto.data.scenes.world import MAX_OBJECTS


def parse_prompt(text: str) -> Requirement:
    """The facts that an English or Chinese prompt states, in order of mention.

    Raises ValueError with one line that names the word that was not understood.

    >>> parse_prompt("a red circle left of a blue star").relations
    (Relation(kind='left of', subject=0, object=1),)
    """
    tokens = tokenise(text)
    reader = ChineseReader(tokens) if is_chinese(text) else EnglishReader(tokens)
    reader.read()
    if not reader.objects:
        raise ValueError("the prompt names no object: describe one, for example 'a red circle'")
    total = sum(int(draft["count"]) for draft in reader.objects)
    if total > MAX_OBJECTS:
        raise ValueError(f"the prompt asks for {total} objects: a scene holds at most {MAX_OBJECTS}")
    return Requirement(
        tuple(Described(**draft) for draft in reader.objects),  # type: ignore[arg-type]
        tuple(dict.fromkeys(reader.relations)),
        reader.background,
    )
