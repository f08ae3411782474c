"""Tokenizers on disk: our own directories, and the weights of taming (with openMUSE's), diffusers' `VQModel`
(with aMUSEd's), LlamaGen's VQ-16 and transformers' `JanusVQVAE`.

A foreign layout is a list of rewritings of our parameter names into its own. The configuration is read off
the shapes; then every tensor must be there with its shape, and no other may be. No file is unpickled as code.
"""

import difflib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from impasto.config import ConfigError, first_line, from_dict, to_dict
from impasto.mars.vq import VQConfig, VQTokenizer
from impasto.runtime.model_directory import load_weights, read_config, save_model

Layout = Literal["taming", "diffusers", "llamagen", "janus"]
FAMILY = "mars-tokenizer"
NORMALIZE: dict[Layout, Literal["both", "decode", "none"]] = {
    "taming": "none",
    "diffusers": "none",
    "llamagen": "both",
    "janus": "decode",
}
_TAMING = [
    (r"^to_code\.", "quant_conv."),
    (r"^from_code\.", "post_quant_conv."),
    (r"^quantizer\.", "quantize."),
    (r"^(encoder.*)\.resample\.", r"\1.downsample."),
    (r"^(decoder.*)\.resample\.", r"\1.upsample."),
    (r"^encoder\.levels\.", "encoder.down."),
    (r"^decoder\.levels\.", "decoder.up."),
    (r"\.middle\.first\.", ".mid.block_1."),
    (r"\.middle\.attention\.", ".mid.attn_1."),
    (r"\.middle\.second\.", ".mid.block_2."),
    (r"\.blocks\.", ".block."),
    (r"\.attentions\.", ".attn."),
    (r"\.skip\.", ".nin_shortcut."),
    (r"\.to_(q|k|v)[a-z]+\.", r".\1."),
    (r"\.to_out\.", ".proj_out."),
]
RULES: dict[Layout, list[tuple[str, str]]] = {
    "taming": _TAMING,
    "janus": _TAMING,
    "llamagen": [
        (r"\.levels\.", ".conv_blocks."),
        (r"\.blocks\.", ".res."),
        (r"\.middle\.first\.", ".mid.0."),
        (r"\.middle\.attention\.", ".mid.1."),
        (r"\.middle\.second\.", ".mid.2."),
        *_TAMING,
    ],
    "diffusers": [
        (r"(\.attentions\.\d+|\.middle\.attention)\.norm\.", r"\1.group_norm."),
        (r"\.to_out\.", ".to_out.0."),
        (r"\.to_(q|k|v)[a-z]+\.", r".to_\1."),
        (r"\.middle\.first\.", ".mid_block.resnets.0."),
        (r"\.middle\.attention\.", ".mid_block.attentions.0."),
        (r"\.middle\.second\.", ".mid_block.resnets.1."),
        (r"^encoder\.levels\.", "encoder.down_blocks."),
        (r"^decoder\.levels\.", "decoder.up_blocks."),
        (r"\.blocks\.", ".resnets."),
        (r"\.skip\.", ".conv_shortcut."),
        (r"\.norm_out\.", ".conv_norm_out."),
        (r"^(encoder.*)\.resample\.", r"\1.downsamplers.0."),
        (r"^(decoder.*)\.resample\.", r"\1.upsamplers.0."),
        *_TAMING[:3],
    ],
}
# What only their training needs: perceptual and adversarial networks, averages, a record of used codes.
_DROPPED: dict[Layout, str] = {"taming": r"loss\.|model_ema\.", "llamagen": r"quantize\.codebook_used$"}
_WRAPPERS = ("state_dict", "ema", "model")  # Lightning; LlamaGen's trainer
_INSIDE = ("gen_vision_model.", "model.vqmodel.", "vqmodel.")  # a tokenizer that is part of a whole Janus
_OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
_WEIGHT_FILES = ("diffusion_pytorch_model.safetensors", "model.safetensors", "diffusion_pytorch_model.bin")
_SUPPORTED = {"act_fn": "silu", "norm_type": "group", "double_latent": False}


class ForeignTokenizerError(ValueError):
    """A checkpoint that is not what it should be; the message is one line."""


def save_tokenizer(path: Path, tokenizer: VQTokenizer, card: str) -> None:
    """Write a model directory of our own; `card` is its README."""
    save_model(path, FAMILY, {"tokenizer": to_dict(tokenizer.config)}, tokenizer.state_dict(), card)


