"""One update of each network, on one micro-batch: forward, losses, backward. No optimiser, no loop."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from impasto.aurora.augment import augment
from impasto.aurora.discriminator import Discriminator, Features, Scores
from impasto.aurora.generator import Generator, GeneratorOutput
from impasto.aurora.guidance import ClipCaptions, GuidanceConfig, Guides, embed_levels
from impasto.aurora.losses import (
    StepScores,
    contrastive_loss,
    discriminator_loss,
    gamma_at,
    generator_loss,
    mean_logit,
    mismatch,
    multi_level_clip_loss,
    path_length_penalty,
    r1_penalty,
    r1_weight,
    score_step,
)
from impasto.aurora.training_config import AuroraRun, TrainingConfig
from impasto.aurora.vision_aided import VisionAidedHeads
from impasto.nn.precision import at_least_float32
from impasto.text import TextFeatures

Metrics = dict[str, Tensor]
Pyramid = dict[int, Tensor]


@dataclass(frozen=True)
class MicroBatch:
    """Real pictures [B, 3, R, R] in [-1, 1] with their captions, the captions' features, and noise [B, Z];
    `known` are the captions as the contrastive loss takes them, where the run has one. `near_misses` are
    features of captions wrong by one fact, of the samples at `near_miss_rows` [M] int64. `duplicates`
    [B, B + M] bool: which of the captions, then of the near misses, equal a sample's own caption."""

    images: Tensor
    captions: Sequence[str]
    text: TextFeatures
    z: Tensor
    random: torch.Generator  # on the CPU: whatever else is drawn for this micro-batch
    known: ClipCaptions | None = None
    near_misses: TextFeatures | None = None
    near_miss_rows: Tensor | None = None
    duplicates: Tensor | None = None


@dataclass(frozen=True)
class Critics:
    """What judges pictures in training: the discriminator and, where the run asks for them, frozen networks
    and heads on their features."""

    discriminator: Discriminator
    guides: Guides = field(default_factory=Guides)
    vision_heads: VisionAidedHeads | None = None

    def learn(self, whether: bool) -> None:
        """Whether backward passes reach the critics' own parameters."""
        self.discriminator.requires_grad_(whether)
        if self.vision_heads is not None:
            self.vision_heads.requires_grad_(whether)

    def vision_maps(self, image: Tensor) -> list[Tensor]:
        """What the vision-aided heads read of pictures [B, 3, R, R]."""
        assert self.guides.vision is not None
        return [m.to(at_least_float32(m)) for m in self.guides.vision.maps(image)]

    def vision_scores(self, maps: Sequence[Tensor], text: Tensor) -> Scores:
        """Scores of the vision-aided heads for pictures by their `vision_maps`. text [B, D] ->
        {(0, n): [B, 1, h_n, w_n]}."""
        assert self.vision_heads is not None
        return self.vision_heads(maps, text.to(at_least_float32(text)))


def generate(generator: Generator, batch: MicroBatch, config: TrainingConfig) -> GeneratorOutput:
    """One pass of the generator on the batch's own captions."""
    with autocast(batch.images.device, config.bfloat16_generator):
        return generator(batch.z, batch.text.tokens, batch.text.eot_index, batch.text.mask)


def discriminator_backward(
    critics: Critics,
    batch: MicroBatch,
    fake: Pyramid,
    run: AuroraRun,
    *,
    penalise: bool,
    share: float,
) -> Metrics:
    """Add `share` of the critics' gradients for real and generated pyramids of the same captions, with the
    gradient penalty when it is due. Returns what to log."""
    config, discriminator, source = run.training, critics.discriminator, batch.random
    real = _augmented(discriminator.pyramid_of(batch.images), config, source)
    fake = _augmented({side: image.detach() for side, image in fake.items()}, config, source)
    with autocast(batch.images.device, config.bfloat16_discriminator):
        text = discriminator.embed_text(batch.text.tokens, batch.text.eot_index, batch.text.mask)
        wrong = valid = None
        near = _near_misses(discriminator, batch)
        if config.matching_weight:
            wrong, valid = wrong_captions(batch, text, near, source)
        scores = score_step(discriminator, real, fake, text, wrong)
    judge = partial(
        discriminator_loss,
        valid=valid,
        matching_weight=config.matching_weight,
        inner_head_weight=config.inner_head_weight,
    )
    metrics = judge(scores)
    total = metrics["loss/discriminator"]
    metrics["logit/real"] = mean_logit(scores.real).mean()
    metrics["logit/fake"] = mean_logit(scores.fake).mean()
    if config.contrastive_weight:
        term = _contrast(discriminator, scores.features, text, near, batch)
        total = total + config.contrastive_weight * term
        metrics["loss/contrastive_real"] = term
    if critics.vision_heads is not None:
        seen = _vision_step(critics, real, fake, text, wrong)
        terms = judge(seen, prefix="loss/vision_aided_")
        total = total + run.guidance.vision_aided_weight * terms["loss/vision_aided_discriminator"]
        metrics |= terms
    if penalise:
        penalty = r1_penalty(discriminator, batch.images, text, inner_head_weight=config.inner_head_weight)
        gamma = gamma_at(config.r1_gamma, batch.images.shape[-1])
        total = total + r1_weight(gamma, config.r1_interval) * penalty
        metrics["loss/r1"] = penalty
    (share * total).backward()
    return detached(metrics)


