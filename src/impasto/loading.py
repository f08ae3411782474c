"""From a name to a pipeline: a directory, a shipped model, a preset, or a hub id."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from impasto.config import ConfigError, first_line, nearest, override
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
    from impasto.aurora.pipeline import AuroraPipeline
    from impasto.mars.pipeline import MarsPipeline

    found = _find(str(name), settings or [])
    if not isinstance(found, Path):
        return AuroraPipeline.untrained(found, name=str(name))
    family, _ = read_config(found)
    families: dict[str, Callable[[Path], Any]] = {
        "aurora": AuroraPipeline.from_pretrained,
        "mars": MarsPipeline.from_pretrained,
    }
    if family not in families:
        raise ConfigError(f"{found / CONFIG}: unknown model family '{family}'; {nearest(family, families)}")
    return families[family](found)


@dataclass(frozen=True)
class Described:
    """A preset or a model without its weights; state is "preset", "trained" or "untrained"."""

    name: str
    config: Any
    state: str
    provenance: dict[str, Any]


def describe(name: str, settings: list[str]) -> Described:
    """What `load` would load, from its configuration alone."""
    from impasto.aurora.pipeline import read_document

    found = _find(name, settings)
    if not isinstance(found, Path):
        return Described(name, found, "preset", {})
    _, document = read_config(found)
    config, trained, provenance = read_document(document)
    return Described(found.resolve().name, config, "trained" if trained else "untrained", provenance)


def _find(name: str, settings: list[str]) -> Any:
    """A preset's configuration, with settings applied, or the directory of a model."""
    from impasto.aurora.presets import PRESETS

    shipped = shipped_models()
    if name in PRESETS and (settings or name not in shipped) and not is_model_directory(Path(name)):
        return override(PRESETS[name].build(), settings)
    if settings:
        raise ConfigError(f"settings change presets only, and '{name}' is not one")
    path = shipped.get(name) or Path(name)
    return path if path.is_dir() else _from_hub(name, [*PRESETS, *shipped])


def _from_hub(name: str, known: list[str]) -> Path:
    if name.count("/") != 1 or name.startswith(("/", ".", "~")):
        raise ConfigError(f"no model or directory '{name}'; {nearest(name, known)}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name))
    except Exception as error:
        reason = first_line(error)
        raise ConfigError(f"'{name}' is no local directory and could not be fetched: {reason}") from None
