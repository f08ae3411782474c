"""The CLIP tower against the published code's recorded features, and against transformers."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from impasto.text import TextEncoder, load_encoder
from impasto.text.clip import ClipEncoder
from impasto.text.clip_tokeniser import byte_vocabulary

FIXTURES = Path(__file__).parent.parent / "fixtures" / "aurora"
Tensors = dict[str, torch.Tensor]
TOWER_TOLERANCE = 1e-4  # largest difference over the largest value
PAIRS = ["a p", "ap p", "l e</w>", "app le</w>", "r e", "re d</w>", "! !</w>"]
MERGES = [(pair.split()[0], pair.split()[1]) for pair in PAIRS]
TEXTS = ["a red apple", "Red!! apples; it's ÉTÉ", "", "apple " * 90]


def relative_difference(got: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((got - wanted).abs().max() / wanted.abs().max()).item()


@pytest.fixture(scope="module")
def recorded() -> Tensors:
    return load_file(FIXTURES / "clip_text_tiny.safetensors")


@pytest.fixture(scope="module")
def weights(recorded: Tensors) -> Tensors:
    return {key.removeprefix("w."): value for key, value in recorded.items() if key.startswith("w.")}


@pytest.fixture(scope="module")
def tower(weights: Tensors) -> ClipEncoder:
    return ClipEncoder.from_state_dict(weights, heads=4)


def tiny_config() -> CLIPTextConfig:
    size = len(byte_vocabulary(MERGES))
    return CLIPTextConfig(
        vocab_size=size,
        hidden_size=32,
        intermediate_size=64,
        projection_dim=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
        initializer_factor=5.0,
    )


def save_tokeniser(directory: Path) -> None:
    (directory / "vocab.json").write_text(json.dumps(byte_vocabulary(MERGES)), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in MERGES)]
    (directory / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A tiny random tower with its tokeniser, as transformers saves it."""
    torch.manual_seed(0)
    CLIPTextModelWithProjection(tiny_config()).save_pretrained(tmp_path)
    save_tokeniser(tmp_path)
    return tmp_path


# the tower, from a state dict in the original names


def test_recorded_features(tower: ClipEncoder, recorded: Tensors) -> None:
    features = tower.encode_ids(recorded["in.tokens"])
    assert relative_difference(features.tokens, recorded["out.features"]) < TOWER_TOLERANCE
    assert relative_difference(features.pooled, recorded["out.pooled"]) < TOWER_TOLERANCE
    assert torch.equal(features.eot_index, recorded["in.eot_ind"])
    assert torch.equal(features.mask.sum(dim=1), recorded["in.eot_ind"] + 1)
    assert (tower.width, features.width, features.pooled.shape[1]) == (64, 64, 24)
    assert not features.tokens.requires_grad and features.tokens.dtype == torch.float32


def test_padding_and_neighbours_do_not_matter(tower: ClipEncoder, recorded: Tensors) -> None:
    ids = recorded["in.tokens"]
    together = tower.encode_ids(ids)
    for row in range(len(ids)):
        end = int(together.eot_index[row])
        changed = ids[row : row + 1].clone()
        changed[:, end + 1 :] = 5
        alone = tower.encode_ids(changed)
        assert relative_difference(alone.tokens[0, : end + 1], together.tokens[row, : end + 1]) < 1e-5
        assert relative_difference(alone.pooled[0], together.pooled[row]) < 1e-5


def test_small_batches_give_the_same_features(weights: Tensors, recorded: Tensors) -> None:
    one_by_one = ClipEncoder.from_state_dict(weights, heads=4, batch_size=1).encode_ids(recorded["in.tokens"])
    assert relative_difference(one_by_one.tokens, recorded["out.features"]) < TOWER_TOLERANCE


def test_autocast_does_not_reach_the_tower(tower: ClipEncoder, recorded: Tensors) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = tower.encode_ids(recorded["in.tokens"])
    assert relative_difference(features.tokens, recorded["out.features"]) < TOWER_TOLERANCE


def test_heads_are_width_over_64_unless_given(weights: Tensors, recorded: Tensors) -> None:
    one_head = ClipEncoder.from_state_dict(weights).encode_ids(recorded["in.tokens"])
    assert relative_difference(one_head.tokens, recorded["out.features"]) > 100 * TOWER_TOLERANCE


