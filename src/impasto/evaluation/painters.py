"""Models as painters of the metrics, the scenes that a model was trained on, and how a report begins."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

import impasto
from impasto.config import from_dict, override, to_dict
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


def report_head(
    protocol: str, pipe: Any, options: SceneOptions, drawing: Mapping[str, Any], dtype: torch.dtype
) -> dict[str, Any]:
    """What report.json begins with: which model, asked for which scenes, and how it drew."""
    return {
        "protocol": protocol,
        "version": impasto.__version__,
        "model": pipe.name,
        "provenance": pipe.provenance,
        "resolution": drawing.get("size", pipe.config.resolution),
        "options": to_dict(options),
        "drawing": dict(drawing),
        "dtype": str(dtype).removeprefix("torch."),
    }


def scenes_trained_on(provenance: Mapping[str, Any], settings: Sequence[str]) -> SceneOptions:
    """The same of a model that is not loaded."""
    trained_on = provenance.get("data", {}).get("scenes")
    return override(from_dict(SceneOptions, trained_on) if trained_on else SceneOptions(), list(settings))