def load_tokenizer(path: Path) -> VQTokenizer:
    """Read a directory that `save_tokenizer` wrote. ModelDirectoryError or ConfigError in one line."""
    family, document = read_config(path)
    if family != FAMILY:
        raise ConfigError(f"{path} holds a model of the family '{family}', not {FAMILY}")
    with torch.device("meta"):
        tokenizer = VQTokenizer(from_dict(VQConfig, document.get("tokenizer", {})))
    load_weights(path, tokenizer)
    return tokenizer.eval()


def load_foreign(path: Path, layout: Layout | None = None) -> VQTokenizer:
    """Read a file of weights (.safetensors, or .pt, .pth, .ckpt, .bin that open with weights_only=True), or a
    directory of diffusers or transformers, whose config.json is heeded. The layout is recognised by its names
    unless given. Raises ForeignTokenizerError in one line."""
    path, options = Path(path), {}
    if path.is_dir():
        options = _read_options(path / "config.json")
        found = [path / name for name in _WEIGHT_FILES if (path / name).is_file()]
        if not found:
            raise ForeignTokenizerError(f"{path} holds none of {', '.join(_WEIGHT_FILES)}")
        path = found[0]
    return from_foreign(read_weights(path), layout, norm_groups=options.get("norm_num_groups", 32))


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, out of the wrappings of Lightning and LlamaGen's trainer. Raises
    ForeignTokenizerError for a file that is missing, does not open safely, or holds no state dict."""
    if not path.is_file():
        raise ForeignTokenizerError(f"no such file: {path}")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ForeignTokenizerError(f"{path} is not a safetensors file: {first_line(error)}") from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ForeignTokenizerError(
            f"{path} does not open with weights_only=True ({first_line(error)}); "
            "save its state dict as .safetensors where you trust it"
        ) from None
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ForeignTokenizerError(f"{path} holds no state dict")
    return dict(content)


def detect_layout(state: Mapping[str, Tensor]) -> Layout:
    """Whose names these are. Taming and Janus count the decoder's levels from opposite ends. Raises
    ForeignTokenizerError for none of the known layouts."""
    if any(key.startswith("encoder.down_blocks.") for key in state):
        return "diffusers"
    if any(key.startswith("encoder.conv_blocks.") for key in state):
        return "llamagen"
    if any(key.startswith("encoder.down.") for key in state):
        return "janus" if "decoder.up.0.upsample.conv.weight" in state else "taming"
    raise ForeignTokenizerError(
        "no tokenizer of a known layout: neither encoder.down, encoder.down_blocks nor encoder.conv_blocks"
    )


def from_foreign(
    state: Mapping[str, Tensor], layout: Layout | None = None, *, norm_groups: int = 32
) -> VQTokenizer:
    """A tokenizer with the weights of a foreign state dict; the number of norm groups does not show in it.

    Raises ForeignTokenizerError in one line for a tensor that is missing, has another shape, or is unknown,
    with the name that is nearest to it.
    """
    state = _unwrapped(state)
    layout = layout or detect_layout(state)
    dropped = _DROPPED.get(layout)
    if dropped:
        state = {name: tensor for name, tensor in state.items() if not re.match(dropped, name)}
    if layout == "diffusers":
        state = {_renamed(name): tensor for name, tensor in state.items()}
    try:
        config = _infer_config(state, layout, norm_groups)
    except ConfigError as error:
        raise ForeignTokenizerError(f"these {layout} weights do not fit: {error}") from None
    with torch.device("meta"):
        tokenizer = VQTokenizer(config)
    expected = {foreign_name(name, layout, len(config.channels)): name for name in tokenizer.state_dict()}
    unknown = sorted(state.keys() - expected.keys())
    if unknown:
        close = difflib.get_close_matches(unknown[0], expected, n=1, cutoff=0.0)[0]
        raise ForeignTokenizerError(f"unknown tensor '{unknown[0]}' for {layout}; did you mean '{close}'?")
    shapes, weights = {name: tensor.shape for name, tensor in tokenizer.state_dict().items()}, {}
    for theirs, ours in expected.items():
        tensor = _tensor(state, theirs, layout)
        if (
            tensor.dim() == 2 and len(shapes[ours]) == 4
        ):  # a linear layer of diffusers, a 1x1 convolution here
            tensor = tensor[:, :, None, None]
        if tensor.shape != shapes[ours]:
            found, wanted = tuple(tensor.shape), tuple(shapes[ours])
            raise ForeignTokenizerError(f"tensor '{theirs}' has shape {found} instead of {wanted}")
        weights[ours] = tensor.contiguous()
    tokenizer.load_state_dict(weights, strict=True, assign=True)
    return tokenizer.eval()


def to_foreign(tokenizer: VQTokenizer, layout: Layout) -> dict[str, Tensor]:
    """The tokenizer's weights under the names, and in the shapes, of another layout: `from_foreign` back.
    ForeignTokenizerError where that layout looks codes up in another way."""
    config = tokenizer.config
    if config.normalize != NORMALIZE[layout] or config.patch != 1:
        raise ForeignTokenizerError(
            f"{layout} has normalize={NORMALIZE[layout]} and patch=1, this tokenizer has "
            f"normalize={config.normalize} and patch={config.patch}"
        )
    levels, exported = len(tokenizer.config.channels), {}
    for name, tensor in tokenizer.state_dict().items():
        linear = layout == "diffusers" and re.search(r"\.to_[a-z]+\.weight$", name)
        exported[foreign_name(name, layout, levels)] = tensor.flatten(1) if linear else tensor
    return exported


def foreign_name(name: str, layout: Layout, levels: int) -> str:
    """What `layout` calls our parameter `name`, in a tokenizer of `levels` levels."""
    if layout == "taming":  # which counts the decoder's levels from the finest; all others as they run
        name = re.sub(r"^decoder\.levels\.(\d+)", lambda m: f"decoder.levels.{levels - 1 - int(m[1])}", name)
    for pattern, replacement in RULES[layout]:
        name = re.sub(pattern, replacement, name)
    return name


def _infer_config(state: Mapping[str, Tensor], layout: Layout, norm_groups: int) -> VQConfig:
    """What the shapes say of the networks."""

    def has(name: str) -> bool:
        return foreign_name(name, layout, 1) in state

    def shape(name: str) -> torch.Size:
        return _tensor(state, foreign_name(name, layout, 1), layout).shape

    levels = _count(lambda n: has(f"encoder.levels.{n}.blocks.0.conv1.weight"))
    if not levels:
        shape("encoder.levels.0.blocks.0.conv1.weight")  # says what is missing
    codes, code_dim = shape("quantizer.embedding.weight")
    return VQConfig(
        image_channels=shape("encoder.conv_in.weight")[1],
        channels=tuple(shape(f"encoder.levels.{n}.blocks.0.conv1.weight")[0] for n in range(levels)),
        blocks=_count(lambda n: has(f"encoder.levels.0.blocks.{n}.conv1.weight")),
        attention_levels=tuple(
            n for n in range(levels) if has(f"encoder.levels.{n}.attentions.0.norm.weight")
        ),
        middle_attention=has("encoder.middle.attention.norm.weight"),
        norm_groups=norm_groups,
        latent_channels=shape("encoder.conv_out.weight")[0],
        codes=codes,
        code_dim=code_dim,
        normalize=NORMALIZE[layout],
    )


def _count(present: Callable[[int], bool]) -> int:
    """How many of 0, 1, 2, ... are present before the first that is not."""
    number = 0
    while present(number):
        number += 1
    return number


def _tensor(state: Mapping[str, Tensor], name: str, layout: Layout) -> Tensor:
    if name in state:
        return state[name]
    close = difflib.get_close_matches(name, state, n=1, cutoff=0.6)
    hint = f"; there is '{close[0]}'" if close else ""
    raise ForeignTokenizerError(f"tensor '{name}' of {layout} is missing{hint}")


def _unwrapped(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tokenizer alone, where it is part of a larger model."""
    for prefix in _INSIDE:
        part = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
        if part:
            return part
    return state


def _renamed(name: str) -> str:
    """diffusers' names of attention layers before its release 0.15, which old checkpoints still have."""
    for old, new in _OLD_ATTENTION.items():
        name = name.replace(old, new)
    return name


def _read_options(path: Path) -> dict:
    """A config.json of diffusers or transformers; options that change the networks in ways unknown here are
    refused."""
    try:
        options = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ForeignTokenizerError(f"{path.parent} has no config.json; give the file of weights") from None
    except json.JSONDecodeError as error:
        raise ForeignTokenizerError(f"{path} is not JSON: {error}") from None
    for name, value in _SUPPORTED.items():
        if options.get(name, value) != value:
            raise ForeignTokenizerError(f"{path}: {name}={options[name]!r} is not supported, only {value!r}")
    return options
