"""Pictures against a reference: every measure of two sets of features, and what it takes to be comparable."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from impasto.config import ConfigError
from impasto.metrics.copies import Copies, copies, diversity
from impasto.metrics.features import SMALL_SAMPLE
from impasto.metrics.frechet import Frechet, FrechetStats, frechet
from impasto.metrics.intervals import Estimate
from impasto.metrics.kernel import kernel_distance
from impasto.metrics.manifold import NEIGHBOURS, Manifold, manifold
from impasto.metrics.picture_sets import SetFeatures

LEAST = NEIGHBOURS + 1  # below, no measure has a meaning


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """copies: None without training pictures. diversity: None where prompts are missing or no prompt has two
    pictures; `without_diversity` then says why."""

    frechet: Frechet
    kernel: Estimate
    manifold: Manifold
    copies: Copies | None
    diversity: Estimate | None
    without_diversity: str


def compare(pictures: SetFeatures, reference: SetFeatures, training: SetFeatures | None = None) -> Comparison:
    """Every measure. The reference serves as held-out pictures where copies of the training set are sought.
    Raises ValueError for sets that are too small for any measure."""
    found, why = _diversity(pictures)
    return Comparison(
        frechet=frechet(_stats(pictures), _stats(reference)),
        kernel=kernel_distance(pictures.features, reference.features),
        manifold=manifold(reference.features, pictures.features),
        copies=copies(pictures.features, training.features, reference.features) if training else None,
        diversity=found,
        without_diversity=why,
    )


def check_sets(sets: dict[str, SetFeatures], *, side: int | None, allow_small: bool) -> None:
    """ConfigError where the numbers would mislead: few pictures, sizes that differ, training pictures that
    stand for held-out ones. `sets`: "pictures", "reference" and maybe "training"."""
    check_counts({name: len(found.names) for name, found in sets.items()}, allow_small=allow_small)
    first = next(iter(sets.values()))
    for name, found in sets.items():
        if side is None and found.size != first.size:
            one, other = (f"{x.size[0]}x{x.size[1]}" for x in (first, found) if x.size)
            raise ConfigError(
                f"the pictures are {one}, those of --{name} {other}; --resize SIDE crops and resizes both"
            )
    if "training" in sets and sets["training"].content == sets["reference"].content:
        raise ConfigError(
            "--training and --reference are the same pictures: copies are told by how much nearer to the "
            "training pictures they are than held-out ones; name another reference"
        )


def check_counts(counts: dict[str, int], *, allow_small: bool) -> None:
    """ConfigError for few pictures or few of the reference; the training set may be of any size."""
    least = LEAST if allow_small else SMALL_SAMPLE
    why = "below {:,} the distance is mostly bias (--allow-small measures anyway)"
    if allow_small:
        why = "{:,} are the least any measure takes"
    for name in ("pictures", "reference"):
        if counts[name] < least:
            raise ConfigError(f"{counts[name]:,} {_TITLES[name]}: {why.format(least)}")


_TITLES = {"pictures": "pictures", "reference": "reference pictures"}


def _stats(found: SetFeatures) -> FrechetStats:
    stats = FrechetStats()
    for part in found.features.split(4096):
        stats.update(part)
    return stats


def _diversity(pictures: SetFeatures) -> tuple[Estimate | None, str]:
    """Over the pictures that carry a prompt."""
    rows = [row for row, prompt in enumerate(pictures.prompts) if prompt is not None]
    if not rows:
        return None, "no picture carries its prompt"
    prompts = [prompt for prompt in pictures.prompts if prompt is not None]
    try:
        return diversity(pictures.features[torch.tensor(rows)], prompts), ""
    except ValueError as error:
        return None, str(error)
