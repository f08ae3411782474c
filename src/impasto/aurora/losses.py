"""Training losses of Aurora as pure functions. Those with several terms return them by the names they are
logged under ("loss/discriminator_real"); nothing here steps an optimiser or loads a network.

The MoE losses are the generator's own (`GeneratorOutput.moe_loss`). Scores are the discriminator's:
{(input side, output side): logits [B, 1, side, side]}. Losses are summed over pairs, never the logits.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from impasto.aurora.discriminator import Discriminator, Features, Pair, Scores
from impasto.nn.precision import at_least_float32, without_autocast

LAZY_INTERVAL = 16  # discriminator steps from one R1 penalty to the next (GigaGAN)
PATH_LENGTH_DECAY = 0.01  # StyleGAN2
CONTRASTIVE_SCALE = 20.0  # ours; LAFITE: 2 (recollection)
Pyramid = dict[int, Tensor]


# Weights of levels and predictions


def level_weights(sides: Iterable[int]) -> dict[int, float]:
    """Weight of each input level, sum one; the largest counts twice (five levels: 1/3 and 1/6; the ratio
    2:1:1:1:1 stands in an independent implementation of GigaGAN and in our recollection of its Table A2)."""
    levels = sorted(set(sides))
    share = 1 / (len(levels) + 1)
    return {side: share * (2 if side == levels[-1] else 1) for side in levels}


def pair_weights(pairs: Iterable[Pair], inner_head_weight: float = 1.0) -> dict[Pair, float]:
    """Weight of each prediction, sum one. A level's weight is divided among its outputs, evenly (guess) or
    with `inner_head_weight` for every output but the last, relative to the last."""
    pairs = list(pairs)
    levels = level_weights(side for side, _ in pairs)
    weights = {}
    for side, level in levels.items():
        outputs = [output for entry, output in pairs if entry == side]
        shares = {output: 1.0 if output == min(outputs) else inner_head_weight for output in outputs}
        for output, share in shares.items():
            weights[side, output] = level * share / sum(shares.values())
    return weights


def weighted_mean(
    scores: Scores, function: Callable[[Tensor], Tensor], inner_head_weight: float = 1.0
) -> Tensor:
    """[B]: `function` of every logit, averaged over the positions of a map, then over pairs by weight."""
    weights = pair_weights(scores, inner_head_weight)
    parts = [weights[pair] * function(logits).flatten(1).mean(1) for pair, logits in scores.items()]
    return torch.stack(parts).sum(0)


def mean_logit(scores: Scores, inner_head_weight: float = 1.0) -> Tensor:
    """[B] weighted mean of the logits: what R1 differentiates, and worth logging."""
    return weighted_mean(scores, lambda logits: logits, inner_head_weight)


# Adversarial and matching-aware losses


@dataclass(frozen=True)
class StepScores:
    """The four kinds of scores of a discriminator step; the mismatched are None without matching. `features`
    are those of the real pictures, then of the generated ones."""

    real: Scores
    fake: Scores
    mismatched_real: Scores | None = None
    mismatched_fake: Scores | None = None
    features: Features | None = None


def caption_ids(captions: Sequence[str]) -> Tensor:
    """[N] int64, equal where captions are equal up to case and white space; the same in every process, so
    that ranks can exchange them."""
    plain = (" ".join(caption.split()).casefold().encode() for caption in captions)
    digests = [hashlib.blake2b(text, digest_size=8).digest() for text in plain]
    return torch.tensor([int.from_bytes(d, "big", signed=True) for d in digests], dtype=torch.int64)


def mismatch(captions: Sequence[str], generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """A wrong caption for every sample: (index [B], valid [B] bool). The batch is rolled by a random non-zero
    shift (ours); samples that would get a caption equal to their own are not valid, a batch of one never."""
    count = len(captions)
    shift = 0 if count < 2 else int(torch.randint(1, count, (), generator=generator))
    index = (torch.arange(count) + shift) % count
    ids = caption_ids(captions)
    return index, ids != ids[index]


def score_step(
    discriminator: Discriminator, real: Pyramid, fake: Pyramid, text: Tensor, wrong: Tensor | None
) -> StepScores:
    """Scores of real and generated pyramids with their own captions, and with wrong ones.

    text, wrong [B, D]; text belongs to both: real[n] and fake[n] are pictures of caption n. One pass through
    the trunk, which is exact since nothing crosses the two halves; wrong captions cost the heads alone.
    ValueError where the levels of the two differ, or the batch does not divide into deviation groups.
    """
    if real.keys() != fake.keys():
        raise ValueError(f"levels differ: real {sorted(real)}, generated {sorted(fake)}")
    batch, group = text.shape[0], discriminator.config.deviation_group
    if group and batch % group:
        raise ValueError(
            f"{batch} pictures do not divide into groups of deviation_group={group}, and real pictures "
            "must not share one with generated ones; change training.batch or training.micro_batch"
        )
    both = discriminator.features({side: torch.cat((real[side], fake[side])) for side in real})

    def split(captions: Tensor) -> tuple[Scores, Scores]:
        scores = discriminator.score(both, captions.repeat(2, 1))
        return {p: s[:batch] for p, s in scores.items()}, {p: s[batch:] for p, s in scores.items()}

    other = (None, None) if wrong is None else split(wrong)
    return StepScores(*split(text), mismatched_real=other[0], mismatched_fake=other[1], features=both)


def discriminator_loss(
    scores: StepScores,
    valid: Tensor | None = None,
    *,
    matching_weight: float = 1.0,
    inner_head_weight: float = 1.0,
    prefix: str = "loss/",
) -> dict[str, Tensor]:
    """Logistic loss and, where there are mismatched scores, the matching-aware terms (GigaGAN eq. 8): a real
    picture with a wrong caption and a generated one with a wrong caption both count as fake.

    valid [B] bool excludes samples whose wrong caption equals their own. `discriminator` is the total.
    """

    def as_real(logits: Tensor) -> Tensor:
        return F.softplus(-logits)

    terms = {
        "discriminator_real": weighted_mean(scores.real, as_real, inner_head_weight).mean(),
        "discriminator_fake": weighted_mean(scores.fake, F.softplus, inner_head_weight).mean(),
    }
    total = terms["discriminator_real"] + terms["discriminator_fake"]
    mismatched = {"matching_real": scores.mismatched_real, "matching_fake": scores.mismatched_fake}
    for name, wrong in mismatched.items():
        if wrong is not None:
            terms[name] = _mean_over(weighted_mean(wrong, F.softplus, inner_head_weight), valid)
            total = total + matching_weight * terms[name]
    terms["discriminator"] = total
    return {prefix + name: value for name, value in terms.items()}


def generator_loss(
    fake_scores: Scores, *, inner_head_weight: float = 1.0, prefix: str = "loss/"
) -> dict[str, Tensor]:
    """Non-saturating logistic loss. The matching term is the discriminator's alone: whether GigaGAN's
    generator had one is unclear, and it would reward pictures that fit a wrong caption. Scalars by name."""
    loss = weighted_mean(fake_scores, lambda logits: F.softplus(-logits), inner_head_weight).mean()
    return {prefix + "generator": loss}


def _mean_over(values: Tensor, valid: Tensor | None) -> Tensor:
    """Mean of values [B] over valid samples; zero, still in the graph, where there is none."""
    if valid is None:
        return values.mean()
    chosen = valid.to(values)
    return (values * chosen).sum() / chosen.sum().clamp_min(1)


# Gradient penalties


def r1_penalty(
    discriminator: Discriminator,
    image: Tensor,
    text: Tensor,
    *,
    inner_head_weight: float = 1.0,
    transform: Callable[[Pyramid], Pyramid] | None = None,
) -> Tensor:
    """R1: mean over the batch of || gradient of the weighted mean logit with respect to the picture ||^2.

    image [B, 3, R, R], real, at full resolution; text [B, D], the vectors of their own captions, not
    penalised. The levels come from the image by 2x2 means inside the graph (ours): then the squared
    gradient at level r reaches the image times (r / R)^2, so that one gamma gives every level the scaling
    by resolution that StyleGAN recommends. `transform` is an augmentation of the pyramid.

    Multiply by `r1_weight`. Never in autocast. Parameters without a part in that gradient, such as the last
    biases, get none from it: None where nothing else is added.
    """
    with torch.enable_grad(), without_autocast(image):
        dtype = next(discriminator.parameters()).dtype
        image, text = image.detach().to(dtype).requires_grad_(), text.to(dtype)
        pyramid = discriminator.pyramid_of(image)
        if transform is not None:
            pyramid = transform(pyramid)
        logit = mean_logit(discriminator.score(discriminator.features(pyramid), text), inner_head_weight)
        (gradient,) = torch.autograd.grad(logit.sum(), image, create_graph=True)
        return gradient.square().flatten(1).sum(1).mean()


def r1_weight(gamma: float, interval: int = LAZY_INTERVAL) -> float:
    """Factor of a penalty that is applied every `interval` steps only: (gamma / 2) * interval."""
    return gamma / 2 * interval


def gamma_at(gamma_64: float, resolution: int) -> float:
    """gamma for training at another resolution: it grows with the number of pixels (StyleGAN). GigaGAN at
    64 px: 0.2048 to 2.048."""
    return gamma_64 * (resolution / 64) ** 2


def path_length_penalty(
    images: Tensor,
    wp: Tensor,
    running_mean: Tensor,
    *,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Path length regularisation (StyleGAN2; off in GigaGAN): a step in w should change the picture by the
    same amount everywhere. Returns the penalty and the mean of the lengths, without gradient, for the running
    mean: that of before the step (ours; StyleGAN2 takes in the batch first), so that parts of a batch add up.

    images [B, C, H, W] computed from wp [B, slots, D]; running_mean a scalar that starts at zero.
    """
    noise = torch.randn(images.shape, generator=generator, dtype=images.dtype).to(images.device)
    noise = noise / math.sqrt(images.shape[2] * images.shape[3])
    (gradient,) = torch.autograd.grad((images * noise).sum(), wp, create_graph=True)
    lengths = (gradient.square().sum(-1).mean(1) + 1e-12).sqrt()  # the root needs a derivative at zero
    return (lengths - running_mean).square().mean(), lengths.detach().mean()


