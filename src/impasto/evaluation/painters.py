"""Models as painters of the metrics, and the kind of scenes that a model was trained on."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from impasto.config import from_dict, override
from impasto.data.scene_source import SceneOptions
from impasto.metrics.scenes import Painter
from impasto.runtime.dist import Ranks


def painter_of(pipe: Any, ranks: Ranks, drawing: Mapping[str, Any]) -> Painter:
    """Every prompt has noise of its own. All ranks paint a share and have all pictures."""

    def paint(prompts: Sequence[str], seed: int) -> list[Image.Image]:
        seeds = [seed * len(prompts) + index for index in range(len(prompts))]

        def some(chosen: list[int]) -> list[Image.Image]:
            if not chosen:
                return []
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*is untrained")
                drawn = pipe.generate(
                    [prompts[index] for index in chosen],
                    seed=[seeds[index] for index in chosen],
                    batch_size=32,
                    **drawing,
                )
            return drawn.pictures()

        return ranks.in_shares(len(prompts), some)

    return paint


def options_of(pipe: Any, settings: Sequence[str]) -> SceneOptions:
    """The scenes that a model was trained on, as far as it says so, with overrides."""
    return scenes_trained_on(pipe.provenance, settings)


def scenes_trained_on(provenance: Mapping[str, Any], settings: Sequence[str]) -> SceneOptions:
    """The same of a model that is not loaded."""
    trained_on = provenance.get("data", {}).get("scenes")
    return override(from_dict(SceneOptions, trained_on) if trained_on else SceneOptions(), list(settings))
