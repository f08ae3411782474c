"""Training examples of a two-tower scorer as frozen features, each a function of (run, position) alone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from impasto.data.scene_source import SceneSource
from impasto.data.source import DataSource
from impasto.text import TextEncoder, TextFeatures
from impasto.vision.contrastive import stated_pairs, statement_ids
from impasto.vision.hard_negatives import any_hard_negative
from impasto.vision.two_tower import TwoTower


@dataclass(frozen=True, eq=False)
class Examples:
    """Frozen features of B pictures (chosen maps [B,C,h,w], pooled [B,C']) and of T texts: their captions,
    then, where T = 2 B, one wrong caption each. ids [T]: equal where texts say the same; pairs [T,64]: which
    colours and shapes they put together; samples [B]: equal where the pictures are the same."""

    maps: list[Tensor]
    pooled: Tensor
    captions: TextFeatures
    wrong: TextFeatures | None
    ids: Tensor
    pairs: Tensor
    samples: Tensor

    def __len__(self) -> int:
        return len(self.pooled)

    def texts(self) -> TextFeatures:
        """Captions, then wrong captions: in the order of `ids`."""
        return self.captions if self.wrong is None else TextFeatures.concatenate([self.captions, self.wrong])

    def __getitem__(self, rows: Tensor) -> Examples:
        wrong = None if self.wrong is None else self.wrong[rows]
        maps = [part[rows] for part in self.maps]
        ids, pairs = (part.unflatten(0, (-1, len(self)))[:, rows] for part in (self.ids, self.pairs))
        texts = self.captions[rows], wrong, ids.flatten(), pairs.flatten(0, 1)
        return Examples(maps, self.pooled[rows], *texts, self.samples[rows])

    @staticmethod
    def concatenate(parts: Sequence[Examples]) -> Examples:
        wrong = [part.wrong for part in parts if part.wrong is not None]
        return Examples(
            [torch.cat(same) for same in zip(*(part.maps for part in parts), strict=True)],
            torch.cat([part.pooled for part in parts]),
            TextFeatures.concatenate([part.captions for part in parts]),
            TextFeatures.concatenate(wrong) if wrong else None,
            torch.cat([part.ids.unflatten(0, (-1, len(part))) for part in parts], dim=1).flatten(),
            torch.cat([p.pairs.unflatten(0, (-1, len(p))) for p in parts], dim=1).flatten(0, 1),
            torch.cat([part.samples for part in parts]),
        )


class ExampleStream:
    """Chunks of `size` consecutive positions, the newest `kept` of them remembered. A chunk is always
    computed in one batch of its own, so that it is the same numbers whenever it is asked for."""

    def __init__(
        self,
        model: TwoTower,
        source: SceneSource | DataSource,
        size: int,
        kept: int,
        *,
        seed: int,
        hard_negatives: bool,
        reader: TextEncoder | None = None,
    ) -> None:
        """reader: encodes the texts; the model's own encoder if there is none."""
        self.reader = reader or model.encoder
        self.model, self.source, self.size, self.kept = model, source, size, kept
        self.seed, self.hard_negatives = seed, hard_negatives
        self._chunks: OrderedDict[int, Examples] = OrderedDict()

    def chunk(self, number: int) -> Examples:
        """Positions [number * size, (number + 1) * size)."""
        if number not in self._chunks:
            self._chunks[number] = self._compute(range(number * self.size, (number + 1) * self.size))
        self._chunks.move_to_end(number)
        while len(self._chunks) > self.kept:
            del self._chunks[min(self._chunks)]
        return self._chunks[number]

    def batch(self, number: int, count: int, window: int, generator: torch.Generator) -> Examples:
        """The chunk `number`, and count - size examples drawn without replacement from the `window`
        positions before it (all of them, where there are not so many)."""
        first = max(number - window // self.size, 0)
        older = (number - first) * self.size
        drawn = torch.randperm(older, generator=generator)[: count - self.size].sort().values
        parts = [self.chunk(number)]
        for which in (drawn // self.size).unique().tolist():
            rows = drawn[drawn // self.size == which] % self.size
            parts.append(self.chunk(first + which)[rows.to(self.model.device)])
        return Examples.concatenate(parts)

    @torch.no_grad()
    def _compute(self, positions: range) -> Examples:
        images, captions = self.source.batch(positions)
        maps, pooled = self.model.observe(images.to(self.model.device))
        texts = list(captions)
        if self.hard_negatives:  # where there is none, the caption itself, which the loss leaves out
            texts += [
                any_hard_negative(caption, self._seed(position)) or caption
                for caption, position in zip(captions, positions, strict=True)
            ]
        features = encode_by_length(self.reader, texts).to(dtype=maps[0].dtype)  # half the memory in bf16
        count = len(captions)
        wrong = features[count:] if self.hard_negatives else None
        ids, pairs = (part.to(self.model.device) for part in (statement_ids(texts), stated_pairs(texts)))
        samples = torch.tensor(self.source.samples(positions), device=self.model.device)
        return Examples(maps, pooled, features[:count], wrong, ids, pairs, samples)

    def _seed(self, position: int) -> int:
        return (self.seed << 44) + position


def encode_by_length(encoder: TextEncoder, texts: Sequence[str], size: int = 64) -> TextFeatures:
    """The encoder's features of the texts in their order; encoded with others of like length, which saves
    the padding."""
    order = sorted(range(len(texts)), key=lambda index: (len(texts[index].split()), index))
    batches: Iterable[list[int]] = (order[start : start + size] for start in range(0, len(order), size))
    parts = [encoder.encode([texts[index] for index in batch]) for batch in batches]
    back = torch.tensor(order).argsort().to(encoder.device)
    return TextFeatures.concatenate(parts)[back]
