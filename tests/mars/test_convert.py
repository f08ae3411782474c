"""Language models of transformers as MARS models: equal logits, names, files, and what is refused."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from impasto.config import ConfigError
from impasto.mars import convert
from impasto.mars.config import VisualConfig
from impasto.mars.convert import (
    from_directory,
    from_hf,
    from_language,
    language_state,
    load_visual,
    save_visual,
)
from impasto.mars.huggingface import language_config
from impasto.mars.semvie import is_visual
from impasto.nn.rotary import RotaryConfig
from tests.conftest import relative_difference
from tests.mars.models import CODES, SHAPE, hf_model, scatter, tiny_config, tiny_model

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e4,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
CASES = {
    "qwen2": ("qwen2", {}),
    "qwen2 tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2 without groups": ("qwen2", {"num_key_value_heads": 6, "rms_norm_eps": 1e-5}),
    "qwen2 theta": ("qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "llama": ("llama", {}),
    "llama tied": ("llama", {"tie_word_embeddings": True, "num_key_value_heads": 3}),
    "llama biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama wide heads": ("llama", {"head_dim": 16}),
    "llama llama3": ("llama", {"rope_parameters": LLAMA3}),
    "llama linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}),
}


def ids(batch: int = 2, length: int = 17) -> torch.Tensor:
    return torch.randint(0, SHAPE["vocab_size"], (batch, length))


@pytest.mark.parametrize("name", CASES)
def test_text_logits_equal_transformers(name):
    family, changes = CASES[name]
    theirs = hf_model(family, **changes)
    ours = from_hf(theirs.state_dict(), theirs.config.to_dict(), CODES)
    tokens = ids()
    with torch.no_grad():
        expected = theirs(tokens).logits
        actual = ours.text_logits(tokens)
    assert actual.shape == (2, 17, SHAPE["vocab_size"])
    assert relative_difference(actual, expected) < 2e-5


@pytest.mark.parametrize("name", CASES)
def test_both_spellings_of_rotary_settings_agree(name):
    family, changes = CASES[name]
    config = hf_model(family, **changes).config.to_dict()
    table = dict(config.pop("rope_parameters"))
    old = {**config, "rope_theta": table.pop("rope_theta"), "rope_scaling": None}
    if table["rope_type"] != "default":
        old["rope_scaling"] = {"type": table.pop("rope_type"), **table}
    assert language_config(old) == language_config(hf_model(family, **changes).config.to_dict())


def test_left_padding_leaves_no_trace():
    theirs = hf_model("qwen2")
    ours = from_hf(theirs.state_dict(), theirs.config.to_dict(), CODES)
    tokens = ids(1, 9)
    padded = torch.cat((torch.zeros(1, 4, dtype=torch.int64), tokens), dim=1)
    mask = torch.arange(13)[None] >= 4
    with torch.no_grad():
        torch.testing.assert_close(ours.text_logits(padded, mask)[:, 4:], ours.text_logits(tokens))


def test_the_visual_expert_starts_as_a_copy_that_owns_its_memory():
    theirs = hf_model("qwen2")
    state = theirs.state_dict()
    ours = from_hf(state, theirs.config.to_dict(), CODES)
    language, visual = ours.layers[1].language, ours.layers[1].visual
    assert torch.equal(language.attention.query.weight, visual.attention.query.weight)
    assert torch.equal(language.attention.value.bias, visual.attention.value.bias)
    assert torch.equal(language.feed_forward.down.weight, visual.feed_forward.down.weight)
    before = {name: tensor.clone() for name, tensor in state.items()}
    for parameter in ours.parameters():
        if parameter.requires_grad:
            parameter.data.add_(1.0)
    assert all(torch.equal(state[name], before[name]) for name in state)
    assert (
        language.attention.query.weight.data_ptr()
        == state["model.layers.1.self_attn.q_proj.weight"].data_ptr()
    )
    assert all(p.requires_grad == is_visual(name) for name, p in ours.named_parameters())
    assert from_hf(state, theirs.config.to_dict(), CODES, dtype=torch.bfloat16).dtype == torch.bfloat16


def qwen_v1(theirs) -> tuple[dict, dict]:
    """A Qwen2 model's weights and settings in the names of Qwen v1 (section 4.2 of the notes)."""
    state, old = theirs.state_dict(), {}
    old["transformer.wte.weight"] = state["model.embed_tokens.weight"]
    old["transformer.ln_f.weight"] = state["model.norm.weight"]
    old["lm_head.weight"] = state["lm_head.weight"]
    for layer in range(theirs.config.num_hidden_layers):
        new, name = f"model.layers.{layer}.", f"transformer.h.{layer}."
        for kind in ("weight", "bias"):
            parts = [state[f"{new}self_attn.{p}_proj.{kind}"] for p in "qkv"]
            old[f"{name}attn.c_attn.{kind}"] = torch.cat(parts)
        old[f"{name}attn.c_proj.weight"] = state[f"{new}self_attn.o_proj.weight"]
        old[f"{name}mlp.w1.weight"] = state[f"{new}mlp.up_proj.weight"]
        old[f"{name}mlp.w2.weight"] = state[f"{new}mlp.gate_proj.weight"]
        old[f"{name}mlp.c_proj.weight"] = state[f"{new}mlp.down_proj.weight"]
        old[f"{name}ln_1.weight"] = state[f"{new}input_layernorm.weight"]
        old[f"{name}ln_2.weight"] = state[f"{new}post_attention_layernorm.weight"]
        old[f"{name}attn.rotary_emb.inv_freq"] = torch.ones(4)
    config = {
        "model_type": "qwen",
        "vocab_size": 96,
        "hidden_size": 48,
        "intermediate_size": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "kv_channels": 8,
        "layer_norm_epsilon": 1e-6,
        "rotary_emb_base": 10000,
        "rotary_pct": 1.0,
        "seq_length": 8192,
        "no_bias": True,
        "tie_word_embeddings": False,
    }
    return old, config


