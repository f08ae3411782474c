"""A CLIP image tower and text tower (transformers' CLIPModel) behind the protocol of this package."""

from __future__ import annotations

import functools
from typing import Any, Self

import torch
from torch import Tensor
from transformers import CLIPModel

from impasto.text.clip_tokeniser import PADDING, ClipTokeniser
from impasto.text.features import check_texts
from impasto.text.loading import (
    exact_inference,
    fingerprint,
    read_pretrained,
    resolve_directory,
    weights_hash,
)
from impasto.vision.features import channels, resize_square

# OpenAI's preprocessing (github openai/CLIP, clip/clip.py), which every published CLIP of this format shares.
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class ClipImageText:
    """CLIP's embeddings of pictures and texts, before they are normalised.

    Pictures are resized to the tower's side (antialiased bicubic, not cropped, overshoots kept so that
    gradients pass) and normalised with CLIP's constants. batch_size bounds the texts in the tower at once.
    Methods, shapes ([B,3,H,W] and N texts -> [B,D], [N,D]) and errors as in `ImageTextModel`; ValueError
    also where the tokeniser is not the text tower's.
    """

    def __init__(self, model: Any, tokeniser: ClipTokeniser | None = None, batch_size: int = 64) -> None:
        """model: transformers' CLIPModel; tokeniser: the published vocabulary where not given."""
        self._model = model.eval().requires_grad_(False)
        self._given_tokeniser = tokeniser
        self._batch_size = batch_size

    @classmethod
    def from_name(cls, name: str, batch_size: int = 64) -> ClipImageText:
        """From a local directory or a hub name, in transformers' format, weights as safetensors.

        Raises FileNotFoundError where there is no such thing, ValueError for another kind of model or for
        weights that are not those of its config.json; in one line.
        """
        directory = resolve_directory(name)
        model = read_pretrained(directory, CLIPModel, ("clip",), "a whole CLIP (image and text tower)")
        has_tokeniser = any((directory / file).is_file() for file in ("vocab.json", "tokenizer.json"))
        length = model.config.text_config.max_position_embeddings
        tokeniser = ClipTokeniser.from_directory(directory, length) if has_tokeniser else None
        return cls(model, tokeniser, batch_size)

    @property
    def side(self) -> int:
        return self._model.config.vision_config.image_size

    @property
    def device(self) -> torch.device:
        return self._model.logit_scale.device

    @property
    def scale(self) -> float:
        return float(self._model.logit_scale.float().exp())

    @functools.cached_property
    def tokeniser(self) -> ClipTokeniser:
        """Raises ValueError where its vocabulary is not the text tower's."""
        config = self._model.config.text_config
        tokeniser = self._given_tokeniser or ClipTokeniser.packaged(config.max_position_embeddings)
        if tokeniser.size != config.vocab_size:
            raise ValueError(f"the tower knows {config.vocab_size} ids, the tokeniser has {tokeniser.size}")
        return tokeniser

    @functools.cached_property
    def fingerprint(self) -> str:
        towers = {"text": self._model.config.text_config, "vision": self._model.config.vision_config}
        names = ("num_attention_heads", "hidden_act", "layer_norm_eps")
        conventions = {
            "model": "clip image text 1",
            **{f"{kind} {name}": getattr(tower, name) for kind, tower in towers.items() for name in names},
            "mean": MEAN,
            "deviation": DEVIATION,
            "resize": "bicubic",
            "padding": PADDING,
            "tokeniser": self.tokeniser.fingerprint,
        }
        return fingerprint(self._model.state_dict(), conventions)

    @functools.cached_property
    def networks(self) -> dict[str, str]:
        """The image tower."""
        return {"clip": weights_hash(self._model.vision_model.state_dict())}

    def to(self, target: torch.device | torch.dtype | str) -> Self:
        self._model.to(target)
        return self

    def embed_images(self, images: Tensor) -> Tensor:
        x = (resize_square(images, self.side, "bicubic") + 1) / 2
        x = (x - channels(MEAN, x)) / channels(DEVIATION, x)
        x = x.to(self._model.visual_projection.weight.dtype)
        pooled = self._model.vision_model(pixel_values=x).pooler_output
        return self._model.visual_projection(pooled).float()

    def embed_texts(self, texts: list[str]) -> Tensor:
        check_texts(texts)
        ids = self.tokeniser(texts)
        return torch.cat([self._embed_ids(part.to(self.device)) for part in ids.split(self._batch_size)])

    def _embed_ids(self, ids: Tensor) -> Tensor:
        """ids [N,T]; the first largest id of a row is EOT, and the attention is causal."""
        end = (ids == ids.amax(dim=1, keepdim=True)).int().argmax(dim=1)
        with exact_inference(self.device):
            tokens = self._model.text_model(input_ids=ids).last_hidden_state
            pooled = tokens[torch.arange(len(ids), device=ids.device), end]
            return self._model.text_projection(pooled).float()
