"""Impasto: text-to-image synthesis with sparse experts.

import impasto
pipe = impasto.load("aurora-scenes-32")
images = pipe("a red circle left of a blue square", num_images=4, seed=7)
"""

from pathlib import Path
from typing import Any

__version__ = "0.1.0"


def load(name: str | Path, settings: list[str] | None = None) -> Any:
    """A pipeline for a model directory, a shipped model's name, a preset (untrained) or a hub id."""
    from impasto.loading import load as load_pipeline

    return load_pipeline(name, settings)


__all__ = ["__version__", "load"]
