"""Features are checked, moved and joined; encoders are found by name."""

import pytest
import torch

from impasto.text import TextFeatures, load_encoder


def test_unknown_names_get_the_nearest_match() -> None:
    with pytest.raises(ValueError, match="unknown text encoder 'sentense'; did you mean 'sentence'"):
        load_encoder("sentense")
    with pytest.raises(ValueError, match="choose from: clip, nothing, sentence"):
        load_encoder("xyz")
    with pytest.raises(ValueError, match="needs its weights"):
        load_encoder("clip")


def test_an_encoder_that_reads_nothing_tells_no_texts_apart() -> None:
    encoder = load_encoder("nothing:6")
    features = encoder.encode(["a red circle", "something else, and longer"])
    assert features.tokens.shape == (2, 2, 6) and features.width == encoder.width == 6
    assert torch.equal(features.tokens[0], features.tokens[1])
    assert features.pooled.norm(dim=1).tolist() == pytest.approx([1, 1])
    assert encoder.fingerprint != load_encoder("nothing:7").fingerprint
    for name in ("nothing", "nothing:0"):
        with pytest.raises(ValueError, match="width"):
            load_encoder(name)


def make_features(batch: int = 3, positions: int = 4, width: int = 2) -> TextFeatures:
    tokens = torch.arange(batch * positions * width, dtype=torch.float32).view(batch, positions, width) + 1
    mask = torch.ones(batch, positions, dtype=torch.bool)
    return TextFeatures(tokens, mask, torch.full((batch,), positions - 1), torch.ones(batch, 5))


def test_features_are_indexed_cast_and_joined() -> None:
    features, short = make_features(), make_features(batch=1, positions=2)
    assert len(features) == 3 and len(features[1:]) == 2
    assert torch.equal(features[torch.tensor([2, 0])].tokens, features.tokens[[2, 0]])
    assert len(features[torch.tensor([True, False, False])]) == 1
    half = features.to(dtype=torch.float16)
    assert (half.tokens.dtype, half.pooled.dtype) == (torch.float16, torch.float16)
    assert (half.mask.dtype, half.eot_index.dtype) == (torch.bool, torch.int64)
    joined = TextFeatures.concatenate([short, features])
    assert joined.tokens.shape == (4, 4, 2)
    assert torch.equal(joined[:1].tokens[:, :2], short.tokens)
    assert not joined.tokens[0, 2:].any() and not joined.mask[0, 2:].any()
    with pytest.raises(ValueError, match="different width"):
        TextFeatures.concatenate([features, make_features(width=3)])
    with pytest.raises(TypeError, match="slice or a tensor"):
        features[0]  # type: ignore[index]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": torch.zeros(3, 4)}, r"tokens must be \[B,T,C\]"),
        ({"mask": torch.zeros(3, 5, dtype=torch.bool)}, r"mask must be \[3,4\]"),
        ({"mask": torch.zeros(3, 4)}, "mask must be bool"),
        ({"eot_index": torch.zeros(3)}, "eot_index must be int64"),
        ({"pooled": torch.zeros(2, 5)}, r"pooled must be \[3,C'\]"),
        ({"tokens": torch.zeros(3, 4, 2, dtype=torch.int64)}, "tokens must be floating point"),
    ],
)
def test_wrong_features_are_refused(change: dict[str, torch.Tensor], message: str) -> None:
    good = make_features()
    parts = {"tokens": good.tokens, "mask": good.mask, "eot_index": good.eot_index, "pooled": good.pooled}
    with pytest.raises(ValueError, match=message):
        TextFeatures(**(parts | change))
