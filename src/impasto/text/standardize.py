"""Sentence features with mean zero and spread one in every dimension.

Vectors of MiniLM have much in common (two captions of Open Glyphs: a cosine of 0.4 to 0.5), which a generator
would have to learn to subtract. The statistics in the package are of 10,948 captions of Open Glyphs, one a
picture, skin tones left out (`impasto.text.statistics`).
"""

from __future__ import annotations

from dataclasses import replace
from importlib import resources
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from impasto.text.features import TextFeatures

STATISTICS = "sentence_statistics.safetensors"
SMALLEST = 1e-3  # standard deviation that is divided by; one dimension of MiniLM hardly moves


def load_statistics() -> dict[str, Tensor]:
    """The package's: mean and standard deviation [C] of word pieces and of the mean of a text."""
    return load_file(Path(str(resources.files("impasto.text"))) / STATISTICS)


def standardize(features: TextFeatures, statistics: dict[str, Tensor]) -> TextFeatures:
    """Word pieces [B,T,C] and means [B,C] by their own statistics, as `load_statistics` gives ([C] each);
    padding stays zero."""
    known = {name: value.to(features.device) for name, value in statistics.items()}
    rows = torch.arange(len(features), device=features.device)
    tokens = (features.tokens - known["piece_mean"]) / known["piece_deviation"].clamp(min=SMALLEST)
    mean = (features.pooled - known["text_mean"]) / known["text_deviation"].clamp(min=SMALLEST)
    tokens[rows, features.eot_index] = mean
    return replace(features, tokens=torch.where(features.mask[..., None], tokens, 0.0), pooled=mean)
