"""Hugging Face configurations and names of Qwen2, Llama and Qwen (v1) models, in our terms.

What our decoder does not compute is refused with one line rather than loaded wrongly.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from impasto.config import ConfigError, nearest
from impasto.mars.config import LanguageConfig
from impasto.nn.rotary import RotaryConfig

FAMILIES = ("qwen2", "llama", "qwen")
DEFAULT_THETA = 10000.0  # where a configuration names none
DEFAULT_CONTEXT = 2048


@dataclass(frozen=True)
class Entry:
    """One of our language tensors and where it comes from: part `index` of `parts` equal slices of rows."""

    ours: str
    theirs: str
    index: int = 0
    parts: int = 1


def language_config(config: Mapping[str, Any]) -> LanguageConfig:
    """Our configuration of a Hugging Face one (the dictionary of config.json). Raises ConfigError in one line
    for other architectures and for options that this decoder does not have."""
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ConfigError(f"model_type '{family}' is not supported; {nearest(str(family), FAMILIES)}")
    try:
        return _qwen_v1(config) if family == "qwen" else _qwen2_or_llama(config, family)
    except KeyError as error:
        raise ConfigError(f"the {family} configuration has no {error}") from None


def _qwen2_or_llama(config: Mapping[str, Any], family: str) -> LanguageConfig:
    if config.get("hidden_act", "silu") not in ("silu", "swish"):
        raise ConfigError(f"hidden_act '{config['hidden_act']}' is not supported; only silu is")
    if "sliding_attention" in (config.get("layer_types") or ()):
        raise ConfigError("sliding-window attention is not supported")
    if config.get("use_sliding_window") and not config.get("layer_types"):
        raise ConfigError("sliding-window attention is not supported; set use_sliding_window to false")
    heads, width = config["num_attention_heads"], config["hidden_size"]
    biased = bool(config.get("attention_bias", False))
    context = config.get("max_position_embeddings") or DEFAULT_CONTEXT
    return LanguageConfig(
        vocabulary=config["vocab_size"],
        width=width,
        layers=config["num_hidden_layers"],
        heads=heads,
        key_value_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or width // heads,
        feed_forward=config["intermediate_size"],
        norm_epsilon=float(config.get("rms_norm_eps", 1e-6)),
        query_key_value_bias=family == "qwen2" or biased,
        output_bias=family == "llama" and biased,
        feed_forward_bias=family == "llama" and bool(config.get("mlp_bias", False)),
        tied_head=bool(config.get("tie_word_embeddings", False)),
        context=context,
        end_of_text=_end_of_text(config),
        rotary=_rotary(config, context),
    )


def _qwen_v1(config: Mapping[str, Any]) -> LanguageConfig:
    """Qwen-7B's own format. Its stretching of positions and attention beyond the trained length is left out:
    within that length it does nothing."""
    if config.get("rotary_pct", 1.0) != 1.0:
        raise ConfigError("rotary_pct other than 1 is not supported")
    if not config.get("no_bias", True):
        raise ConfigError("a Qwen model with biases in every layer (no_bias false) is not supported")
    heads, width = config["num_attention_heads"], config["hidden_size"]
    return LanguageConfig(
        vocabulary=config["vocab_size"],
        width=width,
        layers=config["num_hidden_layers"],
        heads=heads,
        key_value_heads=heads,
        head_dim=config.get("kv_channels") or width // heads,
        feed_forward=config["intermediate_size"] // 2,  # theirs counts gate and up together
        norm_epsilon=float(config.get("layer_norm_epsilon", 1e-6)),
        query_key_value_bias=True,
        tied_head=bool(config.get("tie_word_embeddings", False)),
        context=config.get("seq_length") or DEFAULT_CONTEXT,
        end_of_text=_end_of_text(config),
        rotary=RotaryConfig(theta=float(config.get("rotary_emb_base", DEFAULT_THETA))),
    )


def _end_of_text(config: Mapping[str, Any]) -> int:
    """The end id, the first of several; where none is given, Qwen's if it is in the vocabulary, or 0."""
    end = config.get("eos_token_id")
    if isinstance(end, (list, tuple)):
        end = end[0] if end else None
    vocabulary = config["vocab_size"]
    if end is None:
        end = LanguageConfig.end_of_text if vocabulary > LanguageConfig.end_of_text else 0
    return end if 0 <= end < vocabulary else 0


