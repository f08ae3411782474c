"""One update of each network, on one micro-batch: forward, losses, backward. No optimiser, no loop."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from impasto.aurora.augment import augment
from impasto.aurora.discriminator import Discriminator
from impasto.aurora.generator import Generator, GeneratorOutput
from impasto.aurora.losses import (
    discriminator_loss,
    gamma_at,
    generator_loss,
    mean_logit,
    mismatch,
    path_length_penalty,
    r1_penalty,
    r1_weight,
    score_step,
)
from impasto.aurora.training_config import TrainingConfig
from impasto.text import TextFeatures

Metrics = dict[str, Tensor]
Pyramid = dict[int, Tensor]


@dataclass(frozen=True)
class MicroBatch:
    """Real pictures [B, 3, R, R] in [-1, 1] with their captions, the captions' features, and noise [B, Z]."""

    images: Tensor
    captions: Sequence[str]
    text: TextFeatures
    z: Tensor


def generate(generator: Generator, batch: MicroBatch, config: TrainingConfig) -> GeneratorOutput:
    """One pass of the generator on the batch's own captions."""
    with autocast(batch.images.device, config.bfloat16_generator):
        return generator(batch.z, batch.text.tokens, batch.text.eot_index, batch.text.mask)


def discriminator_backward(
    discriminator: Discriminator,
    batch: MicroBatch,
    fake: Pyramid,
    config: TrainingConfig,
    *,
    penalise: bool,
    share: float,
    source: torch.Generator,
) -> Metrics:
    """Add `share` of the discriminator's gradients for real and generated pyramids of the same captions, with
    the gradient penalty when it is due. Returns what to log."""
    real = _augmented(discriminator.pyramid_of(batch.images), config, source)
    fake = _augmented({side: image.detach() for side, image in fake.items()}, config, source)
    index, valid = mismatch(batch.captions, source)
    wrong = index if config.matching_weight else None
    with autocast(batch.images.device, config.bfloat16_discriminator):
        text = discriminator.embed_text(batch.text.tokens, batch.text.eot_index, batch.text.mask)
        scores = score_step(discriminator, real, fake, text, wrong)
    metrics = discriminator_loss(
        scores,
        valid.to(text.device),
        matching_weight=config.matching_weight,
        inner_head_weight=config.inner_head_weight,
    )
    total = metrics["loss/discriminator"]
    metrics["logit/real"] = mean_logit(scores.real).mean()
    metrics["logit/fake"] = mean_logit(scores.fake).mean()
    if penalise:
        penalty = r1_penalty(discriminator, batch.images, text, inner_head_weight=config.inner_head_weight)
        gamma = gamma_at(config.r1_gamma, batch.images.shape[-1])
        total = total + r1_weight(gamma, config.r1_interval) * penalty
        metrics["loss/r1"] = penalty
    (share * total).backward()
    return detached(metrics)


def generator_backward(
    discriminator: Discriminator,
    batch: MicroBatch,
    output: GeneratorOutput,
    config: TrainingConfig,
    *,
    path_mean: Tensor | None,
    share: float,
    source: torch.Generator,
) -> Metrics:
    """Add `share` of the generator's gradients, through a discriminator that itself gets none.

    path_mean: the running mean of path lengths when that penalty is due, updated in place; None otherwise.
    """
    discriminator.requires_grad_(False)
    fake = _augmented(output.pyramid, config, source)
    with autocast(batch.images.device, config.bfloat16_discriminator):
        text = discriminator.embed_text(batch.text.tokens, batch.text.eot_index, batch.text.mask)
        scores = discriminator.score(discriminator.features(fake), text)
    metrics = generator_loss(scores, inner_head_weight=config.inner_head_weight)
    metrics["loss/mixture_of_experts"] = output.moe_loss
    total = metrics["loss/generator"] + output.moe_loss
    if path_mean is not None:
        penalty, mean = path_length_penalty(output.image, output.wp, path_mean, generator=source)
        path_mean.copy_(mean)
        total = total + config.path_length_weight * config.path_length_interval * penalty
        metrics["loss/path_length"] = penalty
    (share * total).backward()
    discriminator.requires_grad_(True)
    return detached(metrics)


def expert_load(output: GeneratorOutput) -> dict[str, Tensor]:
    """Share of the batch's tokens that each expert of each MoE layer got: 'experts/LAYER/EXPERT'."""
    loads = {}
    for number, layer in enumerate(output.routing):
        for expert, share in enumerate(layer.load.mean(0)):
            loads[f"experts/layer_{number:02d}/{expert:02d}"] = share
    return detached(loads)


def detached(metrics: Metrics) -> Metrics:
    return {name: value.detach() for name, value in metrics.items()}


def autocast(device: torch.device, bfloat16: bool) -> AbstractContextManager:
    """bf16 autocast, or nothing."""
    return torch.autocast(device.type, torch.bfloat16) if bfloat16 else nullcontext()


def _augmented(pyramid: Pyramid, config: TrainingConfig, source: torch.Generator) -> Pyramid:
    return pyramid if config.augmentation is None else augment(pyramid, config.augmentation, source)
