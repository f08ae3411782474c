"""The CLIP text tower as Aurora uses it (OpenAI's ViT-L/14 is the published choice).

The feature is the output of the final layer norm at every position, before the text projection, not
normalised, padding positions included: the attention is causal and knows no padding, so padding follows the
text and never reaches it. The tower runs in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from impasto.text.clip_tokeniser import PADDING, ClipTokeniser
from impasto.text.clip_weights import ClipTower, tower_from_directory, tower_from_state_dict
from impasto.text.features import TextFeatures, check_texts
from impasto.text.loading import exact_inference, fingerprint, resolve_directory


class ClipEncoder:
    """CLIP text features: tokens [B,77,C], eot_index = the first largest id, mask = up to and including EOT.

    pooled [B,C'] is CLIP's embedding of a text, the projected feature at EOT at unit length (where the file
    holds no projection, the feature itself at unit length). batch_size bounds the texts in the tower at once.
    Methods and errors as for `TextEncoder`, and ValueError where the tokeniser is not the tower's.
    """

    def __init__(
        self, tower: ClipTower, tokeniser: ClipTokeniser | None = None, batch_size: int = 64
    ) -> None:
        """tokeniser: the packaged published vocabulary where not given, looked for when a text comes."""
        self._tower = tower
        self._given_tokeniser = tokeniser
        self._batch_size = batch_size

    @classmethod
    def from_name(cls, name: str, batch_size: int = 64) -> ClipEncoder:
        """From a local directory or a hub name, in transformers' format.

        The tokeniser's files come from there too; where there are none, it is the published vocabulary.
        Raises FileNotFoundError or ValueError in one line.
        """
        directory = resolve_directory(name)
        tower = tower_from_directory(directory)
        length = tower.model.config.max_position_embeddings
        has_tokeniser = any((directory / file).is_file() for file in ("vocab.json", "tokenizer.json"))
        tokeniser = ClipTokeniser.from_directory(directory, length) if has_tokeniser else None
        return cls(tower, tokeniser, batch_size)

    @classmethod
    def from_state_dict(
        cls,
        state: Mapping[str, Tensor],
        *,
        heads: int | None = None,
        activation: str = "quick_gelu",
        round_to_half: bool = False,
        tokeniser: ClipTokeniser | None = None,
        batch_size: int = 64,
    ) -> ClipEncoder:
        """From weights in OpenAI / open_clip names; the arguments and errors are those of
        `tower_from_state_dict`, which names the shapes it reads ([vocabulary, C] and so on)."""
        return cls(tower_from_state_dict(state, heads, activation, round_to_half), tokeniser, batch_size)

    @property
    def width(self) -> int:
        return self._tower.model.config.hidden_size

    @property
    def device(self) -> torch.device:
        return self._tower.model.text_projection.weight.device

    @functools.cached_property
    def tokeniser(self) -> ClipTokeniser:
        """Raises ValueError where its vocabulary is not the tower's."""
        config = self._tower.model.config
        tokeniser = self._given_tokeniser or ClipTokeniser.packaged(config.max_position_embeddings)
        if tokeniser.size != config.vocab_size:
            raise ValueError(f"the tower knows {config.vocab_size} ids, the tokeniser has {tokeniser.size}")
        return tokeniser

    @functools.cached_property
    def fingerprint(self) -> str:
        config = self._tower.model.config
        conventions = {
            "encoder": "clip 1",
            "heads": config.num_attention_heads,
            "activation": config.hidden_act,
            "epsilon": config.layer_norm_eps,
            "padding": PADDING,
            "projected": self._tower.projected,
            "tokeniser": self.tokeniser.fingerprint,
        }
        state = self._tower.model.state_dict()
        if not self._tower.projected:
            del state["text_projection.weight"]  # random, and never used
        return fingerprint(state, conventions)

    def to(self, target: torch.device | torch.dtype | str) -> Self:
        self._tower.model.to(target)
        return self

    def encode(self, texts: list[str]) -> TextFeatures:
        check_texts(texts)
        return self.encode_ids(self.tokeniser(texts))

    def encode_ids(self, ids: Tensor) -> TextFeatures:
        """Features of ids [B,T] int64, padded as the tokeniser pads; the first largest id of a row is EOT."""
        return TextFeatures.concatenate([self._run(part) for part in ids.split(self._batch_size)])

    def _run(self, ids: Tensor) -> TextFeatures:
        ids = ids.to(self.device)
        model = self._tower.model
        eot_index = (ids == ids.amax(dim=1, keepdim=True)).int().argmax(dim=1)  # first maximum, on any device
        with exact_inference(self.device):
            tokens = model.text_model(input_ids=ids).last_hidden_state
            pooled = tokens[torch.arange(len(ids), device=ids.device), eot_index]
            if self._tower.projected:
                pooled = model.text_projection(pooled)
            pooled = functional.normalize(pooled.float(), dim=1)
        tokens = tokens.float()
        mask = torch.arange(ids.shape[1], device=ids.device) <= eot_index[:, None]
        return TextFeatures(tokens, mask, eot_index, pooled)