def test_whole_models_and_prefixes_are_read(weights: Tensors, recorded: Tensors) -> None:
    vision = {"visual.transformer.resblocks.0.attn.in_proj_weight": torch.ones(3, 1)}
    renamed = vision | {f"text.{key}": value for key, value in weights.items()}
    features = ClipEncoder.from_state_dict(renamed, heads=4).encode_ids(recorded["in.tokens"])
    assert relative_difference(features.tokens, recorded["out.features"]) < TOWER_TOLERANCE


def test_rounding_to_half_moves_what_the_original_loader_rounds(weights: Tensors, recorded: Tensors) -> None:
    rounded = ClipEncoder.from_state_dict(weights, heads=4, round_to_half=True)
    features = rounded.encode_ids(recorded["in.tokens"])
    assert features.tokens.dtype == torch.float32
    assert 0 < relative_difference(features.tokens, recorded["out.features"]) < 1e-2
    by_hand = {
        key: value.half().float() if ".attn." in key or ".mlp." in key or key == "text_projection" else value
        for key, value in weights.items()
    }
    expected = ClipEncoder.from_state_dict(by_hand, heads=4).encode_ids(recorded["in.tokens"])
    assert torch.equal(features.tokens, expected.tokens)


def test_without_a_projection_pooled_is_the_feature_at_eot(weights: Tensors, recorded: Tensors) -> None:
    state = {key: value for key, value in weights.items() if key != "text_projection"}
    features = ClipEncoder.from_state_dict(state, heads=4).encode_ids(recorded["in.tokens"])
    rows = torch.arange(len(features))
    at_eot = features.tokens[rows, features.eot_index]
    assert relative_difference(features.pooled, functional.normalize(at_eot, dim=1)) < 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ln_final.bias": None}, "final_layer_norm.bias is missing"),
        ({"ln_final.bias": torch.zeros(3)}, r"final_layer_norm.bias has shape \[3\], not \[64\]"),
        ({"transformer.resblocks.1.ls_1.gamma": torch.zeros(64)}, "resblocks.1.ls_1.gamma is unknown"),
        ({"transformer.resblocks.0.attn.in_proj_weight": None}, "attn.in_proj_weight is missing"),
        ({"positional_embedding": None}, "positional_embedding is missing"),
    ],
)
def test_a_wrong_state_dict_is_refused_by_key(
    weights: Tensors, change: dict[str, torch.Tensor | None], message: str
) -> None:
    state = {key: value for key, value in (weights | change).items() if value is not None}
    with pytest.raises(ValueError, match=message) as refusal:
        ClipEncoder.from_state_dict(state, heads=4)
    assert "\n" not in str(refusal.value)


def test_loading_leaves_the_random_state_alone(weights: Tensors) -> None:
    before = torch.get_rng_state()
    ClipEncoder.from_state_dict(weights, heads=4)
    assert torch.equal(before, torch.get_rng_state())


def test_a_tower_without_its_vocabulary_says_so(tower: ClipEncoder) -> None:
    with pytest.raises(ValueError, match="the tower knows 97 ids, the tokeniser has 49408"):
        tower.encode(["a cat"])


# a directory in transformers' format


