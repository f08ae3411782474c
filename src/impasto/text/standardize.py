"""Sentence features with mean zero and spread one in every dimension.

Vectors of MiniLM have much in common (two captions of Open Glyphs: a cosine of 0.4 to 0.5), which a generator
would have to learn to subtract. The statistics in the package are of 10,948 captions of Open Glyphs, one a
picture, skin tones left out:

    python -m impasto.text.standardize captions.txt --out FILE
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from impasto.text.features import TextFeatures

STATISTICS = "sentence_statistics.safetensors"
SMALLEST = 1e-3  # standard deviation that is divided by; one dimension of MiniLM hardly moves
AT_ONCE = 64


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


def measure(batches: Iterable[TextFeatures]) -> dict[str, Tensor]:
    """Statistics [C] of texts, as `load_statistics` names them, in float64 on the way. ValueError for fewer
    than two texts."""
    pieces, texts = _Moments(), _Moments()
    for features in batches:
        piece = features.mask.clone()
        piece[torch.arange(len(features)), features.eot_index] = False
        pieces.add(features.tokens[piece])
        texts.add(features.pooled)
    return {**pieces.named("piece"), **texts.named("text")}


class _Moments:
    def __init__(self) -> None:
        self.count, self.total, self.squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, rows: Tensor) -> None:
        rows = rows.double()
        self.count += len(rows)
        self.total, self.squares = self.total + rows.sum(0), self.squares + rows.square().sum(0)

    def named(self, name: str) -> dict[str, Tensor]:
        if self.count < 2:
            raise ValueError("statistics need at least two texts")
        mean = self.total / self.count
        variance = (self.squares / self.count - mean.square()).clamp(min=0)
        return {f"{name}_mean": mean.float(), f"{name}_deviation": variance.sqrt().float()}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the captions in a file."""
    from impasto.text.sentence import SentenceEncoder

    parser = argparse.ArgumentParser(prog="python -m impasto.text.standardize", description=main.__doc__)
    parser.add_argument("captions", type=Path, help="text file, a caption a line")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="safetensors to write")
    arguments = parser.parse_args(argv)
    captions = sorted(set(arguments.captions.read_text(encoding="utf-8").splitlines()))
    encoder = SentenceEncoder()
    starts = range(0, len(captions), AT_ONCE)
    save_file(measure(encoder.encode(captions[at : at + AT_ONCE]) for at in starts), arguments.out)
    print(f"{len(captions)} captions; wrote {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
