"""Model directories of MARS on disk: an image tokenizer, a language model, or a whole model with both inside.

A stage of training names the earlier ones by folder, a run or its model; `find_directory` tells which.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from impasto.config import ConfigError, diff, from_dict, to_dict
from impasto.mars.config import LanguageConfig, MarsConfig
from impasto.mars.convert import from_directory, language_state
from impasto.mars.initial import empty_model
from impasto.mars.semvie import MarsModel, is_visual, train_only
from impasto.mars.texts import TOKENISER, read_tokeniser
from impasto.mars.vq import VQConfig, VQTokenizer
from impasto.runtime.files import atomic_directory
from impasto.runtime.model_directory import (
    WEIGHTS,
    ModelDirectoryError,
    is_model_directory,
    load_weights,
    read_config,
    save_model,
)
from impasto.runtime.sharding import is_sharded

FAMILY, TOKENIZER_FAMILY, LANGUAGE_FAMILY = "mars", "mars-tokenizer", "mars-language"


@dataclass(frozen=True, kw_only=True)
class EnlargingConfig:
    """Stage III of a whole model: the sequence model that draws a larger picture from the base's codes."""

    model: MarsConfig
    guidance: float = 1.0  # on the caption; 1: none

    def __post_init__(self) -> None:
        if self.model.super_resolution is None:
            raise ConfigError("enlarging.model has no super_resolution")


@dataclass(frozen=True, kw_only=True)
class MarsPipelineConfig:
    """A whole model: the sequence model, its image tokenizer, the grid that it was trained for, and stage III
    if there is one."""

    model: MarsConfig = field(default_factory=MarsConfig)
    tokenizer: VQConfig = field(default_factory=VQConfig)
    level: int = 0  # which of the model's grids
    guidance: float = 5.0  # default of the pipeline; peer (LlamaGen, Janus): 5 to 7.5
    enlarging: EnlargingConfig | None = None

    def __post_init__(self) -> None:
        self.model.grid(self.level)
        if self.model.super_resolution is not None:
            raise ConfigError("model.super_resolution is for enlarging.model alone; a base draws from words")
        if self.enlarging is not None:
            self._check_enlarging(self.enlarging.model)
        if self.tokenizer.codes != self.model.visual.codes:
            raise ConfigError(
                f"tokenizer.codes={self.tokenizer.codes}, but model.visual.codes={self.model.visual.codes}"
            )

    def _check_enlarging(self, model: MarsConfig) -> None:
        low, base = model.grids[-2], self.model.grid(self.level)
        if low != base:
            raise ConfigError(
                f"stage III enlarges {low} x {low} codes and the base draws {base} x {base}; name a base of "
                f"that grid, or --set model.grids={base},{2 * base}"
            )
        both = {
            "language": (model.language, self.model.language),
            "visual": (model.visual.started, self.model.visual.started),
        }
        for name, (own, bases) in both.items():
            changed = diff(own, bases)
            if changed:
                raise ConfigError(f"stage III differs from its base in model.{name} ({changed[0]})")

    @property
    def resolution(self) -> int:
        """Side in pixels of what the base draws."""
        return self.model.grid(self.level) * self.tokenizer.factor

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sides in pixels that it can draw."""
        if self.enlarging is None:
            return (self.resolution,)
        return (self.resolution, self.enlarging.model.grids[-1] * self.tokenizer.factor)


class MarsParts(nn.Module):
    """The networks of a whole model, under the names of its file. `enlarging`, stage III, reads text with the
    base's language expert and has none of its own."""

    def __init__(self, model: MarsModel, tokenizer: VQTokenizer, enlarging: MarsModel | None = None):
        super().__init__()
        self.model, self.tokenizer, self.enlarging = model, tokenizer, enlarging

    def saved_state(self) -> dict[str, Tensor]:
        """What the file holds: the language expert once."""
        prefix = "enlarging."
        return {
            name: tensor
            for name, tensor in self.state_dict().items()
            if not name.startswith(prefix) or is_visual(name.removeprefix(prefix))
        }


def share_language(model: MarsModel, base: MarsModel) -> None:
    """Put the language expert of `base` in the place of the model's own."""
    model.language = base.language
    for layer, of_base in zip(model.layers, base.layers, strict=True):
        layer.language = of_base.language


@dataclass(frozen=True)
class TokenizerPart:
    """An image tokenizer in evaluation mode; fingerprint: a digest of its shape and weights."""

    tokenizer: VQTokenizer
    fingerprint: str
    provenance: dict[str, Any]


@dataclass(frozen=True)
class LanguagePart:
    """A language expert in our own names with its text tokeniser."""

    state: dict[str, Tensor]
    config: LanguageConfig
    tokeniser: Tokenizer
    provenance: dict[str, Any]


def save_directory(
    path: Path,
    family: str,
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    card: str,
    tokeniser: Tokenizer | None = None,
) -> None:
    """Write a whole model directory atomically, with tokenizer.json if there is a text tokeniser.
    ModelDirectoryError for a folder that is no model: it is not replaced."""
    path = Path(path)
    if path.is_file() or (path.is_dir() and any(path.iterdir()) and not is_model_directory(path)):
        raise ModelDirectoryError(f"{path} exists and is not a model directory; choose another folder")
    with atomic_directory(path) as folder:
        save_model(folder, family, config, {name: _alone(tensor) for name, tensor in state.items()}, card)
        if tokeniser is not None:
            (folder / TOKENISER).write_text(tokeniser.to_str(), encoding="utf-8")


