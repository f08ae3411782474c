"""Features of many pictures, kept whole: what kernel distances and neighbours need."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK_NUMBERS = 2**22  # of a matrix between two sets that is held at once: 32 MiB in fp64


def check_features(*sets: Tensor, least: int) -> list[Tensor]:
    """The sets in fp64 on the CPU. ValueError unless each is finite, [N, D] with one D, of `least` rows."""
    for features in sets:
        if features.ndim != 2 or not features.is_floating_point():
            raise ValueError(f"features should be floating point [N, D], not {tuple(features.shape)}")
        if features.shape[1] != sets[0].shape[1]:
            raise ValueError(f"features of {sets[0].shape[1]} and of {features.shape[1]} numbers do not mix")
        if len(features) < least:
            raise ValueError(f"{len(features)} pictures are too few; this measure needs {least} at least")
        if not torch.isfinite(features).all():
            raise ValueError("features hold NaN or infinity: the pictures or the extractor are broken")
    return [features.detach().double().cpu() for features in sets]


def blocks(features: Tensor, columns: int) -> Iterator[Tensor]:
    """Runs [rows, D] of features [N, D], such that a matrix [rows, columns] stays within BLOCK_NUMBERS."""
    yield from features.split(max(1, BLOCK_NUMBERS // max(columns, 1)))


def squared_distances(queries: Tensor, references: Tensor) -> Iterator[Tensor]:
    """Squared distances of runs of queries [N, D] to all references [M, D], as [rows, M], in fp64 by matrix
    products about the mean of the references: exact to some 1e-15 of the largest squared length, which can
    be less than zero for two that are the same."""
    centre = references.mean(0)
    queries, references = queries - centre, references - centre
    lengths = references.square().sum(1)
    for part in blocks(queries, len(references)):
        yield torch.addmm(lengths, part, references.T, alpha=-2).add_(part.square().sum(1, keepdim=True))


def nearest(
    queries: Tensor, references: Tensor, count: int = 1, *, same: bool = False
) -> tuple[Tensor, Tensor]:
    """Distances [N, count] and indices [N, count] of the nearest references, nearest first. `same`: both are
    one set, and a picture is no neighbour of its own."""
    distances, indices, start = [], [], 0
    for between in squared_distances(queries.double(), references.double()):
        part = queries[start : start + len(between)]
        if same:
            rows = torch.arange(len(part))
            between[rows, rows + start] = torch.inf
        found = between.topk(count, dim=1, largest=False).indices
        exact = torch.stack([(part - references[column]).norm(dim=1) for column in found.T], dim=1)
        exact, order = exact.sort(dim=1, stable=True)  # by what they are, not by what the product made of it
        distances.append(exact)
        indices.append(found.gather(1, order))
        start += len(part)
    return torch.cat(distances), torch.cat(indices)