def test_qwen_v1_names_give_the_same_model():
    theirs = hf_model("qwen2", num_key_value_heads=6)
    ours, tokens = from_hf(*qwen_v1(theirs), CODES), ids()
    with torch.no_grad():
        assert relative_difference(ours.text_logits(tokens), theirs(tokens).logits) < 2e-5


REFUSED = {
    "gpt2": ({"model_type": "gpt2"}, "model_type 'gpt2'"),
    "activation": ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
    "window": ({"use_sliding_window": True, "layer_types": None}, "sliding-window"),
    "windowed layers": ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding-window"),
    "yarn": ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope type 'yarn'"),
    "old yarn": ({"rope_parameters": None, "rope_scaling": {"type": "yarn"}}, "rope type 'yarn'"),
    "partial": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    "per layer": ({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "differ between layers"),
    "no width": ({"hidden_size": ...}, "has no 'hidden_size'"),
    "half llama3": ({"rope_parameters": {"rope_type": "llama3", "factor": 2.0}}, "low_freq_factor"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_architectures_are_refused_in_one_line(name):
    changes, words = REFUSED[name]
    config = hf_model("qwen2").config.to_dict() | changes
    config = {key: value for key, value in config.items() if value is not ...}
    with pytest.raises(ConfigError, match=words) as raised:
        language_config(config)
    assert "\n" not in str(raised.value)


def test_a_wrong_state_dict_is_named():
    theirs = hf_model("qwen2")
    config, state = theirs.config.to_dict(), theirs.state_dict()
    norm = "model.layers.0.input_layernorm.weight"
    with pytest.raises(ValueError, match=rf"'{norm}' is missing"):
        from_hf({k: v for k, v in state.items() if k != norm}, config, CODES)
    with pytest.raises(ValueError, match=r"shape \(7,\), expected \(48,\)"):
        from_hf(state | {norm: torch.ones(7)}, config, CODES)
    with pytest.raises(ValueError, match="'extra' is not expected"):
        from_hf(state | {"extra": torch.ones(1)}, config, CODES)
    tied = hf_model("qwen2", tie_word_embeddings=True)
    with pytest.raises(ConfigError, match="differs from the embedding"):
        from_hf(tied.state_dict() | {"lm_head.weight": torch.ones(96, 48)}, tied.config.to_dict(), CODES)


@pytest.mark.parametrize("shards", [1, 3])
def test_folders_of_safetensors(tmp_path, shards):
    theirs = hf_model("llama")
    state = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    (tmp_path / "config.json").write_text(json.dumps(theirs.config.to_dict()))
    if shards == 1:
        save_file(state, tmp_path / "model.safetensors")
    else:
        index = {}
        for part in range(shards):
            file = f"model-{part + 1:05d}-of-{shards:05d}.safetensors"
            names = sorted(state)[part::shards]
            save_file({name: state[name] for name in names}, tmp_path / file)
            index |= dict.fromkeys(names, file)
        (tmp_path / convert.INDEX).write_text(json.dumps({"weight_map": index}))
    ours, tokens = from_directory(tmp_path, CODES, grids=(3,)), ids()
    with torch.no_grad():
        assert relative_difference(ours.text_logits(tokens), theirs(tokens).logits) < 2e-5


def test_folders_that_are_not_models(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        from_directory(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(hf_model("llama").config.to_dict()))
    with pytest.raises(ValueError, match=r"only safetensors and \.gguf"):
        from_directory(tmp_path)
    (tmp_path / convert.INDEX).write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))
    with pytest.raises(ValueError, match="own folder"):
        from_directory(tmp_path)


@pytest.mark.parametrize("experts", ["split", "shared"])
def test_the_visual_part_alone_restores_a_model(tmp_path, experts):
    """Invariant 9: save and load of the visual part over an untouched base is the original."""
    theirs = hf_model("qwen2")
    switches = VisualConfig(experts=experts, norms="per_modality", query_key_norm=True)
    arguments = (theirs.state_dict(), theirs.config.to_dict(), CODES)
    trained = from_hf(*arguments, visual=switches)
    for layer in trained.layers:
        scatter(layer.visual, 0.1, 1)
    save_visual(trained, tmp_path / "visual.safetensors")
    restored = from_hf(*arguments, visual=switches, seed=5)
    load_visual(restored, tmp_path / "visual.safetensors")
    for (name, a), (_, b) in zip(trained.state_dict().items(), restored.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    other = hf_model("qwen2")
    scatter(other, 0.1, 9)
    with pytest.raises(ValueError, match="another language model"):
        load_visual(
            from_hf(other.state_dict(), *arguments[1:], visual=switches), tmp_path / "visual.safetensors"
        )
    with pytest.raises(ValueError, match=r"is (missing|not expected)"):
        load_visual(
            from_hf(*arguments, visual=replace(switches, query_key_norm=False)),
            tmp_path / "visual.safetensors",
        )


@pytest.mark.parametrize("experts", ["split", "shared"])
def test_one_base_under_other_switches(experts):
    model = tiny_model()
    config = tiny_config(experts=experts, norms="per_modality")
    other, tokens = from_language(language_state(model), config), ids()
    with torch.no_grad():
        assert torch.equal(other.text_logits(tokens), model.text_logits(tokens))
    assert all(p.requires_grad == is_visual(name) for name, p in other.named_parameters())
    with pytest.raises(ValueError, match=r"language state: '.*' is missing"):
        from_language({}, config)
    if experts == "shared":
        with pytest.raises(ValueError, match="no language expert apart"):
            language_state(other)


def test_gguf_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setattr(convert.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install gguf"):
        from_directory(tmp_path / "model.gguf")


def test_rotary_defaults():
    config = {**hf_model("llama").config.to_dict(), "rope_parameters": None}
    assert language_config(config).rotary == RotaryConfig(theta=10000.0)