def find_directory(place: str | Path, name: str) -> Path:
    """The model directory that `place` is, or that the run `place` holds. ConfigError says what `name`, the
    setting, should be."""
    path = Path(place)
    for folder in (path, path / "model"):
        if is_model_directory(folder) or _is_hugging_face(folder):
            return folder
    raise ConfigError(f"{name}={place}: no model is there; name a finished run or its model directory")


def load_tokenizer(place: str | Path, name: str = "tokenizer") -> TokenizerPart:
    """The image tokenizer of a run, of its model directory, or of a whole model. ConfigError for anything
    else; `name` is the setting in messages."""
    path = find_directory(place, name)
    family, document = _read(path)
    if family == FAMILY:
        parts, _ = load_whole(path)
        return TokenizerPart(parts.tokenizer, tokenizer_fingerprint(parts.tokenizer), {})
    if family != TOKENIZER_FAMILY:
        raise ConfigError(f"{name}={place} is a model of the family '{family}', not an image tokenizer")
    with torch.device("meta"):
        tokenizer = VQTokenizer(from_dict(VQConfig, document["model"]))
    load_weights(path, tokenizer)
    tokenizer.eval().requires_grad_(False)
    return TokenizerPart(tokenizer, tokenizer_fingerprint(tokenizer), document.get("provenance", {}))


def load_language(place: str | Path, name: str = "language") -> LanguagePart:
    """The language model of a run, of its model directory, of a whole model, or of a Hugging Face folder.
    ConfigError for anything else; `name` is the setting in messages."""
    path = find_directory(place, name)
    if _is_hugging_face(path):
        model = from_directory(path, image_vocab=2)
        provenance = {"hugging_face": path.resolve().name}
        return LanguagePart(language_state(model), model.config.language, read_tokeniser(path), provenance)
    family, document = _read(path)
    if family == FAMILY:
        parts, config = load_whole(path)
        state = language_state(parts.model)
        return LanguagePart(state, config.model.language, read_tokeniser(path), {})
    if family != LANGUAGE_FAMILY:
        raise ConfigError(f"{name}={place} is a model of the family '{family}', not a language model")
    try:
        state = load_file(path / WEIGHTS)
    except SafetensorError as error:
        raise ConfigError(f"{path / WEIGHTS} cannot be read, it may be cut short: {error}") from None
    config_of = from_dict(LanguageConfig, document["model"])
    return LanguagePart(state, config_of, read_tokeniser(path), document.get("provenance", {}))


def load_whole(path: Path) -> tuple[MarsParts, MarsPipelineConfig]:
    """The networks of a whole model, frozen as after training, and its configuration. ConfigError for a model
    of another family."""
    family, document = _read(path)
    if family != FAMILY:
        raise ConfigError(f"{path} is a model of the family '{family}', not a whole MARS model")
    config, _, _ = read_document(document)
    parts = empty_parts(config)
    load_weights(path, parts)
    if parts.enlarging is not None:
        share_language(parts.enlarging, parts.model)
        train_only(parts.enlarging, "visual")
    train_only(parts.model, "visual")
    parts.tokenizer.requires_grad_(False)
    return parts.eval(), config


def read_document(document: Mapping[str, Any]) -> tuple[MarsPipelineConfig, bool, dict[str, Any]]:
    """(configuration, trained, provenance) from the config.json of a whole model."""
    rest = dict(document)
    trained, provenance = rest.pop("trained", True), rest.pop("provenance", {})
    return from_dict(MarsPipelineConfig, rest), trained, provenance


def empty_parts(config: MarsPipelineConfig) -> MarsParts:
    """Shapes on the meta device; stage III without a language expert, as in the file."""
    with torch.device("meta"):
        tokenizer = VQTokenizer(config.tokenizer)
    enlarging = None
    if config.enlarging is not None:
        enlarging = empty_model(config.enlarging.model)
        for owner in (enlarging, *enlarging.layers):
            owner.language = nn.Identity()
    return MarsParts(empty_model(config.model), tokenizer, enlarging)


def _alone(tensor: Tensor) -> Tensor:
    """The tensor, or a copy if it is part of a larger one, which safetensors would not write."""
    if is_sharded(tensor):
        return tensor  # gathered when it is written
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.detach().clone()


def tokenizer_fingerprint(tokenizer: VQTokenizer) -> str:
    """64 hexadecimal digits over the configuration and every tensor, as fp32: codes belong to one."""
    digest = hashlib.sha256(json.dumps(to_dict(tokenizer.config), sort_keys=True).encode())
    for name, tensor in sorted(tokenizer.state_dict().items()):
        digest.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    """As `read_config`; a Hugging Face folder is no model of ours and is said to be one."""
    if _is_hugging_face(path):
        return "Hugging Face", {}
    return read_config(path)


def _is_hugging_face(path: Path) -> bool:
    try:
        document = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and "model_type" in document