def encode_with_transformers(directory: Path, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    model = CLIPTextModelWithProjection.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.no_grad():
        out = model(input_ids=ids)
    return out.last_hidden_state, out.text_embeds


def test_directory_equals_transformers(directory: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    encoder = load_encoder(f"clip:{directory}", batch_size=3)
    assert capfd.readouterr() == ("", "")  # no bars, no reports
    features = encoder.encode(TEXTS)
    vocabulary = byte_vocabulary(MERGES)
    theirs = CLIPTokenizer(vocab=vocabulary, merges=MERGES)
    ids = torch.zeros(len(TEXTS), 77, dtype=torch.int64)
    for row, text in enumerate(TEXTS):
        sequence = theirs(text.lower(), truncation=True, max_length=77)["input_ids"]
        ids[row, : len(sequence)] = torch.tensor(sequence)
    tokens, pooled = encode_with_transformers(directory, ids)
    assert isinstance(encoder, TextEncoder)
    assert features.tokens.shape == (len(TEXTS), 77, 32) and features.pooled.shape == (len(TEXTS), 24)
    assert relative_difference(features.tokens, tokens) < 1e-5
    assert relative_difference(features.pooled, functional.normalize(pooled, dim=1)) < 1e-5
    assert features.eot_index.tolist() == ids.argmax(dim=1).tolist()
    assert features.eot_index[2] == 1 and features.eot_index[3] == 76


def test_a_whole_clip_model_gives_its_text_tower(tmp_path: Path) -> None:
    """The width of the projection then stands beside both towers, not in the text tower's own part."""
    text = {k: v for k, v in tiny_config().to_dict().items() if k not in ("projection_dim", "model_type")}
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=text, vision_config=vision | {"image_size": 8, "patch_size": 4}, projection_dim=24
    )
    model = CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    save_tokeniser(tmp_path)
    encoder = ClipEncoder.from_name(str(tmp_path))
    features = encoder.encode(TEXTS)
    with torch.no_grad():
        wanted = model.text_projection(model.text_model(input_ids=encoder.tokeniser(TEXTS)).pooler_output)
    assert relative_difference(features.pooled, functional.normalize(wanted, dim=1)) < 1e-5


def test_a_tower_saved_without_projection(tmp_path: Path) -> None:
    model = CLIPTextModel(tiny_config()).eval()
    model.save_pretrained(tmp_path)
    save_tokeniser(tmp_path)
    first, second = (ClipEncoder.from_name(str(tmp_path)) for _ in range(2))
    features = first.encode(TEXTS)
    with torch.no_grad():
        wanted = model(input_ids=first.tokeniser(TEXTS)).last_hidden_state
    assert relative_difference(features.tokens, wanted) < 1e-5
    assert features.pooled.shape == (len(TEXTS), first.width)
    assert first.fingerprint == second.fingerprint


@pytest.mark.parametrize("prefix", ["text_model.", ""])
def test_older_files_of_weights_are_read(directory: Path, prefix: str) -> None:
    """pytorch_model.bin, with the prefix or without, in half precision, with the constant it once held."""
    wanted = ClipEncoder.from_name(str(directory)).encode(TEXTS)
    state = load_file(directory / "model.safetensors")
    state = {key.replace("text_model.", prefix, 1): value for key, value in state.items()}
    state[f"{prefix}embeddings.position_ids"] = torch.arange(77)[None]
    (directory / "model.safetensors").unlink()
    torch.save(state, directory / "pytorch_model.bin")
    features = ClipEncoder.from_name(str(directory)).encode(TEXTS)
    assert torch.equal(features.tokens, wanted.tokens) and torch.equal(features.pooled, wanted.pooled)
    half = {key: value.half() for key, value in state.items()}
    torch.save(half, directory / "pytorch_model.bin")
    rounded = ClipEncoder.from_name(str(directory)).encode(TEXTS)
    assert rounded.tokens.dtype == torch.float32
    assert relative_difference(rounded.tokens, wanted.tokens) < 1e-2


def test_incomplete_weights_are_refused_by_key(directory: Path) -> None:
    state = load_file(directory / "model.safetensors")
    del state["text_model.final_layer_norm.bias"]
    save_file(state, directory / "model.safetensors")
    with pytest.raises(ValueError, match=r"^not the text tower of .*final_layer_norm\.bias is missing$"):
        ClipEncoder.from_name(str(directory))
    (directory / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors in"):
        ClipEncoder.from_name(str(directory))


def test_fingerprint_follows_weights_and_conventions(directory: Path, tmp_path: Path) -> None:
    first = ClipEncoder.from_name(str(directory))
    assert first.fingerprint == ClipEncoder.from_name(str(directory), batch_size=1).fingerprint
    assert len(first.fingerprint) == 64
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"hidden_act": "gelu"}))
    other_activation = ClipEncoder.from_name(str(directory))
    torch.manual_seed(1)
    CLIPTextModelWithProjection(tiny_config()).save_pretrained(directory)
    other_weights = ClipEncoder.from_name(str(directory))
    assert len({first.fingerprint, other_activation.fingerprint, other_weights.fingerprint}) == 3


def test_wrong_directories_are_refused_in_one_line(directory: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match=r"no config.json in .*empty$"):
        load_encoder(f"clip:{empty}")
    with pytest.raises(FileNotFoundError, match="no such directory, and not a hub name"):
        load_encoder(f"clip:{tmp_path / 'absent'}")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(ValueError, match="holds a bert model, not CLIP"):
        load_encoder(f"clip:{directory}")


def test_an_unreachable_hub_name_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def refuse(*_: object, **__: object) -> str:
        raise FileNotFoundError("cannot find it\nlonger story")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(FileNotFoundError, match=r"^no directory some/model, .*\(cannot find it\)$"):
        load_encoder("clip:some/model")
