"""Frozen networks that help a run: a CLIP-like model for the contrastive loss, image features for the
vision-aided heads. They are loaded once, never trained, and named by hash in the models that come of it, so
that a report can refuse to measure with what was trained on."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from impasto.aurora.losses import caption_ids, duplicate_mask
from impasto.config import ConfigError
from impasto.runtime.dist import Ranks
from impasto.vision import ImageTextModel, load_image_text_model
from impasto.vision.efficientnet import ImageFeatures
from impasto.vision.features import hashes_by_role


@dataclass(frozen=True, kw_only=True)
class GuidanceConfig:
    """Which frozen networks a run uses, and how much they weigh."""

    clip_model: str | None = None  # "clip:DIRECTORY_OR_HUB_NAME" or "two-tower:DIRECTORY"; None: no CLIP loss
    clip_weight: float = 0.2  # recollections of GigaGAN's table: 0.2 to 1
    clip_from: int = 0  # images; before them pictures are too vague for it and it leaves marks (ours)
    clip_levels: tuple[int, ...] | None = None  # sides that are judged; None: all (Aurora, section 3.3)
    vision_aided_weight: float = 0.0  # GigaGAN; not in Aurora's recipe
    vision_aided_network: str = "efficientnet-lite2"  # GigaGAN: CLIP ViT-B/32
    vision_aided_side: int = 64  # pixels; guess

    def __post_init__(self) -> None:
        for name in ("clip_weight", "vision_aided_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(f"guidance.{name}={getattr(self, name)} should not be negative")


@dataclass(frozen=True)
class Guides:
    """The loaded networks; None where the run has none."""

    clip: ImageTextModel | None = None
    vision: ImageFeatures | None = None
    fingerprints: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, config: GuidanceConfig, device: torch.device, *, bfloat16: bool = False) -> "Guides":
        """Raises in one line where a network cannot be had."""
        clip = vision = None
        fingerprints: dict[str, str] = {}
        if config.clip_model is not None and config.clip_weight:
            clip = load_image_text_model(config.clip_model)
            fingerprints |= hashes_by_role("clip", clip)
            clip.to(device)
        if config.vision_aided_weight:
            vision = ImageFeatures(config.vision_aided_network, config.vision_aided_side)
            fingerprints |= hashes_by_role("vision_aided", vision)
            vision.to(device)
        if bfloat16:
            for network in (clip, vision):
                if network is not None:
                    network.to(torch.bfloat16)
        return cls(clip, vision, fingerprints)


@dataclass(frozen=True)
class ClipCaptions:
    """The captions of all ranks, then this rank's near misses, as the contrastive loss takes them: features
    [N, D]; own [B] int64, the place of this rank's captions among them; duplicates [B, N] bool."""

    features: Tensor
    own: Tensor
    duplicates: Tensor


def gather_captions(
    clip: ImageTextModel,
    captions: Sequence[Sequence[str]],
    ranks: Ranks,
    near_misses: Sequence[Sequence[str]] | None = None,
) -> list[ClipCaptions]:
    """For each of this rank's micro-batches, given its captions and near misses: the captions of the whole
    step, on all ranks, and its own near misses, of which ranks may have different numbers, as wrong ones;
    none of it has a gradient."""
    own_texts = [text for part in captions for text in part]
    near = [list(part) for part in near_misses] if near_misses else [[] for _ in captions]
    texts = [*own_texts, *(text for part in near for text in part)]
    embedded, ids, count = clip.embed_texts(texts), caption_ids(texts), len(own_texts)
    ids = ids.to(embedded.device)
    features, all_ids = ranks.gather_rows(embedded[:count]), ranks.gather_rows(ids[:count])
    near_features, near_ids = (x[count:].split([len(part) for part in near]) for x in (embedded, ids))
    found, start = [], 0
    for part, beside, beside_ids in zip(captions, near_features, near_ids, strict=True):
        rows = torch.arange(start, start + len(part), device=features.device)
        duplicates = duplicate_mask(ids[rows], torch.cat((all_ids, beside_ids)))
        found.append(ClipCaptions(torch.cat((features, beside)), rows + ranks.rank * count, duplicates))
        start += len(part)
    return found


def embed_levels(
    clip: ImageTextModel, pyramid: dict[int, Tensor], levels: tuple[int, ...] | None
) -> dict[int, Tensor]:
    """{side: embeddings [B, D]} of the levels asked for."""
    return {side: clip.embed_images(image) for side, image in pyramid.items() if not levels or side in levels}
