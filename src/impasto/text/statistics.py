"""The statistics by which `impasto.text.standardize` standardises sentence features, measured:

python -m impasto.text.statistics captions.txt --out FILE
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from impasto.text.features import TextFeatures
from impasto.text.sentence import SentenceEncoder

AT_ONCE = 64


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
    parser = argparse.ArgumentParser(prog="python -m impasto.text.statistics", description=main.__doc__)
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
