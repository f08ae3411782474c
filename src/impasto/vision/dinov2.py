"""A DINOv2 image tower (transformers' Dinov2Model) as a frozen extractor of features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel

from impasto.text.loading import exact_inference, fingerprint, read_pretrained, weights_hash
from impasto.vision.features import channels, resize_square

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as DINOv2 was trained
SIDE = 224  # as Stein et al. 2023 (arXiv 2306.04675) measure; the towers take any multiple of their patch
KINDS = ("dinov2", "dinov2_with_registers")


class Dinov2Features:
    """The class token after the last normalisation. Pictures are resized to `side` (antialiased bicubic, not
    cropped) and normalised with ImageNet's constants."""

    def __init__(self, model: Any, side: int = SIDE) -> None:
        self._model, self.side = model.eval().requires_grad_(False), side
        config = model.config
        conventions = {
            "model": f"{config.model_type} 1",
            "heads": config.num_attention_heads,
            "activation": config.hidden_act,
            "epsilon": config.layer_norm_eps,
            "side": side,
            "resize": "bicubic",
        }
        self.fingerprint = fingerprint(model.state_dict(), conventions)
        self.networks = {"dinov2": weights_hash(model.state_dict())}

    @classmethod
    def from_directory(cls, directory: Path, side: int = SIDE) -> Dinov2Features:
        """From a local directory in transformers' format, weights as safetensors. FileNotFoundError or
        ValueError, in one line, where it holds something else."""
        model = read_pretrained(directory, AutoModel, KINDS, "a DINOv2 image tower")
        return cls(model, side)

    def to(self, device: torch.device | str) -> Dinov2Features:
        self._model.to(device)
        return self

    @property
    def device(self) -> torch.device:
        return next(self._model.parameters()).device

    def pooled(self, images: Tensor) -> Tensor:
        """images [B,3,H,W] in [-1,1] -> [B,D] float32. ValueError for another shape or type."""
        x = (resize_square(images.to(self.device), self.side, "bicubic") + 1) / 2
        x = (x - channels(MEAN, x)) / channels(DEVIATION, x)
        with exact_inference(self.device):
            return self._model(pixel_values=x.float()).last_hidden_state[:, 0].float()
