"""CLIP's tokeniser with the conventions of the original code (github openai/CLIP, simple_tokenizer.py).

Text is repaired (ftfy), HTML-unescaped twice, its whitespace collapsed, lower-cased, cut by a regular
expression and byte-pair encoded. A sequence is SOT + tokens + EOT, right-padded with id 0 (transformers'
tokeniser pads with EOT and normalises otherwise, so only its files are used, never its behaviour). Too long:
cut, and the last id is EOT.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import html
import json
from collections.abc import Sequence
from pathlib import Path

import ftfy
import regex  # type: ignore[import-untyped]
import torch
from tokenizers.models import BPE
from torch import Tensor

from impasto import assets

START_OF_TEXT, END_OF_TEXT = "<|startoftext|>", "<|endoftext|>"
PADDING = 0
CONTEXT_LENGTH = 77
VOCABULARY_SIZE = 49_408
BYTE_PAIR_FILE = "bpe_simple_vocab_16e6.txt.gz"
PIECES = regex.compile(
    r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+""",
    regex.IGNORECASE,
)

Merges = list[tuple[str, str]]


class ClipTokeniser:
    """Texts -> ids [B,context_length] int64.

    vocabulary maps every symbol to its id and merges are in order of rank. Raises ValueError for a vocabulary
    without all byte symbols, or where EOT is not the largest id (its position is found as the largest id of a
    sequence).
    """

    def __init__(
        self, vocabulary: dict[str, int], merges: Merges, context_length: int = CONTEXT_LENGTH
    ) -> None:
        alphabet = byte_symbols()
        needed = [*alphabet, *(symbol + "</w>" for symbol in alphabet), START_OF_TEXT, END_OF_TEXT]
        absent = [symbol for symbol in needed if symbol not in vocabulary]
        if absent:
            raise ValueError(f"not a CLIP vocabulary: {absent[0]!r} is missing, and {len(absent) - 1} more")
        self.end_id = vocabulary[END_OF_TEXT]
        if self.end_id != max(vocabulary.values()):
            raise ValueError(f"not a CLIP vocabulary: {END_OF_TEXT} is {self.end_id}, not the largest id")
        self.start_id = vocabulary[START_OF_TEXT]
        self.size = self.end_id + 1
        self.context_length = context_length
        self._alphabet = alphabet
        self._model = BPE(vocab=vocabulary, merges=merges, end_of_word_suffix="</w>")
        self._rules = json.dumps([sorted(vocabulary.items()), merges, context_length])

    @classmethod
    def packaged(cls, context_length: int = CONTEXT_LENGTH) -> ClipTokeniser:
        """The published vocabulary, read from the installed open_clip_torch without importing it.

        Raises impasto.assets.MissingAssetError where that package is absent.
        """
        vocabulary, merges = read_byte_pair_file(assets.require("open_clip_torch") / BYTE_PAIR_FILE)
        return cls(vocabulary, merges, context_length)

    @classmethod
    def from_directory(cls, directory: Path, context_length: int = CONTEXT_LENGTH) -> ClipTokeniser:
        """From vocab.json and merges.txt, or tokenizer.json; FileNotFoundError where there is neither,
        ValueError as for the class."""
        if (directory / "vocab.json").is_file() and (directory / "merges.txt").is_file():
            vocabulary = json.loads((directory / "vocab.json").read_text(encoding="utf-8"))
            lines = (directory / "merges.txt").read_text(encoding="utf-8").split("\n")
            merges = [_pair(line) for line in lines if line.strip() and not line.startswith("#version")]
        elif (directory / "tokenizer.json").is_file():
            content = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
            vocabulary = dict(content["model"]["vocab"])
            vocabulary.update({added["content"]: added["id"] for added in content.get("added_tokens", [])})
            merges = [_pair(merge) for merge in content["model"]["merges"]]
        else:
            raise FileNotFoundError(f"no vocab.json with merges.txt and no tokenizer.json in {directory}")
        return cls(vocabulary, merges, context_length)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes with the vocabulary, the merges and the length."""
        return hashlib.sha256(self._rules.encode()).hexdigest()

    def __call__(self, texts: Sequence[str]) -> Tensor:
        ids = torch.full((len(texts), self.context_length), PADDING, dtype=torch.int64)
        for row, text in enumerate(texts):
            sequence = [self.start_id, *self.pieces(text), self.end_id]
            if len(sequence) > self.context_length:
                sequence = [*sequence[: self.context_length - 1], self.end_id]
            ids[row, : len(sequence)] = torch.tensor(sequence)
        return ids

    def pieces(self, text: str) -> list[int]:
        """Ids of a text without SOT, EOT and padding. The two markers written out become their ids."""
        markers = {START_OF_TEXT: self.start_id, END_OF_TEXT: self.end_id}
        ids: list[int] = []
        for piece in PIECES.findall(clean(text)):
            if piece in markers:
                ids.append(markers[piece])
            else:
                word = "".join(self._alphabet[byte] for byte in piece.encode("utf-8"))
                ids.extend(token.id for token in self._model.tokenize(word))
        return ids


def clean(text: str) -> str:
    """basic_clean, whitespace_clean and lower of the original, in that order."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return regex.sub(r"\s+", " ", text.strip()).strip().lower()


@functools.cache
def byte_symbols() -> list[str]:
    """The printable character that stands for each of the 256 bytes (bytes_to_unicode of the original)."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}  # ! to ~, ¡ to ¬, ® to ÿ
    others = [byte for byte in range(256) if byte not in printable]
    shifted = {byte: chr(256 + place) for place, byte in enumerate(others)}
    return [shifted.get(byte, chr(byte)) for byte in range(256)]


def byte_vocabulary(merges: Merges) -> dict[str, int]:
    """The original numbering: byte symbols (printable bytes first), the same with </w>, merges, SOT, EOT."""
    alphabet = sorted(byte_symbols(), key=lambda symbol: (ord(symbol) >= 256, ord(symbol)))
    symbols = [*alphabet, *(symbol + "</w>" for symbol in alphabet), *("".join(pair) for pair in merges)]
    return {symbol: place for place, symbol in enumerate([*symbols, START_OF_TEXT, END_OF_TEXT])}


def read_byte_pair_file(path: Path) -> tuple[dict[str, int], Merges]:
    """Vocabulary (49,408 entries) and merges from the gzip file of the original repository."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")
    merges = [_pair(line) for line in lines[1 : VOCABULARY_SIZE - 2 * 256 - 2 + 1]]
    return byte_vocabulary(merges), merges


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    first, second = merge.split() if isinstance(merge, str) else merge
    return first, second
