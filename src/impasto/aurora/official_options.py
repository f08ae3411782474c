"""The released constructor's options, and our configuration for them."""

from collections.abc import Mapping
from typing import Any

from impasto.aurora.config import (
    AttentionConfig,
    ConvolutionConfig,
    GeneratorConfig,
    MappingConfig,
    MoEConfig,
    TextHeadConfig,
)
from impasto.config import ConfigError, nearest

# Defaults of the released constructor, for options a caller leaves out.
OFFICIAL_DEFAULTS: dict[str, Any] = {
    "z_dim": 128, "w_dim": 1024, "repeat_w": True, "normalize_z": True, "mapping_layers": 4,
    "mapping_fmaps": 1024, "mapping_use_wscale": True, "mapping_wscale_gain": 1.0, "mapping_lr_mul": 0.01,
    "use_class_label": False, "label_dim": 0, "embedding_dim": 512, "embedding_bias": True,
    "embedding_use_wscale": True, "embedding_wscale_gain": 1.0, "embedding_lr_mul": 1.0,
    "normalize_class_embed": True, "use_text_cond": True, "use_w_cond": False, "num_layers_text_enc": 4,
    "dropout": 0.0, "text_use_wscale": True, "text_wscale_gain": 1.0, "text_lr_mul": 0.01,
    "clip_out_dim": 768, "context_dim": 768, "normalize_text_cond": True, "resolution": -1, "init_res": 4,
    "image_channels": 3, "num_adaptive_kernels": {}, "num_block_per_res": {},
    "attn_resolutions": (8, 16, 32), "attn_depth": {}, "attn_ch_factor": 1.0, "mask_self": False,
    "residual_gain": 1.0, "attn_gain": 1.0, "text_head_gain": 1.0, "zero_out": True, "final_tanh": False,
    "fourier_feat": True, "demodulate": True, "use_wscale": True, "wscale_gain": 1.0, "lr_mul": 1.0,
    "fmaps_base": 32 << 9, "fmaps_max": 1600, "filter_kernel": (1, 3, 3, 1), "conv_clamp": None,
    "num_heads": 8, "head_dim": None, "l2_attention": True, "tie": True, "scale_in": True,
    "include_ff": True, "glu": False, "use_checkpoint": False, "checkpoint_res": None, "eps": 1e-8,
    "mtm": False, "num_experts": {}, "ms_training_res": ["4", "8", "16", "32", "64"],
    "skip_connection": False,
}  # fmt: skip

# Options the released scripts pass (both carry the same ones): the published 64x64 checkpoint.
RELEASED_CONSTRUCTOR: dict[str, Any] = {
    "resolution": 64, "context_dim": 1024, "clip_out_dim": 768, "head_dim": 64,
    "num_adaptive_kernels": {"4": 1, "8": 1, "16": 2, "32": 4, "64": 8},
    "num_block_per_res": {"4": 3, "8": 3, "16": 3, "32": 2, "64": 2},
    "attn_resolutions": ["8", "16", "32", "64"], "attn_depth": {"8": 2, "16": 2, "32": 2, "64": 1},
    "attn_gain": 0.3, "residual_gain": 0.4, "tie": False, "scale_in": False, "mtm": True,
    "num_experts": {"8": 4, "16": 8, "32": 16, "64": 16}, "skip_connection": True,
}  # fmt: skip

# Values without which the network is one we do not have; anything else is refused.
REQUIRED_VALUES: dict[str, Any] = {
    "use_text_cond": True, "use_class_label": False, "mask_self": False, "lr_mul": 1.0, "wscale_gain": 1.0,
    "mapping_wscale_gain": 1.0, "text_wscale_gain": 1.0, "eps": 1e-8,
}  # fmt: skip