def wrong_captions(
    batch: MicroBatch, text: Tensor, near: Tensor | None, source: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A wrong caption's vector for each sample [B, D], and which of them count [B] bool: the sample's near
    miss where it has one, another sample's caption elsewhere. near [M, D]: vectors of the near misses."""
    index, valid = mismatch(batch.captions, source)
    wrong, valid = text[index.to(text.device)], valid.to(text.device)
    if near is not None and batch.near_miss_rows is not None:
        wrong = wrong.index_copy(0, batch.near_miss_rows, near)
        valid = valid.index_fill(0, batch.near_miss_rows, True)
    return wrong, valid


def _near_misses(discriminator: Discriminator, batch: MicroBatch) -> Tensor | None:
    """Vectors [M, D] of the batch's near misses."""
    near = batch.near_misses
    return None if near is None else discriminator.embed_text(near.tokens, near.eot_index, near.mask)


def _contrast(
    discriminator: Discriminator,
    features: Features | None,
    text: Tensor,
    near: Tensor | None,
    batch: MicroBatch,
) -> Tensor:
    """The contrastive loss of the first pictures that `features` are of, as many as there are captions."""
    assert features is not None and batch.duplicates is not None
    images = discriminator.embed_image(features[: len(batch.captions)])
    texts = text if near is None else torch.cat((text, near.to(text.dtype)))
    return contrastive_loss(images, texts, batch.duplicates)


def generator_backward(
    critics: Critics,
    batch: MicroBatch,
    output: GeneratorOutput,
    run: AuroraRun,
    *,
    path_mean: Tensor | None,
    share: float,
) -> Metrics:
    """Add `share` of the generator's gradients, through critics that themselves get none.

    path_mean: the running mean of path lengths when that penalty is due; None otherwise. The batch's own mean
    is 'path_length/mean' of what is returned.
    """
    config, guidance, discriminator = run.training, run.guidance, critics.discriminator
    critics.learn(False)
    fake = _augmented(output.pyramid, config, batch.random)
    with autocast(batch.images.device, config.bfloat16_discriminator):
        text = discriminator.embed_text(batch.text.tokens, batch.text.eot_index, batch.text.mask)
        features = discriminator.features(fake)
        scores = discriminator.score(features, text)
    metrics = generator_loss(scores, inner_head_weight=config.inner_head_weight)
    metrics["loss/mixture_of_experts"] = output.moe_loss
    total = metrics["loss/generator"] + output.moe_loss
    if config.contrastive_weight:
        near = _near_misses(discriminator, batch)
        term = _contrast(discriminator, features, text, near, batch)
        total = total + config.contrastive_weight * term
        metrics["loss/contrastive_fake"] = term
    if critics.vision_heads is not None:
        seen = critics.vision_scores(critics.vision_maps(fake[max(fake)]), text)
        terms = generator_loss(seen, inner_head_weight=config.inner_head_weight, prefix="loss/vision_aided_")
        total = total + guidance.vision_aided_weight * terms["loss/vision_aided_generator"]
        metrics |= terms
    terms = clip_terms(critics.guides, batch, output.pyramid, guidance)
    if terms:
        total = total + guidance.clip_weight * terms["loss/clip"]
        metrics |= terms
    if path_mean is not None:
        penalty, mean = path_length_penalty(output.image, output.wp, path_mean, generator=batch.random)
        metrics["path_length/mean"] = mean
        total = total + config.path_length_weight * config.path_length_interval * penalty
        metrics["loss/path_length"] = penalty
    (share * total).backward()
    critics.learn(True)
    return detached(metrics)


def clip_terms(guides: Guides, batch: MicroBatch, pyramid: Pyramid, guidance: GuidanceConfig) -> Metrics:
    """The contrastive loss of pictures of the batch's captions; empty where the run has none, or where a run
    that grows has not reached the levels asked for."""
    if guides.clip is None or batch.known is None:
        return {}
    images, known = embed_levels(guides.clip, pyramid, guidance.clip_levels), batch.known
    if not images:
        return {}
    return multi_level_clip_loss(images, known.features, guides.clip.scale, known.own, known.duplicates)


def _vision_step(
    critics: Critics, real: Pyramid, fake: Pyramid, text: Tensor, wrong: Tensor | None
) -> StepScores:
    """The four kinds of scores of the vision-aided heads, on the largest level. The network reads a picture
    once, whatever the captions."""
    top = max(real)
    batch = text.shape[0]
    with torch.no_grad():
        maps = critics.vision_maps(torch.cat((real[top], fake[top])))

    def scores(captions: Tensor) -> tuple[Scores, Scores]:
        both = critics.vision_scores(maps, captions.repeat(2, 1))
        return {p: s[:batch] for p, s in both.items()}, {p: s[batch:] for p, s in both.items()}

    if wrong is None:
        return StepScores(*scores(text))
    return StepScores(*scores(text), *scores(wrong))


def expert_load(output: GeneratorOutput) -> dict[str, Tensor]:
    """Share of the batch's tokens that each expert of each MoE layer got: 'experts/LAYER/EXPERT'. Scalars."""
    loads = {}
    for number, layer in enumerate(output.routing):
        for expert, share in enumerate(layer.load.mean(0)):
            loads[f"experts/layer_{number:02d}/{expert:02d}"] = share
    return detached(loads)


def detached(metrics: Metrics) -> Metrics:
    """The same values without history."""
    return {name: value.detach() for name, value in metrics.items()}


def autocast(device: torch.device, bfloat16: bool) -> AbstractContextManager:
    """bf16 autocast, or nothing."""
    return torch.autocast(device.type, torch.bfloat16) if bfloat16 else nullcontext()


def _augmented(pyramid: Pyramid, config: TrainingConfig, source: torch.Generator) -> Pyramid:
    return pyramid if config.augmentation is None else augment(pyramid, config.augmentation, source)
