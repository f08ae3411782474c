"""Sending tokens to the expert of their modality: two implementations of one function, and the trivial one.

Nothing is learned here, and no token passes through both experts. `route` applies a function to the rows of
each modality and returns the results in the original order; which implementation fits depends on what is
known of the layout beforehand.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

Rows = tuple[Tensor, ...]
RowFunction = Callable[..., Rows]  # tensors [..., d] of the same rows in and out, row by row


class Routing(ABC):
    """Which positions of a batch belong to the visual expert."""

    @abstractmethod
    def route(self, inputs: Rows, language: RowFunction, visual: RowFunction) -> Rows:
        """inputs [B, T, d_i] each -> tuple of [B, T, e_j]: `language` of the text rows and `visual` of the
        image rows, merged."""

    @abstractmethod
    def modality(self, batch: int, length: int) -> Tensor:
        """[batch, length] bool on the CPU or the routing's device, True for visual."""


@dataclass(frozen=True)
class UniformRouting(Routing):
    """One modality alone: text, or every decode step inside a picture."""

    visual: bool

    def route(self, inputs: Rows, language: RowFunction, visual: RowFunction) -> Rows:
        return (visual if self.visual else language)(*inputs)

    def modality(self, batch: int, length: int) -> Tensor:
        return torch.full((batch, length), self.visual)


@dataclass(frozen=True)
class Segment:
    """Positions start to stop of every row."""

    start: int
    stop: int
    visual: bool


@dataclass(frozen=True)
class SegmentRouting(Routing):
    """Contiguous runs that are the same for all rows: slices, no index, safe to compile and to capture."""

    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        at = 0
        for segment in self.segments:
            if segment.start != at or segment.stop <= at:
                raise ValueError("segments should follow one another from 0 without gaps")
            at = segment.stop

    def route(self, inputs: Rows, language: RowFunction, visual: RowFunction) -> Rows:
        if inputs[0].shape[1] != self.segments[-1].stop:
            wanted, found = self.segments[-1].stop, inputs[0].shape[1]
            raise ValueError(f"segments cover {wanted} positions, the sequence has {found}")
        parts = [
            (visual if part.visual else language)(*(x[:, part.start : part.stop] for x in inputs))
            for part in self.segments
        ]
        if len(parts) == 1:
            return parts[0]
        return tuple(torch.cat(same, dim=1) for same in zip(*parts, strict=True))

    def modality(self, batch: int, length: int) -> Tensor:
        row = torch.cat([torch.full((part.stop - part.start,), part.visual) for part in self.segments])
        return row.expand(batch, length)


class IndexRouting(Routing):
    """Any layout: gather each expert's rows, and put the results back in order by one index."""

    def __init__(self, modality: Tensor):
        """modality [B, T] bool, True for visual. Indices are worked out here, on its device; build it on
        the CPU and move it with `to`, so that no device has to be asked for sizes later."""
        flat = modality.flatten()
        self.shape = modality.shape
        self.language_rows, self.visual_rows = (~flat).nonzero()[:, 0], flat.nonzero()[:, 0]
        self.order = torch.cat((self.language_rows, self.visual_rows)).argsort()

    def to(self, device: torch.device, non_blocking: bool = False) -> "IndexRouting":
        """The same routing with its indices on another device."""
        moved = object.__new__(IndexRouting)
        moved.shape = self.shape
        for name in ("language_rows", "visual_rows", "order"):
            setattr(moved, name, getattr(self, name).to(device, non_blocking=non_blocking))
        return moved

    def route(self, inputs: Rows, language: RowFunction, visual: RowFunction) -> Rows:
        flat = [x.flatten(0, 1) for x in inputs]
        parts = [
            function(*(x.index_select(0, rows) for x in flat))
            for function, rows in ((language, self.language_rows), (visual, self.visual_rows))
            if len(rows)
        ]
        merged = (torch.cat(same).index_select(0, self.order) for same in zip(*parts, strict=True))
        return tuple(x.unflatten(0, self.shape) for x in merged)

    def modality(self, batch: int, length: int) -> Tensor:
        flat = self.order >= len(self.language_rows)
        return flat.unflatten(0, self.shape)


LANGUAGE_ONLY, VISUAL_ONLY = UniformRouting(False), UniformRouting(True)


def common_segments(modality: Tensor) -> tuple[Segment, ...] | None:
    """The runs of [B, T] bool if they are the same in every row, or None."""
    if not bool((modality == modality[:1]).all()):
        return None
    return _runs(modality[0].tolist())


def _runs(row: Sequence[bool]) -> tuple[Segment, ...]:
    edges = [0, *(i for i in range(1, len(row)) if row[i] != row[i - 1]), len(row)]
    return tuple(Segment(a, b, row[a]) for a, b in pairwise(edges))


def routing_for(modality: Tensor) -> Routing:
    """The cheapest routing for [B, T] bool on the CPU."""
    segments = common_segments(modality)
    if segments is None:
        return IndexRouting(modality)
    return UniformRouting(segments[0].visual) if len(segments) == 1 else SegmentRouting(segments)
