"""The feature cache: bit for bit what was encoded first, each text once, whoever writes beside it."""

import multiprocessing
import sqlite3
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Self

import pytest
import torch

from impasto.text import TextEncoder, TextFeatures, load_encoder
from impasto.text.cache import CachedEncoder, CacheError
from impasto.text.clip import ClipEncoder
from impasto.text.clip_tokeniser import ClipTokeniser, byte_vocabulary

WIDTH = 6


class NoisyEncoder:
    """Never gives the same features twice, so that only a cache can repeat them; counts what it is asked."""

    width = WIDTH
    device = torch.device("cpu")

    def __init__(self, fingerprint: str = "ab" * 32, dense_padding: bool = False) -> None:
        self.fingerprint = fingerprint
        self.asked: list[list[str]] = []
        self.dense_padding = dense_padding

    def encode(self, texts: list[str]) -> TextFeatures:
        self.asked.append(list(texts))
        generator = torch.Generator()
        generator.seed()
        lengths = torch.tensor([len(text.split()) + 1 for text in texts])
        mask = torch.arange(int(lengths.max()) + 2) < lengths[:, None]
        tokens = torch.randn(*mask.shape, WIDTH, generator=generator)
        if not self.dense_padding:
            tokens = tokens * mask[:, :, None]
        return TextFeatures(tokens, mask, lengths - 1, torch.randn(len(texts), 3, generator=generator))

    def to(self, device: torch.device | str) -> Self:
        return self


def equal(first: TextFeatures, second: TextFeatures) -> bool:
    """Bit for bit, up to the number of padding positions."""
    joined = TextFeatures.concatenate([first, second])
    ours, theirs = joined[: len(first)], joined[len(first) :]
    names = ("tokens", "mask", "eot_index", "pooled")
    return all(torch.equal(getattr(ours, name), getattr(theirs, name)) for name in names)


def test_the_second_answer_is_the_first_bit_for_bit(tmp_path: Path) -> None:
    encoder = NoisyEncoder()
    cached = CachedEncoder(encoder, tmp_path / "made" / "here")
    texts = ["a cat", "a very long text about a cat", "", "猫"]
    first = cached.encode(texts)
    again = CachedEncoder(NoisyEncoder(), tmp_path / "made" / "here")  # as in another run
    assert equal(first, again.encode(texts))
    assert equal(first[torch.tensor([3, 0])], again.encode(["猫", "a cat"]))
    assert encoder.asked == [texts]
    assert isinstance(cached, TextEncoder)
    assert (cached.width, cached.fingerprint) == (WIDTH, encoder.fingerprint)


def test_the_cache_gives_what_the_encoder_gave(tmp_path: Path) -> None:
    encoder = load_encoder("sentence")
    texts = ["a red apple", "", "two blue squares left of a green circle"]
    plain = encoder.encode(texts)
    cached = CachedEncoder(encoder, tmp_path)
    for features in (cached.encode(texts), cached.encode(texts)):
        assert torch.equal(features.tokens, plain.tokens) and torch.equal(features.mask, plain.mask)
        assert torch.equal(features.pooled, plain.pooled) and torch.equal(features.eot_index, plain.eot_index)
    assert cached.encode(texts[:1]).tokens.shape[1] == int(plain.eot_index[0]) + 1


def test_features_in_the_padding_are_kept(tmp_path: Path) -> None:
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
    cached = CachedEncoder(encoder, tmp_path)
    plain = encoder.encode(["a cat", "dogs"])
    for features in (cached.encode(["a cat", "dogs"]), cached.encode(["a cat", "dogs"])):
        assert features.tokens.shape == (2, 77, width)
        assert torch.equal(features.tokens, plain.tokens) and torch.equal(features.mask, plain.mask)


def test_only_misses_are_encoded_each_once_and_in_batches(tmp_path: Path) -> None:
    encoder = NoisyEncoder()
    cached = CachedEncoder(encoder, tmp_path, batch_size=2)
    features = cached.encode(["a", "b", "a", "c", "b", "a"])
    assert encoder.asked == [["a", "b"], ["c"]]
    assert len(features) == 6
    assert equal(features[torch.tensor([0, 1])], features[torch.tensor([2, 4])])
    cached.encode(["c", "d", "a"])
    assert encoder.asked[2:] == [["d"]]


def test_more_texts_than_one_query_takes(tmp_path: Path) -> None:
    cached = CachedEncoder(NoisyEncoder(), tmp_path)
    texts = [f"text {number}" for number in range(1203)]
    assert equal(cached.encode(texts), cached.encode(texts))


def test_every_fingerprint_has_its_file(tmp_path: Path) -> None:
    first, second = (CachedEncoder(NoisyEncoder(letter * 64), tmp_path) for letter in "ab")
    assert not torch.equal(first.encode(["a cat"]).tokens, second.encode(["a dog"]).tokens)
    assert first.path != second.path
    assert set(tmp_path.glob("*.sqlite")) == {first.path, second.path}


def encode_and_report(directory: Path, barrier: Barrier, results: Queue) -> None:
    cached = CachedEncoder(NoisyEncoder(), directory, batch_size=3)
    barrier.wait(60)
    answers = [cached.encode([f"text {start + i}" for i in range(10)]) for start in range(0, 60, 5)]
    features = TextFeatures.concatenate(answers)
    results.put((features.tokens.numpy(), features.pooled.numpy()))


def test_two_processes_write_and_agree(tmp_path: Path) -> None:
    """Both encode the same texts at once with different noise: what was stored first counts, for both."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    arguments = (tmp_path, barrier, results)
    workers = [context.Process(target=encode_and_report, args=arguments) for _ in range(2)]
    for worker in workers:
        worker.start()
    first, second = results.get(timeout=60), results.get(timeout=60)
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    assert (first[0] == second[0]).all() and (first[1] == second[1]).all()
    encoder = NoisyEncoder()
    CachedEncoder(encoder, tmp_path).encode([f"text {i}" for i in range(65)])
    assert encoder.asked == []


def refusal_of(cached: CachedEncoder) -> str:
    with pytest.raises(CacheError) as refusal:
        cached.encode(["a cat"])
    assert "\n" not in str(refusal.value) and str(cached.path) in str(refusal.value)
    return str(refusal.value)


def test_a_damaged_file_is_one_line_that_names_it(tmp_path: Path) -> None:
    cached = CachedEncoder(NoisyEncoder(), tmp_path)
    cached.encode(["a cat"])
    cached.path.write_bytes(b"this is no database, but it is long enough to look like one" * 100)
    assert refusal_of(cached).endswith("delete it, and it is filled again")
    cached.path.unlink()
    cached.encode(["a cat"])


def test_a_damaged_entry_is_noticed(tmp_path: Path) -> None:
    cached = CachedEncoder(NoisyEncoder(), tmp_path)
    cached.encode(["a cat"])
    with sqlite3.connect(cached.path) as connection:
        connection.execute("UPDATE features SET tokens = zeroblob(length(tokens))")
    connection.close()
    assert "an entry fails its checksum" in refusal_of(cached)


def test_an_unusable_directory_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert refusal_of(CachedEncoder(NoisyEncoder(), tmp_path / "file")).endswith("choose another directory")


def test_features_that_cannot_be_kept_exactly_are_refused(tmp_path: Path) -> None:
    class HalfEncoder(NoisyEncoder):
        def encode(self, texts: list[str]) -> TextFeatures:
            return super().encode(texts).to(dtype=torch.float16)

    with pytest.raises(ValueError, match=r"float32 features, not torch\.float16"):
        CachedEncoder(HalfEncoder(), tmp_path).encode(["a cat"])