# Contrastive losses


def contrastive_loss(images: Tensor, texts: Tensor, duplicates: Tensor) -> Tensor:
    """Mean cross-entropy of telling a picture's own caption from the others of the batch and from near misses
    (after LAFITE, Zhou et al. 2022, there among the captions of the batch alone).

    images [B, D] and texts [N, D], not normalised; the first B texts are the pictures' own; duplicates [B, N]
    bool, captions that equal a picture's own and must not count as wrong ones.
    """
    own = torch.arange(images.shape[0], device=images.device)
    return multi_level_clip_loss({0: images}, texts, CONTRASTIVE_SCALE, own, duplicates)["loss/clip"]


def duplicate_mask(own_ids: Tensor, all_ids: Tensor) -> Tensor:
    """[B, N] bool: which of all captions equal a sample's own, itself included (ids from `caption_ids`)."""
    return own_ids[:, None] == all_ids[None]


def multi_level_clip_loss(
    image_features: Mapping[int, Tensor],
    text_features: Tensor,
    scale: float | Tensor,
    own: Tensor,
    duplicates: Tensor | None = None,
    weights: Mapping[int, float] | None = None,
) -> dict[str, Tensor]:
    """Contrastive loss from image to text at every level (Aurora; GigaGAN eq. 9).

    image_features {side: [B, D]}, text_features [N, D] of all ranks, neither normalised; scale is CLIP's own
    logit scale (about 100); own [B] int64, the caption of each image among the N; duplicates [B, N] bool,
    captions that equal a sample's own and must not count as wrong ones. Levels are averaged, evenly or by
    `weights`. Returns loss/clip_{side} of each level and their mean loss/clip.
    """
    dtype = at_least_float32(text_features)
    texts = F.normalize(text_features.to(dtype), dim=-1)
    left_out = None
    if duplicates is not None:
        left_out = duplicates.scatter(1, own[:, None], False)
    terms = {}
    for side, features in sorted(image_features.items()):
        logits = scale * (F.normalize(features.to(dtype), dim=-1) @ texts.t())
        if left_out is not None:
            logits = logits.masked_fill(left_out, float("-inf"))
        terms[side] = F.cross_entropy(logits, own)
    share = {side: 1.0 if weights is None else weights[side] for side in terms}
    mean = torch.stack([share[side] * term for side, term in terms.items()]).sum() / sum(share.values())
    return {**{f"loss/clip_{side}": term for side, term in terms.items()}, "loss/clip": mean}
