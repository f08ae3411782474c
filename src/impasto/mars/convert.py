"""Language models of the Hugging Face world to MARS models, and the visual part as a file of its own.

`from_hf(state_dict, config)` and `from_directory(folder)` build the frozen language expert and its visual
copy; `save_visual` and `load_visual` keep the trained part, which sits on top of an untouched base.
"""

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from impasto.config import ConfigError, first_line, nearest, to_dict
from impasto.mars.config import MarsConfig, VisualConfig
from impasto.mars.huggingface import correspondence, is_ignored, language_config
from impasto.mars.initial import empty_model, start_blocks, start_visual_from_language
from impasto.mars.semvie import MarsModel, is_visual, train_only
from impasto.runtime.files import atomic_path

INDEX = "model.safetensors.index.json"


def from_hf(
    state_dict: Mapping[str, Tensor],
    config: Mapping[str, Any],
    image_vocab: int = 8192,
    *,
    visual: VisualConfig | None = None,
    grids: tuple[int, ...] = MarsConfig.grids,
    dtype: torch.dtype | None = None,
    seed: int = 0,
) -> MarsModel:
    """A MARS model over a Qwen2, Llama or Qwen (v1) causal language model.

    state_dict, config: as the library saves them (config.json as a dictionary). image_vocab: number of image
    codes; visual: the other switches; grids: codes along one side at each resolution; dtype: of all weights,
    the state dict's by default; seed: of the noise in the new rows.

    The language weights share memory with the state dict where types agree; the visual ones are copies.
    Raises ConfigError for an architecture or option that is not supported, ValueError naming the first
    tensor that is missing, unknown or of another shape.
    """
    language = language_config(config)
    switches = replace(visual or VisualConfig(), codes=image_vocab)
    model = empty_model(MarsConfig(language=language, visual=switches, grids=grids))
    tensors = _language_tensors(state_dict, model, config["model_type"], dtype)
    _check_tied(state_dict, language.tied_head, tensors["language.embedding.weight"])
    return _assemble(model, tensors, seed)


def from_language(state: Mapping[str, Tensor], config: MarsConfig, *, seed: int = 0) -> MarsModel:
    """A MARS model over a language expert in our own names (`language_state`): one that was trained here, or
    the same base under other switches. Memory and errors as for `from_hf`."""
    model = empty_model(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in _language_shapes(model).items()}
    _check_names(state, shapes, "language state")
    return _assemble(model, {name: tensor.detach() for name, tensor in state.items()}, seed)


def language_state(model: MarsModel) -> dict[str, Tensor]:
    """Every tensor of the language expert, as views. Raises ValueError with experts="shared", which has none
    of its own."""
    if model.config.visual.experts == "shared":
        raise ValueError("with experts='shared' there is no language expert apart from the visual one")
    return {name: tensor for name, tensor in model.state_dict().items() if not is_visual(name)}


def _assemble(model: MarsModel, tensors: dict[str, Tensor], seed: int) -> MarsModel:
    """Give a meta model its language tensors, and the visual ones their memory and first values."""
    if model.config.visual.experts == "shared":
        tensors = {_shared_name(name): tensor for name, tensor in tensors.items()}
    kept_type = tensors["language.embedding.weight"].dtype
    for name, target in model.state_dict().items():
        if name not in tensors:
            tensors[name] = torch.empty(target.shape, dtype=kept_type)
        elif is_visual(name):
            tensors[name] = tensors[name].clone()
    model.load_state_dict(tensors, strict=True, assign=True)
    train_only(model, "visual")
    start_visual_from_language(model, seed=seed)
    return model


def from_directory(path: Path | str, image_vocab: int = 8192, **options: Any) -> MarsModel:
    """A MARS model over a Hugging Face folder (config.json and safetensors, one file or shards with their
    index) or a .gguf file (with the optional package `gguf`). Options as for `from_hf`."""
    path = Path(path)
    state, config = read_gguf(path) if path.suffix == ".gguf" else read_directory(path)
    return from_hf(state, config, image_vocab, **options)


def read_directory(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(state dict, configuration) of a Hugging Face folder; tensors are memory-mapped. Never unpickles.
    Raises ValueError in one line."""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} has no config.json; is it a language model's folder?") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path / 'config.json'} is not JSON: {error}") from None
    files = [path / "model.safetensors"]
    if (path / INDEX).is_file():
        index = json.loads((path / INDEX).read_text(encoding="utf-8"))
        names = sorted(set(index.get("weight_map", {}).values()))
        if not names or any(Path(name).name != name for name in names):
            raise ValueError(f"{path / INDEX} does not name files of its own folder")
        files = [path / name for name in names]
    state: dict[str, Tensor] = {}
    for file in files:
        if not file.is_file():
            raise ValueError(f"{path} has no {file.name}; only safetensors and .gguf weights are read")
        try:
            state.update(load_file(file))
        except SafetensorError as error:
            raise ValueError(f"{file} cannot be read, it may be cut short: {error}") from None
    return state, config


def read_gguf(path: Path, dtype: torch.dtype = torch.float32) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(state dict, configuration) of a .gguf file, its blocks expanded to `dtype` by transformers' reader.
    Raises ValueError in one line, ConfigError for an architecture that is not supported."""
    if importlib.util.find_spec("gguf") is None:
        raise ValueError(f"{path} needs the package 'gguf': pip install gguf")
    if not path.is_file():
        raise ValueError(f"no such file: {path}")
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    try:
        config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    except Exception as error:
        raise ValueError(f"{path} cannot be read: {first_line(error)}") from None
    language_config(config.to_dict())  # refuse before anything large is read
    with torch.device("meta"):  # names alone; their own loader would ask for one more package
        names = AutoModelForCausalLM.from_config(config)
    tensors = load_gguf_checkpoint(path, return_tensors=True, model_to_load=names)["tensors"]
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}, config.to_dict()


