"""CLIP text towers from both kinds of file, as one transformers module.

The module is always transformers' CLIPTextModelWithProjection: its key names are the same in every
transformers release this project supports.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import CLIPConfig, CLIPTextConfig, CLIPTextModelWithProjection

from impasto.text.loading import quiet_loading

PROJECTION = "text_projection.weight"
LAYER_NORM_EPSILON = 1e-5  # torch's default, which the original code uses
# open_clip / OpenAI name inside a block -> transformers name; in_proj_* holds query, key and value stacked
BLOCK_NAMES = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
FIRST_BLOCK = "transformer.resblocks.0.attn.in_proj_weight"


@dataclass(frozen=True)
class ClipTower:
    """A text tower in float32, for inference; `projected` is False where the file holds no projection."""

    model: Any  # CLIPTextModelWithProjection
    projected: bool


def tower_from_directory(directory: Path) -> ClipTower:
    """A directory of a CLIPModel, CLIPTextModelWithProjection or CLIPTextModel (then not projected).

    Raises FileNotFoundError where a file is missing, ValueError for another kind of model or for weights that
    are not those of its config.json.
    """
    config_file = directory / "config.json"
    if not config_file.is_file():
        raise FileNotFoundError(f"no config.json in {directory}")
    kind = json.loads(config_file.read_text(encoding="utf-8")).get("model_type")
    if kind not in ("clip", "clip_text_model"):
        raise ValueError(f"{directory} holds a {kind} model, not CLIP")
    weights = _read_weights(directory)
    with quiet_loading():
        if kind == "clip":
            config: Any = CLIPConfig.from_pretrained(directory, local_files_only=True).text_config
        else:
            config = CLIPTextConfig.from_pretrained(directory, local_files_only=True)
    if PROJECTION in weights:  # config.json has its width in one of two places
        config.projection_dim = weights[PROJECTION].shape[0]
    return _build(config, weights, f"not the text tower of its config.json, {directory}")


def tower_from_state_dict(
    state: Mapping[str, Tensor],
    heads: int | None = None,
    activation: str = "quick_gelu",
    round_to_half: bool = False,
) -> ClipTower:
    """A state dict in OpenAI / open_clip names: the text tower alone, inside a whole CLIP, or under a prefix.

    Sizes follow from shapes: token_embedding.weight [vocabulary, C], positional_embedding [T, C],
    text_projection [C, C'], if there. heads: width // 64 where not given, as in every published tower.
    activation: transformers' name, "quick_gelu" for OpenAI's weights, "gelu" for many of open_clip's.
    round_to_half: the original loader holds linear and attention weights and the projection in fp16
    (convert_weights in clip/model.py), and a tower run in fp32 takes them from there. OpenAI's own files are
    rounded already; set it for a file with unrounded fp32 weights that must go through the same loader.
    Raises ValueError that names the first missing, unknown or misshapen key.
    """
    state = _text_part(state)
    if round_to_half:
        state = {key: value.half() if _held_in_half(key) else value for key, value in state.items()}
    converted = _rename(state)
    vocabulary, width = state["token_embedding.weight"].shape
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=state["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        projection_dim=converted[PROJECTION].shape[0] if PROJECTION in converted else width,
        num_hidden_layers=_count_blocks(state),
        num_attention_heads=heads if heads is not None else max(width // 64, 1),
        max_position_embeddings=state["positional_embedding"].shape[0],
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=0,
        hidden_act=activation,
        layer_norm_eps=LAYER_NORM_EPSILON,
    )
    return _build(config, converted, "not a CLIP text tower")


def _build(config: CLIPTextConfig, weights: dict[str, Tensor], refusal: str) -> ClipTower:
    """The module with weights in transformers' names; ValueError with the first key that does not fit."""
    with quiet_loading():
        model: Any = CLIPTextModelWithProjection(config).float()
    expected = model.state_dict()
    projected = PROJECTION in weights
    if not projected:
        weights[PROJECTION] = expected[PROJECTION]
    for key in [*expected, *weights]:
        if key not in weights or key not in expected:
            raise ValueError(f"{refusal}: {key} is {'missing' if key in expected else 'unknown'}")
        if weights[key].shape != expected[key].shape:
            shapes = f"{list(weights[key].shape)}, not {list(expected[key].shape)}"
            raise ValueError(f"{refusal}: {key} has shape {shapes}")
    model.load_state_dict(weights)  # copies, and casts to float32
    return ClipTower(model.eval().requires_grad_(False), projected)


def _read_weights(directory: Path) -> dict[str, Tensor]:
    """The text tower's weights under "text_model.", which a CLIPTextModel's own file may leave out.

    transformers reads all these layouts too, but which of them into which class changes between its releases.
    """
    own = ("embeddings.", "encoder.", "final_layer_norm.")
    files = sorted(directory.glob("model.safetensors")) or sorted(directory.glob("model-*.safetensors"))
    weights: dict[str, Tensor] = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            keys = [key for key in opened.keys() if key.startswith(("text_", *own))]  # noqa: SIM118
            weights |= {key: opened.get_tensor(key) for key in keys}
    if not files:
        if not (directory / "pytorch_model.bin").is_file():
            raise FileNotFoundError(f"no model.safetensors in {directory}")
        state = torch.load(directory / "pytorch_model.bin", map_location="cpu", weights_only=True)
        weights = {key: value for key, value in state.items() if key.startswith(("text_", *own))}
    weights = {f"text_model.{key}" if key.startswith(own) else key: value for key, value in weights.items()}
    weights.pop("text_model.embeddings.position_ids", None)  # a constant that older releases saved
    return weights


def _text_part(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The text tower's own keys, without the prefix that open_clip's newer models put in front."""
    found = [key for key in state if key.endswith(FIRST_BLOCK) and "visual." not in key]
    if not found:
        raise ValueError(f"not a CLIP text tower: {FIRST_BLOCK} is missing")
    prefix = found[0].removesuffix(FIRST_BLOCK)
    ours = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")
    part = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    part = {key: value for key, value in part.items() if key.startswith(ours)}
    for key in ("token_embedding.weight", "positional_embedding", "transformer.resblocks.0.mlp.c_fc.weight"):
        if key not in part:
            raise ValueError(f"not a CLIP text tower: {prefix}{key} is missing")
    return part


def _rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenAI's names -> transformers'. An unknown key keeps its name, and is refused by the caller."""
    fixed = {
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "ln_final.weight": "text_model.final_layer_norm.weight",
        "ln_final.bias": "text_model.final_layer_norm.bias",
    }
    converted: dict[str, Tensor] = {}
    for key, value in state.items():
        block = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+?)[._](weight|bias)", key)
        if key == "text_projection":  # [C,C'] there, a linear layer's [C',C] here
            converted[PROJECTION] = value.T
        elif block is None:
            converted[fixed.get(key, key)] = value
        else:
            number, name, kind = block.groups()
            layer = f"text_model.encoder.layers.{number}"
            if name == "attn.in_proj":
                for part, rows in zip("qkv", value.chunk(3), strict=True):
                    converted[f"{layer}.self_attn.{part}_proj.{kind}"] = rows
            else:
                converted[f"{layer}.{BLOCK_NAMES[name]}.{kind}" if name in BLOCK_NAMES else key] = value
    return converted


def _held_in_half(key: str) -> bool:
    return key == "text_projection" or ".attn." in key or ".mlp." in key


def _count_blocks(state: Mapping[str, Tensor]) -> int:
    numbers = (re.match(r"transformer\.resblocks\.(\d+)\.", key) for key in state)
    return 1 + max(int(match.group(1)) for match in numbers if match is not None)
