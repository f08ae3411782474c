"""Frozen text encoders behind one protocol: encode(list[str]) -> TextFeatures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from impasto.config import nearest
from impasto.text.features import TextEncoder, TextFeatures

__all__ = ["ENCODERS", "TextEncoder", "TextFeatures", "load_encoder"]


def load_encoder(name: str, **options: Any) -> TextEncoder:
    """An encoder by name: "sentence" (all-MiniLM-L6-v2, offline), "sentence:standardized" (the same, see
    `standardize`), "clip:DIRECTORY_OR_HUB_NAME", or "nothing:WIDTH", which does not read.

    options: max_tokens and batch_size for "sentence", batch_size for "clip". Raises ValueError for an unknown
    name, impasto.assets.MissingAssetError with the command to run where a weight package is absent,
    FileNotFoundError where a directory or hub name gives nothing. All in one line.
    """
    kind, _, source = name.partition(":")
    if kind not in ENCODERS:
        raise ValueError(f"unknown text encoder {name!r}; {nearest(kind, ENCODERS)}")
    return ENCODERS[kind](source, **options)


def _sentence(source: str, **options: Any) -> TextEncoder:
    from impasto.text.sentence import SentenceEncoder

    if source not in ("", "standardized"):
        raise ValueError(f"'sentence:{source}': sentence, sentence:standardized, or clip:{source} for a CLIP")
    return SentenceEncoder(standardized=bool(source), **options)


def _clip(source: str, **options: Any) -> TextEncoder:
    from impasto.text.clip import ClipEncoder

    if not source:
        raise ValueError("'clip' needs its weights: clip:DIRECTORY, or clip:openai/clip-vit-large-patch14")
    return ClipEncoder.from_name(source, **options)


def _nothing(source: str) -> TextEncoder:
    from impasto.text.nothing import NothingEncoder

    if not source.isdecimal():
        raise ValueError("'nothing' needs a width, as nothing:384")
    return NothingEncoder(int(source))


ENCODERS: dict[str, Callable[..., TextEncoder]] = {"sentence": _sentence, "clip": _clip, "nothing": _nothing}