def visual_state(model: MarsModel) -> dict[str, Tensor]:
    """Every trained tensor and nothing else, as views."""
    return {name: tensor for name, tensor in model.state_dict().items() if is_visual(name)}


def load_visual_state(model: MarsModel, state: Mapping[str, Tensor]) -> None:
    """Give a model the trained tensors of another, in place. Raises ValueError naming the first tensor that
    is missing, unknown or of another shape; then nothing has changed."""
    load_state(visual_state(model), state)


def go_on_from(model: MarsModel, earlier: MarsModel, *, seed: int = 0) -> None:
    """Give a model the trained tensors of an earlier stage's. What stage III adds, where the earlier one has
    none of it, starts from them. ValueError as for `load_visual_state`."""
    targets = visual_state(model)
    if earlier.blocks is None:
        targets = {name: tensor for name, tensor in targets.items() if not name.startswith("blocks.")}
    load_state(targets, visual_state(earlier))
    if earlier.blocks is None:
        start_blocks(model, seed=seed)


def load_state(targets: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Copy tensors into others of the same names, in place. Errors as for `load_visual_state`."""
    _check_names(state, {name: tuple(target.shape) for name, target in targets.items()}, "visual checkpoint")
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(state[name])


def save_visual(model: MarsModel, file: Path) -> None:
    """Write the trained part, with the configuration and the base's fingerprint in the metadata."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in visual_state(model).items()}
    metadata = {"config": json.dumps(to_dict(model.config)), "base": base_fingerprint(model), "format": "pt"}
    with atomic_path(file) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def load_visual(model: MarsModel, file: Path) -> None:
    """Read what `save_visual` wrote. Raises ValueError if it was trained on another base, or does not fit."""
    try:
        with safe_open(file, framework="pt") as opened:
            base = (opened.metadata() or {}).get("base")
        state = load_file(file)
    except (SafetensorError, FileNotFoundError) as error:
        raise ValueError(f"{file} is not a visual checkpoint: {first_line(error)}") from None
    if base is not None and base != base_fingerprint(model):
        raise ValueError(f"{file} was trained on another language model than this one")
    load_visual_state(model, state)


def base_fingerprint(model: MarsModel) -> str:
    """A digest of the language expert's shape and norms: cheap, and different for different bases."""
    digest = hashlib.sha256(json.dumps(to_dict(model.config.language), sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if not is_visual(name) and "norm" in name:
            digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def digest_of(state: Mapping[str, Tensor]) -> str:
    """64 hexadecimal digits over names and numbers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _language_tensors(
    state_dict: Mapping[str, Tensor], model: MarsModel, family: str, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """Our names to views of the state dict's tensors, every name and shape checked."""
    entries = list(correspondence(model.config.language, family))
    shapes = {name: tuple(tensor.shape) for name, tensor in _language_shapes(model).items()}
    expected = {}
    for entry in entries:
        rows, *rest = shapes[entry.ours]
        expected[entry.theirs] = (rows * entry.parts, *rest)
    allowed = {key: value for key, value in state_dict.items() if not is_ignored(key)}
    if model.config.language.tied_head:
        allowed.pop("lm_head.weight", None)
    _check_names(allowed, expected, "state dict")
    tensors = {}
    for entry in entries:
        tensor = state_dict[entry.theirs].detach()
        if entry.parts > 1:
            tensor = tensor.chunk(entry.parts)[entry.index]
        tensors[entry.ours] = tensor.to(dtype or tensor.dtype)
    return tensors


def _language_shapes(model: MarsModel) -> Mapping[str, Tensor]:
    """Meta tensors of every language name, also those that a shared expert keeps under a visual name."""
    plain = replace(model.config, visual=VisualConfig(codes=2))
    return {name: t for name, t in empty_model(plain).state_dict().items() if not is_visual(name)}


def _shared_name(name: str) -> str:
    """With one set of weights for both modalities it is the visual, trained one; norms stay in place."""
    parts = name.split(".")
    if parts[0] == "layers" and parts[3] in ("attention", "feed_forward"):
        parts[2] = "visual"
    return ".".join(parts)


def _check_tied(state_dict: Mapping[str, Tensor], tied: bool, embedding: Tensor) -> None:
    head = state_dict.get("lm_head.weight")
    if tied and head is not None and not torch.equal(head.to(embedding.dtype), embedding):
        raise ConfigError("tie_word_embeddings is true, but lm_head.weight differs from the embedding")


def _check_names(state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], what: str) -> None:
    for name, shape in expected.items():
        if name not in state:
            raise ValueError(f"{what}: '{name}' is missing")
        if tuple(state[name].shape) != shape:
            found = tuple(state[name].shape)
            raise ValueError(f"{what}: '{name}' has shape {found}, expected {shape}")
    for name in state:
        if name not in expected:
            raise ValueError(f"{what}: '{name}' is not expected; {nearest(name, expected)}")
