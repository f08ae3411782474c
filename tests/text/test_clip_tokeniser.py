"""The CLIP tokeniser against the published code's recorded ids, and against plain byte-pair encoding."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from transformers import CLIPTokenizer

from impasto.text.clip_tokeniser import PIECES, ClipTokeniser, byte_symbols, byte_vocabulary, clean

FIXTURES = Path(__file__).parent.parent / "fixtures" / "aurora"
PAIRS = ["a p", "ap p", "l e</w>", "app le</w>", "r e", "re d</w>", "! !</w>"]
MERGES = [(pair.split()[0], pair.split()[1]) for pair in PAIRS]
TEXTS = ["a red apple", "Red!! apples; it's ÉTÉ", "", "apple " * 90]
CASES = json.loads((FIXTURES / "clip_tokens.json").read_text(encoding="utf-8"))["cases"]


@pytest.fixture(scope="module")
def published_tokeniser() -> ClipTokeniser:
    return ClipTokeniser.packaged()


@pytest.mark.parametrize("case", CASES, ids=[case["text"][:20] for case in CASES])
def test_recorded_tokens(published_tokeniser: ClipTokeniser, case: dict) -> None:
    ids = published_tokeniser([case["text"]])
    assert ids.tolist() == [case["tokens"]]
    assert ids.argmax(dim=1).item() == case["eot_ind"]


def test_published_vocabulary_has_its_known_ids(published_tokeniser: ClipTokeniser) -> None:
    assert (published_tokeniser.start_id, published_tokeniser.end_id) == (49406, 49407)
    assert published_tokeniser.size == 49408
    assert len(set(byte_symbols())) == 256


def merge_one_by_one(piece: str, ranks: dict[tuple[str, str], int]) -> list[str]:
    """Byte-pair encoding in its plainest form: the pair of best rank, everywhere, until there is none."""
    symbols = [byte_symbols()[byte] for byte in piece.encode()]
    symbols[-1] += "</w>"
    while len(symbols) > 1:
        best = min(itertools.pairwise(symbols), key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        merged, i = [], 0
        while i < len(symbols):
            step = 2 if tuple(symbols[i : i + 2]) == best else 1
            merged.append("".join(symbols[i : i + step]))
            i += step
        symbols = merged
    return symbols


AWKWARD = ["appappap!!!!", "aap p😀 中文", "<|endoftext|>", "!<|endoftext|>", "\x1f a\x00", "it'ſ ½ ǅ \ud800"]


@pytest.mark.parametrize("text", [*TEXTS, *AWKWARD])
def test_pieces_equal_plain_byte_pair_encoding(text: str) -> None:
    vocabulary, ranks = byte_vocabulary(MERGES), {pair: rank for rank, pair in enumerate(MERGES)}
    wanted = []
    for piece in PIECES.findall(clean(text)):
        special = piece in ("<|startoftext|>", "<|endoftext|>")
        wanted += [vocabulary[s] for s in ([piece] if special else merge_one_by_one(piece, ranks))]
    assert ClipTokeniser(vocabulary, MERGES).pieces(text) == wanted


def test_tokeniser_json_gives_the_same_ids(tmp_path: Path) -> None:
    vocabulary = byte_vocabulary(MERGES)
    CLIPTokenizer(vocab=vocabulary, merges=MERGES).save_pretrained(tmp_path)
    (tmp_path / "vocab.json").unlink(missing_ok=True)
    from_json = ClipTokeniser.from_directory(tmp_path)
    plain = ClipTokeniser(vocabulary, MERGES)
    assert torch.equal(from_json(TEXTS), plain(TEXTS))
    assert from_json.fingerprint == plain.fingerprint


def test_wrong_vocabularies_are_refused() -> None:
    with pytest.raises(ValueError, match="'Ā' is missing, and 513 more"):
        ClipTokeniser({"cat": 0}, [])
    vocabulary = byte_vocabulary(MERGES)
    with pytest.raises(ValueError, match="not the largest id"):
        ClipTokeniser(vocabulary | {"<extra>": len(vocabulary)}, MERGES)
