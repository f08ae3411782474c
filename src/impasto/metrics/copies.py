"""Whether generated pictures are copies of training pictures, and how much pictures of one prompt differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from impasto.metrics.intervals import Estimate, bootstrap
from impasto.metrics.sets import check_features, nearest

CLOSE = 0.05  # a picture is called close where this share of held-out pictures is nearer (guess)


@dataclass(frozen=True)
class Copies:
    """closer: the chance that a generated picture lies nearer to the training set than a held-out real one;
    half is no sign of copying, one is copying (after Meehan et al. 2020). close: share of generated pictures
    nearer than all but CLOSE of the held-out ones. order [M]: generated pictures by their distance, nearest
    first; neighbour [M]: the nearest training picture of each, in that order; distance [M]."""

    closer: float
    close: Estimate
    order: Tensor
    neighbour: Tensor
    distance: Tensor


def copies(generated: Tensor, training: Tensor, held_out: Tensor) -> Copies:
    """Features [M, D], [N, D], [H, D] of an extractor in which near means alike. ValueError for an empty
    set, another width D, or NaN."""
    generated, training, held_out = check_features(generated, training, held_out, least=1)
    distances, neighbours = (found[:, 0] for found in nearest(generated, training))
    usual = nearest(held_out, training)[0][:, 0].sort().values
    above = len(usual) - torch.searchsorted(usual, distances, right=True)
    level = len(usual) - torch.searchsorted(usual, distances, right=False)
    order = distances.argsort(stable=True)
    return Copies(
        closer=float((above + level).double().mean() / (2 * len(usual))),
        close=bootstrap((distances < torch.quantile(usual, CLOSE)).double().tolist()),
        order=order,
        neighbour=neighbours[order],
        distance=distances[order],
    )


def diversity(features: Tensor, prompts: Sequence[str]) -> Estimate:
    """How much pictures of one prompt differ: the mean squared distance between pictures of one prompt over
    that between pictures of different prompts; zero where a prompt has but one picture, about one where
    prompts make no difference. features [N, D]; the interval is over prompts. ValueError unless some prompt
    has two pictures and there are two prompts."""
    (features,) = check_features(features, least=4)
    if len(prompts) != len(features):
        raise ValueError(f"{len(prompts)} prompts for {len(features)} pictures")
    groups: dict[str, list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(index)
    repeated = [features[rows] for rows in groups.values() if len(rows) > 1]
    if not repeated or len(groups) < 2:
        raise ValueError("diversity needs two prompts, and two pictures of a prompt at least")
    within = [2 * float(group.var(0).sum()) for group in repeated]  # mean squared distance of two rows
    centred = features - features.mean(0)
    total, pairs = 2 * len(features) * float(centred.square().sum()), len(features) ** 2
    for rows in groups.values():
        group = features[rows] - features[rows].mean(0)
        total -= 2 * len(rows) * float(group.square().sum())
        pairs -= len(rows) ** 2
    between = total / pairs
    if between <= 0:
        raise ValueError("all pictures are alike: there is nothing to compare with")
    return bootstrap([value / between for value in within])
