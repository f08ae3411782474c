"""Parses of prompts as T2I-CompBench makes them, by spaCy, which is optional."""

from __future__ import annotations

from typing import Any

from impasto.config import ConfigError


class Parser:
    """A pipeline of spaCy with a tagger and a parser: the name of an installed one, or its directory. The
    benchmark's is en_core_web_sm."""

    def __init__(self, pipeline: str) -> None:
        """Raises ConfigError, in one line, without spaCy or the pipeline."""
        try:
            import spacy
        except ImportError:
            raise ConfigError("spacy= needs spaCy; run: pip install 'impasto[compbench]'") from None
        try:
            self._read: Any = spacy.load(pipeline)
        except (OSError, ValueError):
            raise ConfigError(f"spacy={pipeline} is no pipeline of spaCy, by name or directory") from None
        self.told = {"spacy": spacy.__version__, "pipeline": pipeline, **_version(self._read)}

    def __call__(self, prompt: str) -> dict[str, Any]:
        """`chunks`, `objects` (the first noun and the last; None without a noun) and `without_adjectives`."""
        document = self._read(prompt)
        nouns = [token.text for token in document if token.pos_ == "NOUN"]
        return {
            "prompt": prompt,
            "chunks": [chunk.text for chunk in document.noun_chunks],
            "objects": [nouns[0], nouns[-1]] if nouns else None,
            "without_adjectives": " ".join(token.text for token in document if token.pos_ != "ADJ"),
        }


def _version(pipeline: Any) -> dict[str, str]:
    meta = pipeline.meta
    return {"model": f"{meta.get('lang')}_{meta.get('name')} {meta.get('version')}"}
