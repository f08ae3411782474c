"""A DINOv2 image tower (transformers' Dinov2Model) as a frozen extractor of features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel

from impasto.config import first_line
from impasto.text.loading import exact_inference, fingerprint, quiet_loading
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

    @classmethod
    def from_directory(cls, directory: Path, side: int = SIDE) -> Dinov2Features:
        """From a local directory in transformers' format, weights as safetensors. FileNotFoundError or
        ValueError, in one line, where it holds something else."""
        config_file = directory / "config.json"
        if not config_file.is_file():
            raise FileNotFoundError(f"no config.json in {directory}")
        kind = json.loads(config_file.read_text(encoding="utf-8")).get("model_type")
        if kind not in KINDS:
            raise ValueError(f"{directory} holds a {kind} model, not a DINOv2 image tower")
        if not any(directory.glob("model*.safetensors")):
            raise FileNotFoundError(f"no model.safetensors in {directory}")
        try:
            with quiet_loading():
                model, report = AutoModel.from_pretrained(
                    directory,
                    local_files_only=True,
                    use_safetensors=True,
                    dtype=torch.float32,
                    output_loading_info=True,
                )
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"not the weights of its config.json, {directory}: {first_line(error)}"
            ) from error
        for problem in ("missing_keys", "mismatched_keys"):
            if report[problem]:
                key = min(report[problem])
                raise ValueError(f"not the weights of its config.json, {directory}: {problem}, such as {key}")
        return cls(model, side)

    def to(self, device: torch.device | str) -> Dinov2Features:
        self._model.to(device)
        return self

    @property
    def device(self) -> torch.device:
        return next(self._model.parameters()).device

    def pooled(self, images: Tensor) -> Tensor:
        """images [B,3,H,W] in [-1,1] -> [B,D] float32."""
        x = (resize_square(images.to(self.device), self.side, "bicubic") + 1) / 2
        x = (x - channels(MEAN, x)) / channels(DEVIATION, x)
        with exact_inference(self.device):
            return self._model(pixel_values=x.float()).last_hidden_state[:, 0].float()
