"""The image network that reports measure with, kept apart from those that training used."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from impasto.metrics.frechet import FrechetStats
from impasto.pictures import from_images
from impasto.vision.efficientnet import ImageFeatures
from impasto.vision.features import SeesPictures

EXTRACTOR = "efficientnet-lite0"
SIDE = 64  # of its input: a distance by the same name has the same input
SMALL_SAMPLE = 2_048  # below, the distance is mostly the bias of a covariance of few pictures


class SameNetworkError(ValueError):
    """A report would measure with a network that the model was trained on."""


def refuse_training_networks(name: str, network: SeesPictures, used: Mapping[str, str]) -> None:
    """Raise SameNetworkError where a network, or one inside it, was used in a model's training: a model that
    was shown a network's features is flattered by them. `used` {role: hash}, as a model's provenance lists
    them; weights count, whatever size pictures are shown at."""
    own = {network.fingerprint, *network.networks.values()}
    for role, digest in used.items():
        if digest in own:
            raise SameNetworkError(
                f"{name} was used in this model's training (as {role}); report with another network"
            )


def reporting_features(
    provenance: Mapping[str, Any], name: str = EXTRACTOR, side: int = SIDE
) -> ImageFeatures:
    """The extractor for reports on a model of this provenance. Raises SameNetworkError, MissingAssetError."""
    extractor = ImageFeatures(name, side)
    refuse_training_networks(name, extractor, provenance.get("training_networks", {}))
    return extractor


@torch.no_grad()
def picture_stats(extractor: ImageFeatures, pictures: Sequence[Image.Image], batch: int = 64) -> FrechetStats:
    """Statistics of pooled features [N, D]; the pictures of a batch have one size."""
    stats = FrechetStats()
    for start in range(0, len(pictures), batch):
        stats.update(extractor.pooled(from_images(pictures[start : start + batch])))
    return stats
