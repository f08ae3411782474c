"""Features as rows of a file: bit for bit what was put in, damage noticed."""

import sqlite3
from typing import Self

import pytest
import torch

from impasto.text import TextFeatures, load_encoder
from impasto.text.clip import ClipEncoder
from impasto.text.clip_tokeniser import ClipTokeniser, byte_vocabulary
from impasto.text.rows import INSERT, KEYS_A_QUERY, SCHEMA, key_of, read_rows, to_features, to_rows

WIDTH = 6


class NoisyEncoder:
    """Never gives the same features twice, so that only a file can repeat them."""

    width = WIDTH
    device = torch.device("cpu")

    def __init__(self, fingerprint: str = "ab" * 32) -> None:
        self.fingerprint = fingerprint

    def encode(self, texts: list[str]) -> TextFeatures:
        generator = torch.Generator()
        generator.seed()
        lengths = torch.tensor([len(text.split()) + 1 for text in texts])
        mask = torch.arange(int(lengths.max()) + 2) < lengths[:, None]
        tokens = torch.randn(*mask.shape, WIDTH, generator=generator) * mask[:, :, None]
        return TextFeatures(tokens, mask, lengths - 1, torch.randn(len(texts), 3, generator=generator))

    def to(self, device: torch.device | str) -> Self:
        return self


def equal(first: TextFeatures, second: TextFeatures) -> bool:
    """Bit for bit, up to the number of padding positions."""
    joined = TextFeatures.concatenate([first, second])
    ours, theirs = joined[: len(first)], joined[len(first) :]
    names = ("tokens", "mask", "eot_index", "pooled")
    return all(torch.equal(getattr(ours, name), getattr(theirs, name)) for name in names)


def filled(features: TextFeatures) -> sqlite3.Connection:
    """Row n under the name of text n."""
    connection = sqlite3.connect(":memory:")
    connection.execute(SCHEMA)
    keys = [key_of(str(number)) for number in range(len(features))]
    connection.executemany(INSERT, to_rows(keys, features))
    return connection


def through_a_file(features: TextFeatures, width: int) -> TextFeatures:
    keys = [key_of(str(number)) for number in range(len(features))]
    rows = read_rows(filled(features), keys, width)
    return to_features([rows[key] for key in keys], width)


def test_what_comes_back_is_what_went_in():
    texts = ["a cat", "a very long text about a cat", "", "猫"]
    features = NoisyEncoder().encode(texts)
    again = through_a_file(features, WIDTH)
    assert equal(again, features)
    assert again.tokens.shape[1] == 8  # padding is not kept


def test_real_features_come_back():
    encoder = load_encoder("sentence")
    plain = encoder.encode(["a red apple", "", "two blue squares left of a green circle"])
    features = through_a_file(plain, encoder.width)
    for name in ("tokens", "mask", "eot_index", "pooled"):
        assert torch.equal(getattr(features, name), getattr(plain, name)), name


def test_features_in_the_padding_are_kept() -> None:
    """CLIP's padding positions carry features: all of its positions come back."""
    vocabulary = byte_vocabulary([])
    torch.manual_seed(0)
    width, size = 16, len(vocabulary)
    block = "transformer.resblocks.0"
    shapes = {"token_embedding.weight": (size, width), "positional_embedding": (77, width)}
    shapes |= {f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,)}
    shapes |= {f"{block}.attn.out_proj.weight": (width, width), f"{block}.attn.out_proj.bias": (width,)}
    shapes |= {f"{block}.mlp.c_fc.weight": (32, width), f"{block}.mlp.c_fc.bias": (32,)}
    shapes |= {f"{block}.mlp.c_proj.weight": (width, 32), f"{block}.mlp.c_proj.bias": (width,)}
    for norm in (f"{block}.ln_1", f"{block}.ln_2", "ln_final"):
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    state = {name: torch.randn(shape) for name, shape in shapes.items()}
    encoder = ClipEncoder.from_state_dict(state, heads=2, tokeniser=ClipTokeniser(vocabulary, []))
    plain = encoder.encode(["a cat", "dogs"])
    features = through_a_file(plain, width)
    assert features.tokens.shape == (2, 77, width)
    assert torch.equal(features.tokens, plain.tokens) and torch.equal(features.mask, plain.mask)


def test_more_texts_than_one_query_takes():
    count = 2 * KEYS_A_QUERY + 3
    features = NoisyEncoder().encode([f"text {number}" for number in range(count)])
    assert equal(through_a_file(features, WIDTH), features)


def test_the_first_row_of_a_text_counts_and_others_are_missing():
    first, second = (NoisyEncoder().encode(["a cat"]) for _ in range(2))
    connection = filled(first)
    connection.executemany(INSERT, to_rows([key_of("0")], second))
    rows = read_rows(connection, [key_of("0"), key_of("another")], WIDTH)
    assert list(rows) == [key_of("0")] and equal(to_features(list(rows.values()), WIDTH), first)


def test_a_damaged_row_is_noticed():
    connection = filled(NoisyEncoder().encode(["a cat"]))
    connection.execute("UPDATE features SET tokens = zeroblob(length(tokens))")
    with pytest.raises(sqlite3.DatabaseError, match="an entry fails its checksum"):
        read_rows(connection, [key_of("0")], WIDTH)


def test_features_that_cannot_be_kept_exactly_are_refused():
    features = NoisyEncoder().encode(["a cat", "a large cat"])
    with pytest.raises(ValueError, match=r"are float32, not torch\.float16"):
        to_rows([b"", b"1"], features.to(dtype=torch.float16))
    hole = TextFeatures(features.tokens, features.mask.flip(1), features.eot_index, features.pooled)
    with pytest.raises(ValueError, match="valid positions come first"):
        to_rows([b"", b"1"], hole)
