"""Captions as training text: the text tokeniser that is fitted on them, and captions that are dropped."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from impasto.config import ConfigError, first_line

END_OF_TEXT = "<|endoftext|>"
TOKENISER = "tokenizer.json"
BYTE_PIECES = 257  # the bytes and the end of text: the least that can spell everything


def fit_tokeniser(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Byte-level BPE with `END_OF_TEXT` as id 0, of at most so many pieces. ConfigError if bytes do not
    fit."""
    if vocabulary < BYTE_PIECES:
        raise ConfigError(f"model.vocabulary={vocabulary} should be at least {BYTE_PIECES}")
    tokeniser = Tokenizer(models.BPE())
    tokeniser.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokeniser.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokeniser.train_from_iterator(texts, trainer)
    return tokeniser


def byte_tokeniser() -> Tokenizer:
    """Bytes alone: for models that are not trained."""
    return fit_tokeniser([], BYTE_PIECES)


def read_tokeniser(folder: Path) -> Tokenizer:
    """The tokenizer.json of a folder, or ConfigError."""
    file = folder / TOKENISER
    if not file.is_file():
        raise ConfigError(f"{folder} has no {TOKENISER}")
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises Exception itself
        raise ConfigError(f"{file} cannot be read: {first_line(error)}") from None


def text_fingerprint(tokeniser: Tokenizer) -> str:
    """64 hexadecimal digits (SHA-256) over the tokeniser as it is saved."""
    return hashlib.sha256(tokeniser.to_str().encode()).hexdigest()


def drop(captions: Sequence[list[int]], dropped: Sequence[bool]) -> list[list[int]]:
    """The captions, the dropped ones empty."""
    return [[] if gone else ids for ids, gone in zip(captions, dropped, strict=True)]