def config_from_constructor(constructor: Mapping[str, Any]) -> GeneratorConfig:
    """The release form of our configuration for the released constructor's options.

    Options that do not change values at inference (activation checkpointing, dropout, class embedding) are
    accepted and dropped. Raises ConfigError for unknown options and for networks we do not build.
    """
    for key in constructor:
        if key not in OFFICIAL_DEFAULTS:
            raise ConfigError(f"unknown constructor option '{key}'; {nearest(key, OFFICIAL_DEFAULTS)}")
    o = {**OFFICIAL_DEFAULTS, **constructor}
    for key, value in REQUIRED_VALUES.items():
        if o[key] != value:
            raise ConfigError(f"constructor option {key}={o[key]!r} is not supported; only {value!r} is")
    if tuple(o["filter_kernel"]) != (1, 3, 3, 1):
        raise ConfigError("constructor option filter_kernel is not supported; only (1, 3, 3, 1) is")
    if not o["use_wscale"] == o["mapping_use_wscale"] == o["text_use_wscale"]:
        raise ConfigError("use_wscale, mapping_use_wscale and text_use_wscale should be equal")
    if o["normalize_z"] != o["normalize_text_cond"]:
        raise ConfigError("normalize_z and normalize_text_cond should be equal")
    return GeneratorConfig(
        resolution=o["resolution"],
        initial_resolution=o["init_res"],
        trained_resolutions=_trained_resolutions(o),
        image_channels=o["image_channels"],
        z_dim=o["z_dim"],
        w_dim=o["w_dim"],
        context_dim=o["context_dim"],
        channel_base=o["fmaps_base"],
        channel_max=o["fmaps_max"],
        pyramid=o["skip_connection"],
        final_tanh=o["final_tanh"],
        equalized=o["use_wscale"],
        text_head=TextHeadConfig(
            input_dim=o["clip_out_dim"],
            layers=o["num_layers_text_enc"],
            gain=o["text_head_gain"],
            learning_rate_multiplier=o["text_lr_mul"],
            attention="values_only",
        ),
        mapping=MappingConfig(
            layers=o["mapping_layers"],
            width=o["mapping_fmaps"],
            learning_rate_multiplier=o["mapping_lr_mul"],
            normalize_inputs=o["normalize_z"],
            style_per_layer=not o["repeat_w"],
        ),
        convolution=ConvolutionConfig(
            blocks=_by_resolution(o["num_block_per_res"]),
            kernels=_by_resolution(o["num_adaptive_kernels"]),
            input="fourier" if o["fourier_feat"] else "constant",
            deform="second" if o["mtm"] else "none",
            residual_gain=o["residual_gain"],
            demodulate=o["demodulate"],
            clamp=o["conv_clamp"],
        ),
        attention=_attention_config(o),
        moe=MoEConfig(experts=_expert_counts(o), kind="gelu" if o["glu"] else "geglu"),
    )


def _by_resolution(table: Mapping[Any, int]) -> dict[int, int]:
    return {int(key): value for key, value in table.items()}


def _levels(o: Mapping[str, Any]) -> list[int]:
    return [1 << i for i in range(o["init_res"].bit_length() - 1, o["resolution"].bit_length())]


def _trained_resolutions(o: Mapping[str, Any]) -> tuple[int, ...]:
    """Levels beyond the network's resolution may be listed in the released options; they have no effect."""
    listed = {int(r) for r in o["ms_training_res"]}
    return tuple(level for level in _levels(o) if level in listed)


def _attention_config(o: Mapping[str, Any]) -> AttentionConfig:
    """The released code asks whether the resolution, as a string, is in the list; numbers never are."""
    listed = o["attn_resolutions"] if o["attn_resolutions"] is not None else list(o["attn_depth"])
    depth = {level: o["attn_depth"][str(level)] if str(level) in listed else 0 for level in _levels(o)}
    return AttentionConfig(
        depth=depth,
        heads=o["num_heads"],
        head_dim=o["head_dim"],
        distance="l2" if o["l2_attention"] else "dot",
        tie_query_key=o["tie"] and o["l2_attention"],
        scale_query_and_key=o["scale_in"],
        gain=o["attn_gain"],
        zero_output=o["zero_out"],
        mask_padding=False,
        style_token=o["use_w_cond"],
        feed_forward=o["include_ff"],
    )


def _expert_counts(o: Mapping[str, Any]) -> dict[int, int]:
    return {level: max(o["num_experts"].get(str(level), 1), 1) for level in _levels(o)}
