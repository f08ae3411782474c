"""A model on disk: a folder with config.json, model.safetensors and a README.md (the model card).

Knows no model family: config.json names it, and the caller builds the module.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from impasto.runtime.files import atomic_directory
from impasto.runtime.safetensors_stream import write_tensors

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
FORMAT = 1


class ModelDirectoryError(ValueError):
    """A model directory that cannot be read or written; the message is one line."""


def is_model_directory(path: Path) -> bool:
    """Whether a configuration and weights lie there; neither is read."""
    return (path / CONFIG).is_file() and (path / WEIGHTS).is_file()


def halved(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices and kernels ([N, ...] of two axes or more) in fp16, for a file of half the size; vectors [N]
    and numbers stay as they are.

    fp16 rather than bf16: weights need its precision and not the range. It is for storage alone, see
    `load_weights`. OverflowError where a weight is beyond fp16.
    """
    small = {}
    for name, tensor in state.items():
        if tensor.is_floating_point() and tensor.ndim >= 2:
            tensor = tensor.half()
            if not tensor.isfinite().all():
                raise OverflowError(f"'{name}' has values beyond fp16; save without half=True")
        small[name] = tensor
    return small


def save_model(
    path: Path, family: str, config: Mapping[str, Any], state: Mapping[str, Tensor], card: str
) -> None:
    """Write a whole model directory atomically. Sharded tensors are gathered one at a time, as
    `write_tensors` says. ModelDirectoryError where `path` holds something other than a model, or cannot be
    written."""
    path = Path(path)
    if path.is_dir() and any(path.iterdir()) and not is_model_directory(path):
        raise ModelDirectoryError(f"{path} exists and is not a model directory; choose another folder")
    if path.is_file():
        raise ModelDirectoryError(f"{path} is a file; choose a folder")
    document = {"family": family, "format": FORMAT, **config}
    try:
        with atomic_directory(path) as folder:
            write_tensors(folder / WEIGHTS, state)
            (folder / CONFIG).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
            (folder / CARD).write_text(card, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise ModelDirectoryError(
            f"{path} cannot be written: {error}; make room on this disk, what was there is intact"
        ) from error


def read_config(path: Path) -> tuple[str, dict[str, Any]]:
    """(family, configuration) of a model directory; ModelDirectoryError where config.json is missing, is not
    JSON, names no family or is of another format."""
    try:
        document = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelDirectoryError(f"{path} is not a model directory: it has no {CONFIG}") from None
    except json.JSONDecodeError as error:
        raise ModelDirectoryError(f"{path / CONFIG} is not JSON: {error}") from None
    if not isinstance(document, dict) or "family" not in document:
        raise ModelDirectoryError(f"{path / CONFIG} names no model family; is this an impasto model?")
    if document.pop("format", None) != FORMAT:
        raise ModelDirectoryError(f"{path / CONFIG} is of another format; this version reads format {FORMAT}")
    return document.pop("family"), document


def load_weights(path: Path, module: nn.Module) -> None:
    """Give a module built on the meta device the tensors of a model directory, memory-mapped. fp16, which
    nothing here computes in, is widened to the module's own type. ModelDirectoryError where the file is
    missing or cut short, or a tensor's name or shape is not the module's."""
    file = path / WEIGHTS
    try:
        state = load_file(file)
    except FileNotFoundError:
        raise ModelDirectoryError(f"{path} has no {WEIGHTS}") from None
    except SafetensorError as error:
        raise ModelDirectoryError(f"{file} cannot be read, it may be cut short: {error}") from None
    expected = module.state_dict()
    for name, tensor in expected.items():
        if name not in state:
            raise ModelDirectoryError(f"{file}: tensor '{name}' is missing for this {CONFIG}")
        if state[name].shape != tensor.shape:
            found, wanted = tuple(state[name].shape), tuple(tensor.shape)
            raise ModelDirectoryError(f"{file}: tensor '{name}' has shape {found}, {CONFIG} says {wanted}")
        if state[name].dtype == torch.float16:
            state[name] = state[name].to(tensor.dtype)
    extra = sorted(state.keys() - expected.keys())
    if extra:
        raise ModelDirectoryError(f"{file}: tensor '{extra[0]}' does not belong to this {CONFIG}")
    module.load_state_dict(state, strict=True, assign=True)
