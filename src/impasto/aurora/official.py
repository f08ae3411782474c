"""Checkpoints of the official Aurora repository, in both directions.

`from_official(state_dict, constructor)` builds our generator from the released repository's state dict and
its constructor options; `to_official` writes a state dict the released code accepts with strict=True, its
duplicated keys included. The correspondence of keys is one list, `correspondence`, read in both directions.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from impasto.aurora.blocks import AttentionBlock, AttentionLayer, InputBlock, ResidualBlock
from impasto.aurora.config import (
    AttentionConfig,
    ConvolutionConfig,
    GeneratorConfig,
    MappingConfig,
    MoEConfig,
    TextHeadConfig,
)
from impasto.aurora.generator import Generator
from impasto.config import ConfigError, nearest
from impasto.nn.moe import SparseFeedForward
from impasto.nn.resample import fir_kernel
from impasto.nn.style import Dense, KernelBank, ModulatedConvolution, ModulatedLinear

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


@dataclass(frozen=True)
class Entry:
    """One official key. `ours` names our tensor (of one expert, if given), or None for the constant filter.
    `shape` is the official shape; the two differ by axes of length one."""

    official: str
    ours: str | None
    shape: tuple[int, ...]
    expert: int | None = None


def correspondence(generator: Generator) -> Iterator[Entry]:
    """Every official key of this generator with its counterpart, duplicates included."""
    names = {id(module): name for name, module in generator.named_modules()}
    walk = _Correspondence(names)
    yield Entry("w_avg", "w_avg", tuple(generator.w_avg.shape))
    yield from walk.text_head(generator)
    for index, layer in enumerate(generator.mapping.layers):
        yield from walk.dense(f"mapping.dense{index}", layer)
    if generator.config.pyramid:
        yield Entry("synthesis.filter", None, (4, 4))
    slot = 0
    for level in generator.levels:
        for unit in level.units:
            yield from walk.convolution_block(f"synthesis.net.{slot}", unit.convolution)
            if unit.attention is not None:
                yield from walk.attention_block(f"synthesis.net.{slot + 1}.0", unit.attention)
            slot += unit.slots
        side = level.resolution
        yield from walk.modulated(f"synthesis.output_res_{side}x{side}", level.to_rgb)


class _Correspondence:
    """Walks our modules and yields entries; `names` maps id(module) to its path in our generator."""

    def __init__(self, names: Mapping[int, str]):
        self.names = names

    def _entry(self, official: str, module: nn.Module, name: str, suffix: tuple[int, ...] = ()) -> Entry:
        tensor = module.get_parameter(name) if name in module._parameters else module.get_buffer(name)
        return Entry(official, f"{self.names[id(module)]}.{name}", (*tensor.shape, *suffix))

    def dense(self, official: str, module: Dense, suffix: tuple[int, ...] = ()) -> Iterator[Entry]:
        yield self._entry(f"{official}.weight", module, "weight", suffix)
        if module.bias is not None:
            yield self._entry(f"{official}.bias", module, "bias")

    def norm(self, official: str, module: nn.Module) -> Iterator[Entry]:
        yield self._entry(f"{official}.weight", module, "weight")
        yield self._entry(f"{official}.bias", module, "bias")

    def text_head(self, generator: Generator) -> Iterator[Entry]:
        head = generator.text_head
        if head.align is not None:
            yield from self.dense("text_head.align_dim", head.align)
        for index, block in enumerate(head.blocks):
            name = f"text_head.transformer.res_blocks.{index}"
            yield from self.norm(f"{name}.ln_1", block.norm_attention)
            yield from self.norm(f"{name}.ln_2", block.norm_perceptron)
            yield from self.dense(f"{name}.attn.to_qkv", block.to_qkv)
            yield from self.dense(f"{name}.attn.to_out.0", block.to_out)
            for prefix in (name, f"{name}.mlp"):  # the released module registers these twice
                yield from self.dense(f"{prefix}.c_fc", block.expand)
                yield from self.dense(f"{prefix}.c_proj", block.contract)

    def modulated(self, official: str, module: ModulatedConvolution | ModulatedLinear) -> Iterator[Entry]:
        bank: KernelBank = module.bank
        suffix = (1, 1) if isinstance(module, ModulatedLinear) else ()
        yield self._entry(f"{official}.weight", bank, "weight", suffix)
        yield self._entry(f"{official}.bias", module, "bias")
        yield from self.dense(f"{official}.style", module.style)
        if bank.choice is not None:
            yield from self.dense(f"{official}.filter_weight", bank.choice)
        field = getattr(module, "deformation", None)
        if field is not None:
            yield self._entry(f"{official}.mtm_weight", field, "weight")
            for theirs, ours in (("mtm_bias", "bias"), ("mtm_scales", "scale")):
                yield Entry(f"{official}.{theirs}", f"{self.names[id(field)]}.{ours}", (1, 27, 1, 1))
            yield from self.dense(f"{official}.mtm_style", field.style)
        if getattr(module, "upsample", False):
            yield Entry(f"{official}.filter", None, (4, 4))

    def convolution_block(self, official: str, block: InputBlock | ResidualBlock) -> Iterator[Entry]:
        if isinstance(block, InputBlock):
            source = block.input
            if hasattr(source, "constant"):
                yield self._entry(f"{official}.0.const", source, "constant")
            else:
                for theirs, ours in (("freqs", "frequencies"), ("phases", "phases")):
                    yield self._entry(f"{official}.0.{theirs}", source, ours)
                yield self._entry(f"{official}.0.transform", source, "transform")
                yield self._entry(f"{official}.0.weight", source, "weight")
                yield from self.dense(f"{official}.0.affine", source.get_submodule("affine"))  # type: ignore[arg-type]
            yield from self.modulated(f"{official}.1", block.convolution)
            return
        yield from self.modulated(f"{official}.0.conv1", block.first)
        yield from self.modulated(f"{official}.0.conv2", block.second)
        if block.skip is not None:
            yield from self.dense(f"{official}.0.skip_connection", block.skip, (1, 1))
            if block.upsample:
                yield Entry(f"{official}.0.skip_connection.filter", None, (4, 4))

    def attention_block(self, official: str, block: AttentionBlock) -> Iterator[Entry]:
        yield from self.norm(f"{official}.norm", block.norm)
        yield from self.dense(f"{official}.proj_in", block.project_in, (1, 1))  # type: ignore[arg-type]
        yield from self.dense(f"{official}.proj_out", block.project_out, (1, 1))  # type: ignore[arg-type]
        for index, layer in enumerate(block.layers):
            yield from self.attention_layer(f"{official}.attn_blocks.{index}", layer)

    def attention_layer(self, official: str, layer: AttentionLayer) -> Iterator[Entry]:
        own = layer.self_attention
        yield from self.norm(f"{official}.norm1", layer.norm_self)
        for name in ("to_qk", "to_v", "to_qkv"):
            if hasattr(own, name):
                yield from self.dense(f"{official}.self_attn.{name}", getattr(own, name))
        yield from self.modulated(f"{official}.self_attn.proj_out", own.to_out)  # type: ignore[arg-type]
        cross = layer.cross_attention
        if cross is not None:
            yield from self.norm(f"{official}.norm2", layer.norm_cross)
            yield from self.dense(f"{official}.cross_attn.to_q", cross.to_q)
            yield from self.dense(f"{official}.cross_attn.to_kv", cross.to_kv)
            yield from self.dense(f"{official}.cross_attn.proj_out.0", cross.to_out)
        if layer.style_token is not None:
            yield from self.dense(f"{official}.align_dim", layer.style_token)
        feed_forward = layer.feed_forward
        if feed_forward is None:
            return
        yield from self.norm(f"{official}.norm3", layer.norm_feed_forward)
        inner = "proj" if layer_kind(feed_forward) == "geglu" else "0"
        if isinstance(feed_forward, SparseFeedForward):
            yield from self.experts(f"{official}.ff.net", inner, feed_forward)
            yield from self.modulated(f"{official}.ff.routing", feed_forward.router.logits)  # type: ignore[arg-type]
        else:
            for project_in, project_out in (("project_in", "proj_out"), ("net.0", "net.2")):
                yield from self.dense(f"{official}.ff.{project_in}.{inner}", feed_forward.project_in)
                yield from self.dense(f"{official}.ff.{project_out}", feed_forward.project_out)

    def experts(self, official: str, inner: str, layer: SparseFeedForward) -> Iterator[Entry]:
        name = self.names[id(layer.experts)]
        pairs = (
            (f"0.{inner}.weight", "weight_in"),
            (f"0.{inner}.bias", "bias_in"),
            ("2.weight", "weight_out"),
            ("2.bias", "bias_out"),
        )
        for expert in range(layer.experts.count):
            for theirs, ours in pairs:
                shape = tuple(layer.experts.get_parameter(ours).shape[1:])
                yield Entry(f"{official}.{expert}.{theirs}", f"{name}.{ours}", shape, expert)


def layer_kind(feed_forward: nn.Module) -> str:
    """"geglu" or "gelu" of a dense or sparse feed-forward layer."""
    owner = feed_forward.experts if isinstance(feed_forward, SparseFeedForward) else feed_forward
    return str(owner.kind)


def to_official(generator: Generator) -> dict[str, Tensor]:
    """State dict in the released repository's names, accepted by it with strict=True.

    Tensors are views of the generator's where possible. Raises ConfigError for networks the released code
    cannot express (modulated projections, both convolutions deformable, and so on).
    """
    _check_expressible(generator.config)
    ours = generator.state_dict()
    state = {}
    for entry in correspondence(generator):
        if entry.ours is None:
            state[entry.official] = fir_kernel().to(generator.w_avg.device)
            continue
        tensor = ours[entry.ours]
        tensor = tensor if entry.expert is None else tensor[entry.expert]
        state[entry.official] = tensor.reshape(entry.shape)
    return state


def _check_expressible(config: GeneratorConfig) -> None:
    attention, moe = config.attention, config.moe
    impossible = {
        "attention.modulate": attention.modulate != "self_attention",
        "attention.skip": not attention.skip,
        "attention.pre_norm": not attention.pre_norm,
        "attention.text_tokens": attention.text_tokens != "without_eot",
        "attention.distance": attention.distance == "l2_squared",
        "convolution.deform": config.convolution.deform == "both",
        "convolution.kernel_selection": config.convolution.kernel_selection == "everywhere",
        "moe.router_input": moe.router_input != "feature_and_w",
        "moe.expert_scale": moe.expert_scale != "probability",
        "moe.hidden_ratio": moe.hidden_ratio != 4,
    }
    for name, differs in impossible.items():
        if differs:
            raise ConfigError(f"the released code has no counterpart for this {name}")


def from_official(state_dict: Mapping[str, Tensor], constructor: Mapping[str, Any]) -> Generator:
    """Our generator, in the release form and in evaluation mode, with an official state dict's weights.

    state_dict: official names to tensors; constructor: options of the released constructor. Raises
    ValueError naming the first key that is missing, unknown, or of another shape.
    """
    with torch.device("meta"):
        generator = Generator(config_from_constructor(constructor))
    entries = list(correspondence(generator))
    _check_keys(state_dict, entries)
    tensors: dict[str, Tensor] = {}
    stacks: dict[str, list[Tensor]] = {}
    targets = generator.state_dict()
    for entry in entries:
        theirs = state_dict[entry.official].to(torch.float32)
        if entry.ours is None:
            if not torch.equal(theirs.cpu(), fir_kernel()):
                raise ValueError(f"official checkpoint: '{entry.official}' is not the filter [1, 3, 3, 1]")
        elif entry.expert is not None:
            stacks.setdefault(entry.ours, []).append(theirs)
        else:
            tensor = theirs.reshape(targets[entry.ours].shape)
            if entry.ours in tensors and not torch.equal(tensors[entry.ours], tensor):
                raise ValueError(f"official checkpoint: '{entry.official}' differs from its duplicate")
            tensors.setdefault(entry.ours, tensor)
    for name, parts in stacks.items():
        tensors[name] = torch.stack(parts)
    generator.load_state_dict(tensors, strict=True, assign=True)
    return generator.requires_grad_(True).eval()


def _check_keys(state_dict: Mapping[str, Tensor], entries: list[Entry]) -> None:
    expected = {entry.official: entry.shape for entry in entries}
    for key, shape in expected.items():
        if key not in state_dict:
            raise ValueError(f"official checkpoint: key '{key}' is missing; is this another configuration?")
        if tuple(state_dict[key].shape) != shape:
            found = tuple(state_dict[key].shape)
            raise ValueError(f"official checkpoint: key '{key}' has shape {found}, expected {shape}")
    for key in state_dict:
        if key not in expected:
            raise ValueError(f"official checkpoint: unexpected key '{key}'; {nearest(key, expected)}")


def read_official(path: Path) -> dict[str, Tensor]:
    """Open an official file: a .pth holding 'generator_smooth' (preferred) or 'generator', or a bare state
    dict as .pth or .safetensors. Never unpickles code. Raises ValueError in one line for anything else."""
    if not path.is_file():
        raise ValueError(f"no such file: {path}")
    if path.suffix == ".safetensors":
        return load_file(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{path} is not a checkpoint that opens with weights_only=True: {reason}") from None
    if isinstance(content, Mapping):
        for key in ("generator_smooth", "generator"):
            if isinstance(content.get(key), Mapping):
                content = content[key]
                break
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path} holds neither 'generator_smooth' nor 'generator' nor a state dict")
    return dict(content)