def _rotary(config: Mapping[str, Any], context: int) -> RotaryConfig:
    """Both spellings: `rope_theta` beside `rope_scaling`, or all of it inside `rope_parameters`."""
    table = dict(config.get("rope_scaling") or {}) | dict(config.get("rope_parameters") or {})
    if any(isinstance(value, Mapping) for value in table.values()):
        raise ConfigError("rope_parameters that differ between layers are not supported")
    theta = table.pop("rope_theta", None) or config.get("rope_theta") or DEFAULT_THETA
    old, new = table.pop("type", "default"), table.pop("rope_type", None)
    kind = new or old
    if table.pop("partial_rotary_factor", None) not in (None, 1.0) or config.get(
        "partial_rotary_factor"
    ) not in (None, 1.0):
        raise ConfigError("partial_rotary_factor other than 1 is not supported")
    if kind == "default":
        return RotaryConfig(theta=float(theta))
    if kind == "linear":
        return RotaryConfig(theta=float(theta), scaling="linear", factor=float(table["factor"]))
    if kind == "llama3":
        return RotaryConfig(
            theta=float(theta),
            scaling="llama3",
            factor=float(table["factor"]),
            low_frequency_factor=float(table["low_freq_factor"]),
            high_frequency_factor=float(table["high_freq_factor"]),
            original_context=int(table.get("original_max_position_embeddings") or context),
        )
    raise ConfigError(f"rope type '{kind}' is not supported; choose from: default, linear, llama3")


def correspondence(config: LanguageConfig, family: str) -> Iterator[Entry]:
    """Every language tensor and its name in a `family` state dict (section 4.2 of the notes for Qwen v1)."""
    yield from _qwen_v1_entries(config) if family == "qwen" else _qwen2_entries(config)


def _qwen2_entries(config: LanguageConfig) -> Iterator[Entry]:
    yield Entry("language.embedding.weight", "model.embed_tokens.weight")
    yield Entry("language.norm.weight", "model.norm.weight")
    if not config.tied_head:
        yield Entry("language.head.weight", "lm_head.weight")
    attention = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}
    feed_forward = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
    for layer in range(config.layers):
        ours, theirs = f"layers.{layer}.language", f"model.layers.{layer}"
        yield Entry(f"{ours}.attention_norm.weight", f"{theirs}.input_layernorm.weight")
        yield Entry(f"{ours}.feed_forward_norm.weight", f"{theirs}.post_attention_layernorm.weight")
        for name, their_name in attention.items():
            biased = config.output_bias if name == "output" else config.query_key_value_bias
            for kind in ("weight", "bias")[: 1 + biased]:
                yield Entry(f"{ours}.attention.{name}.{kind}", f"{theirs}.self_attn.{their_name}.{kind}")
        for name, their_name in feed_forward.items():
            for kind in ("weight", "bias")[: 1 + config.feed_forward_bias]:
                yield Entry(f"{ours}.feed_forward.{name}.{kind}", f"{theirs}.mlp.{their_name}.{kind}")


def _qwen_v1_entries(config: LanguageConfig) -> Iterator[Entry]:
    yield Entry("language.embedding.weight", "transformer.wte.weight")
    yield Entry("language.norm.weight", "transformer.ln_f.weight")
    if not config.tied_head:
        yield Entry("language.head.weight", "lm_head.weight")
    plain = {
        "attention_norm": "ln_1",
        "feed_forward_norm": "ln_2",
        "attention.output": "attn.c_proj",
        "feed_forward.gate": "mlp.w2",
        "feed_forward.up": "mlp.w1",
        "feed_forward.down": "mlp.c_proj",
    }
    for layer in range(config.layers):
        ours, theirs = f"layers.{layer}.language", f"transformer.h.{layer}"
        for name, their_name in plain.items():
            yield Entry(f"{ours}.{name}.weight", f"{theirs}.{their_name}.weight")
        for index, name in enumerate(("query", "key", "value")):
            for kind in ("weight", "bias"):
                yield Entry(f"{ours}.attention.{name}.{kind}", f"{theirs}.attn.c_attn.{kind}", index, 3)


IGNORED_SUFFIXES = ("rotary_emb.inv_freq", "attn.masked_bias")  # buffers of old checkpoints


def is_ignored(key: str) -> bool:
    """Whether a tensor of this name ends in one of IGNORED_SUFFIXES."""
    return key.endswith(IGNORED_SUFFIXES)
