"""From a name to a pipeline: a directory, a shipped model, a preset, or a hub id."""

from importlib import resources
from pathlib import Path
from typing import Any

from impasto.config import ConfigError, from_dict, nearest, override
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
    from impasto.aurora.presets import PRESETS

    text = str(name)
    shipped = shipped_models()
    if text in PRESETS and (settings or text not in shipped) and not is_model_directory(Path(text)):
        config = override(PRESETS[text].build(), settings or [])
        return AuroraPipeline.untrained(config, name=text)
    if settings:
        raise ConfigError(f"settings change presets only, and '{text}' is not one")
    path = shipped.get(text) or Path(text)
    if not path.is_dir():
        path = _from_hub(text, [*PRESETS, *shipped])
    family, _ = read_config(path)
    families = {"aurora": AuroraPipeline.from_pretrained}
    if family not in families:
        raise ConfigError(f"{path / CONFIG}: unknown model family '{family}'; {nearest(family, families)}")
    return families[family](path)


def read_any_config(name: str, settings: list[str]) -> tuple[str, Any, str]:
    """(name, configuration, "preset" or "trained" or "untrained") without loading weights."""
    from impasto.aurora.config import AuroraConfig
    from impasto.aurora.presets import PRESETS

    shipped = shipped_models()
    if name in PRESETS and not (name in shipped and not settings):
        return name, override(PRESETS[name].build(), settings), "preset"
    path = shipped.get(name) or Path(name)
    if not path.is_dir():
        raise ConfigError(f"no model or directory '{name}'; {nearest(name, [*PRESETS, *shipped])}")
    if settings:
        raise ConfigError(f"settings change presets only, and '{name}' is not one")
    _, document = read_config(path)
    state = "trained" if document.pop("trained", True) else "untrained"
    return path.resolve().name, from_dict(AuroraConfig, document), state


def _from_hub(name: str, known: list[str]) -> Path:
    if name.count("/") != 1 or name.startswith(("/", ".", "~")):
        raise ConfigError(f"no model or directory '{name}'; {nearest(name, known)}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"'{name}' is no local directory and could not be fetched: {reason}") from None
