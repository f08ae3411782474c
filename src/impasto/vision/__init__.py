"""Frozen image networks, and scorers of pictures against texts behind one protocol."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from pathlib import Path

from impasto.config import nearest
from impasto.vision.features import ImageTextModel

__all__ = ["IMAGE_TEXT_MODELS", "ImageTextModel", "load_image_text_model", "shipped_scorers"]


def shipped_scorers() -> dict[str, Path]:
    """Two-towers that come inside the package, by name."""
    folder = Path(str(resources.files("impasto"))) / "models" / "scorers"
    return {path.name: path for path in sorted(folder.iterdir())} if folder.is_dir() else {}


def load_image_text_model(name: str) -> ImageTextModel:
    """A scorer by name: "clip:DIRECTORY_OR_HUB_NAME", or "two-tower:" and a directory or a shipped scorer's
    name.

    Raises ValueError for an unknown name or another model's directory, FileNotFoundError where a directory or
    hub name gives nothing, impasto.assets.MissingAssetError with the command to run where a weight package is
    absent. All in one line.
    """
    kind, _, source = name.partition(":")
    if kind not in IMAGE_TEXT_MODELS:
        raise ValueError(f"unknown image-text model '{name}'; {nearest(kind, IMAGE_TEXT_MODELS)}")
    if not source:
        example = "two-tower:DIRECTORY" if kind == "two-tower" else "clip:DIRECTORY or clip:OWNER/MODEL"
        raise ValueError(f"'{kind}' needs its weights: {example}")
    return IMAGE_TEXT_MODELS[kind](source)


def _clip(source: str) -> ImageTextModel:
    from impasto.vision.clip import ClipImageText

    return ClipImageText.from_name(source)


def _two_tower(source: str) -> ImageTextModel:
    from impasto.vision.two_tower import TwoTower

    shipped = shipped_scorers()
    if source in shipped and not Path(source).is_dir():
        return TwoTower.from_directory(shipped[source])
    try:
        return TwoTower.from_directory(source)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"no such directory: {source}, nor a shipped scorer ({', '.join(shipped) or 'there is none'})"
        ) from None


IMAGE_TEXT_MODELS: dict[str, Callable[[str], ImageTextModel]] = {"clip": _clip, "two-tower": _two_tower}
