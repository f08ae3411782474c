"""Stored text features: bit for bit what a run without them computes, and refused where they do not fit."""

import sqlite3
from pathlib import Path
from typing import Self

import pytest
import torch
from tests.text.test_rows import NoisyEncoder, equal

from impasto.text import TextFeatures, load_encoder
from impasto.text.stored import (
    BATCH,
    CacheError,
    SingleEncoder,
    StoredEncoder,
    features_path,
    write_features,
)

TEXTS = ["a cat", "a very long text about a cat", "", "猫", "a cat"]
FLOAT = torch.float32


class BatchEncoder:
    """Features that depend on the batch, as those of real encoders do in their last bits."""

    width, device = 4, torch.device("cpu")

    def __init__(self, fingerprint: str = "cd" * 32) -> None:
        self.fingerprint, self.asked = fingerprint, 0

    def to(self, target: object) -> Self:
        return self

    def encode(self, texts: list[str]) -> TextFeatures:
        self.asked += len(texts)
        lengths = torch.tensor([len(text.split()) + 1 for text in texts])
        mask = torch.arange(int(lengths.max()) + 1) < lengths[:, None]
        tokens = torch.zeros(*mask.shape, 4)
        for row, text in enumerate(texts):
            tokens[row] = len(text) + len(texts) / 7
        return TextFeatures(tokens * mask[:, :, None], mask, lengths - 1, tokens[:, 0])


def test_a_text_alone_is_the_same_in_every_batch():
    encoder = BatchEncoder()
    single = SingleEncoder(encoder)
    whole = single.encode(TEXTS)
    assert not equal(whole, encoder.encode(TEXTS))
    assert equal(single.encode(TEXTS[1:3]), whole[1:3])
    assert encoder.asked == 4 + len(TEXTS)  # each distinct text once, and the batch above


def test_remembered_texts_are_few(monkeypatch):
    monkeypatch.setattr("impasto.text.stored.MEMO_BYTES", 200)
    encoder = BatchEncoder()
    single = SingleEncoder(encoder)
    texts = [f"word {n}" for n in range(20)]
    first = single.encode(texts)
    assert equal(single.encode(texts), first) and encoder.asked > 30


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_file_gives_the_bits_of_a_run_without_it(tmp_path: Path, dtype: torch.dtype):
    encoder = load_encoder("sentence")
    fingerprint = encoder.fingerprint
    encoder.to(dtype)
    texts = ["a red apple", "two blue mugs on a wooden table beside the window", "一只猫", "déjà vu"]
    path = features_path(tmp_path / "texts", encoder, dtype)
    assert write_features(path, encoder, dtype, "set", texts) == 4
    assert path.name == f"{fingerprint[:32]}-{str(dtype)[6:]}.sqlite" and list(path.parent.iterdir()) == [
        path
    ]
    stored, single = StoredEncoder(encoder, path, dtype, "set", "here"), SingleEncoder(encoder)
    for batch in ([1, 0], [3], [2, 2, 1, 0, 3]):
        asked = [texts[index] for index in batch]
        one, other = stored.encode(asked), single.encode(asked)
        for name in ("tokens", "mask", "eot_index", "pooled"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert stored.width == 384 and stored.fingerprint == fingerprint


def test_a_stopped_build_goes_on(tmp_path: Path):
    texts = [f"text {n}" for n in range(3 * BATCH)]

    def broken():
        yield from texts[: 2 * BATCH + 10]
        raise KeyboardInterrupt

    encoder = BatchEncoder()
    path = features_path(tmp_path, encoder, FLOAT)
    with pytest.raises(KeyboardInterrupt):
        write_features(path, encoder, FLOAT, "set", broken())
    assert not path.exists() and encoder.asked == 2 * BATCH
    told: list[int] = []
    assert write_features(path, encoder, FLOAT, "set", texts, told.append) == len(texts)
    assert encoder.asked == len(texts) and told[-1] == len(texts)
    assert write_features(path, encoder, FLOAT, "set", broken()) == len(texts)  # it is there
    assert write_features(path, encoder, FLOAT, "another set", texts[:3]) == 3  # it is not


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": "ef"}, "has no text features of encoder efefef"),
        ({"dtype": torch.bfloat16}, "has no text features of encoder cdcdcdcdcdcd... in bfloat16"),
        ({"made_of": "another"}, "made with another set of captions"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_refused(tmp_path: Path, change: dict, message: str):
    encoder = BatchEncoder()
    write_features(features_path(tmp_path, encoder, FLOAT), encoder, FLOAT, "set", TEXTS)
    other = BatchEncoder(change.get("encoder", "cd") * 32)
    dtype = change.get("dtype", FLOAT)
    with pytest.raises(CacheError, match=message) as refusal:
        path = features_path(tmp_path, other, dtype)
        StoredEncoder(other, path, dtype, change.get("made_of", "set"), "here")
    assert str(refusal.value).endswith("make it with `impasto data texts here`")
    assert "\n" not in str(refusal.value)


def test_the_same_name_of_another_encoder_is_refused(tmp_path: Path):
    """The file is named by the first half of a fingerprint, but holds all of it."""
    encoder, other = BatchEncoder("ab" * 32), BatchEncoder("ab" * 16 + "cd" * 16)
    path = features_path(tmp_path, encoder, FLOAT)
    assert path == features_path(tmp_path, other, FLOAT)
    write_features(path, encoder, FLOAT, "set", TEXTS)
    with pytest.raises(CacheError, match="made with another encoder"):
        StoredEncoder(other, path, FLOAT, "set", "here")


def test_captions_that_are_not_there_and_damage_are_told(tmp_path: Path):
    encoder = BatchEncoder()
    path = features_path(tmp_path, encoder, FLOAT)
    write_features(path, encoder, FLOAT, "set", TEXTS)
    stored = StoredEncoder(encoder, path, FLOAT, "set", "here")
    with pytest.raises(CacheError, match="no features of the caption 'a dog'"):
        stored.encode(["a cat", "a dog"])
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE features SET tokens = zeroblob(length(tokens))")
    connection.close()
    with pytest.raises(CacheError, match=r"is damaged .* fails its checksum"):
        stored.encode(["a cat"])
    path.write_bytes(b"no database" * 100)
    with pytest.raises(CacheError, match="is damaged"):
        StoredEncoder(encoder, path, FLOAT, "set", "here")
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="choose another folder"):
        write_features(tmp_path / "file" / "x.sqlite", encoder, FLOAT, "set", TEXTS)


def test_half_precision_features_are_refused(tmp_path: Path):
    class Half(NoisyEncoder):
        def encode(self, texts: list[str]) -> TextFeatures:
            return super().encode(texts).to(dtype=torch.float16)

    with pytest.raises(ValueError, match="stored features are float32"):
        write_features(tmp_path / "x.sqlite", Half(), FLOAT, "set", TEXTS)
    assert not (tmp_path / "x.sqlite").exists()
