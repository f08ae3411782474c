"""Checkpoints of the official Aurora repository, in both directions.

`from_official(state_dict, constructor)` builds our generator from the released repository's state dict and
its constructor options; `to_official` writes a state dict the released code accepts with strict=True, its
duplicated keys included. `official_keys` holds the correspondence, `official_options` the options.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from impasto.aurora.config import GeneratorConfig
from impasto.aurora.generator import Generator
from impasto.aurora.official_keys import Entry, correspondence
from impasto.aurora.official_options import RELEASED_CONSTRUCTOR, config_from_constructor
from impasto.config import ConfigError, first_line, nearest
from impasto.nn.resample import fir_kernel
from impasto.runtime.files import atomic_path

__all__ = [
    "RELEASED_CONSTRUCTOR",
    "config_from_constructor",
    "from_official",
    "read_official",
    "to_official",
    "write_official",
]


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
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a safetensors file: {error}") from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        reason = first_line(error)
        raise ValueError(f"{path} is not a checkpoint that opens with weights_only=True: {reason}") from None
    if isinstance(content, Mapping):
        for key in ("generator_smooth", "generator"):
            if isinstance(content.get(key), Mapping):
                content = content[key]
                break
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path} holds neither 'generator_smooth' nor 'generator' nor a state dict")
    return dict(content)


def write_official(generator: Generator, path: Path) -> None:
    """Write a .pth as the released scripts load it, with the weights under 'generator_smooth'."""
    state = {name: tensor.detach().clone() for name, tensor in to_official(generator).items()}
    with atomic_path(path) as temporary:
        torch.save({"generator_smooth": state}, temporary)
