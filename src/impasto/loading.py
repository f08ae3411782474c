"""From a name to a pipeline: a directory, a shipped model, a preset, or a hub id."""

import hashlib
import warnings
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from impasto.config import ConfigError, first_line, nearest, override
from impasto.families import Family, all_presets, family_named, family_of_preset
from impasto.runtime.model_directory import CONFIG, is_model_directory, read_config


def shipped_models() -> dict[str, Path]:
    """Trained models that come inside the package."""
    folder = Path(str(resources.files("impasto"))) / "models"
    if not folder.is_dir():
        return {}
    return {path.name: path for path in sorted(folder.iterdir()) if is_model_directory(path)}


def load(name: str | Path, settings: list[str] | None = None) -> Any:
    """A pipeline for a model directory, a shipped model's name, a preset (untrained) or a hub id.

    settings: overrides such as "generator.moe.experts=1", for presets only: a trained network is what it is.
    Raises ConfigError or ModelDirectoryError, in one line.
    """
    family, found = _find(str(name), settings or [])
    if isinstance(found, Path):
        return family.from_pretrained(found)
    return family.untrained(found, name=str(name))


@dataclass(frozen=True)
class Described:
    """A preset or a model without its weights; state is "preset", "trained" or "untrained"."""

    name: str
    family: Family
    config: Any
    state: str
    provenance: dict[str, Any]


def describe(name: str, settings: list[str]) -> Described:
    """What `load` would load, from its configuration alone. Raises as `load`."""
    family, found = _find(name, settings)
    if not isinstance(found, Path):
        return Described(name, family, found, "preset", {})
    _, document = read_config(found)
    config, trained, provenance = family.read_document(document)
    return Described(found.resolve().name, family, config, "trained" if trained else "untrained", provenance)


def identity(name: str) -> dict[str, str]:
    """Which model a name means: its name and the sha256 of its configuration and weights; of a preset, which
    is untrained, the name alone. Raises as `load`."""
    _, found = _find(name, [])
    if not isinstance(found, Path):
        return {"preset": name}
    digest = hashlib.sha256()
    for file in sorted([*found.rglob("*.safetensors"), *found.rglob(CONFIG)]):
        digest.update(str(file.relative_to(found)).encode() + b"\0")
        with open(file, "rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return {"name": found.resolve().name, "sha256": digest.hexdigest()}


def _find(name: str, settings: list[str]) -> tuple[Family, Any]:
    """The family with a preset's configuration, settings applied, or with the directory of a model."""
    shipped, family = shipped_models(), family_of_preset(name)
    if family and (settings or name not in shipped) and not is_model_directory(Path(name)):
        build, _ = family.presets[name]
        return family, override(build(), settings)
    if settings:
        raise ConfigError(f"settings change presets only, and '{name}' is not one")
    path = shipped.get(name) or Path(name)
    if name in shipped and is_model_directory(Path(name)):
        warnings.warn(f"'{name}' is the shipped model; the folder here is './{name}'", stacklevel=2)
    if not path.is_dir():
        path = _from_hub(name, list(dict.fromkeys([*all_presets(), *shipped])))
    return family_named(read_config(path)[0], path), path


def _from_hub(name: str, known: list[str]) -> Path:
    if name.count("/") != 1 or name.startswith(("/", ".", "~")):
        raise ConfigError(f"no model or directory '{name}'; {nearest(name, known)}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name))
    except Exception as error:
        reason = first_line(error)
        raise ConfigError(f"'{name}' is no local directory and could not be fetched: {reason}") from None
