"""Latents of real pictures: an encoder finds one for a picture, and the generator draws the picture again
from it and the caption (the conditional variational branch of BicycleGAN, Zhu et al. 2017; not in Aurora's
recipe).

A caption leaves open where a shape stands and how large it is. Without a latent that says so, a squared error
teaches the mean of all such pictures, which is a blur; with one it teaches colours, sizes and places, keeps a
scorer's loss from pleasing the scorer alone, and noises come to mean something.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from impasto.aurora.discriminator import box_pyramid
from impasto.aurora.discriminator_blocks import Convolution
from impasto.aurora.generator import Generator
from impasto.aurora.guidance import Guides
from impasto.aurora.steps import Metrics, MicroBatch, autocast, clip_terms, detached, generate
from impasto.aurora.training_config import AuroraRun
from impasto.nn.modules import module_list
from impasto.nn.precision import at_least_float32
from impasto.nn.style import Dense

_LAST_SIDE = 4  # pixels
_LOG_VARIANCE = (-8.0, 4.0)  # bounds


class LatentEncoder(nn.Module):
    """Pictures -> a normal distribution of latents each. Sizes are ours."""

    def __init__(self, resolution: int, z_dim: int, *, base: int = 32, most: int = 256):
        super().__init__()
        stages = (resolution // _LAST_SIDE).bit_length() - 1
        channels = [3, *(min(base << stage, most) for stage in range(stages))]
        self.convolutions = module_list(map(Convolution, channels[:-1], channels[1:]))
        self.hidden = Dense(channels[-1] * _LAST_SIDE**2, 256, activation="lrelu")
        # Small: latents begin near the prior.
        self.latent = Dense(256, 2 * z_dim, weight_init=0.1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images [B, 3, R, R] -> means and log variances, each [B, z_dim]."""
        x = images
        for convolution in self.convolutions:
            x = F.avg_pool2d(convolution(x), 2)
        latent = self.latent(self.hidden(x.flatten(1)))
        mean, log_variance = latent.to(at_least_float32(latent)).chunk(2, dim=1)
        return mean, log_variance.clamp(*_LOG_VARIANCE)


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the latents from standard normal noise, in nats: [B]."""
    return (mean.square() + log_variance.exp() - 1 - log_variance).sum(1) / 2


def reconstruction_backward(
    encoder: LatentEncoder,
    generator: Generator,
    batch: MicroBatch,
    run: AuroraRun,
    *,
    share: float,
    guides: Guides | None = None,
) -> tuple[Metrics, Tensor]:
    """Add `share` of the gradients of encoder and generator for drawing the batch's pictures again: mean
    squared error, summed over the levels of the pyramid, and the divergence of the latents; with `guides`
    that hold a CLIP its loss, weighted as always. Returns what to log, and w [B, D]."""
    config = run.training
    noise = torch.randn(batch.z.shape, generator=batch.random).to(batch.z.device)
    with autocast(batch.images.device, config.bfloat16_generator):
        mean, log_variance = encoder(batch.images)
    z = mean + noise * (log_variance / 2).exp()
    output = generate(generator, replace(batch, z=z), config)
    real = box_pyramid(batch.images, min(output.pyramid))
    errors = {
        side: F.mse_loss(drawn.to(at_least_float32(drawn)), real[side])
        for side, drawn in output.pyramid.items()
    }
    error = torch.stack(list(errors.values())).sum()
    nats = divergence(mean, log_variance).mean()
    total = config.reconstruction_weight * (error + config.reconstruction_divergence * nats)
    total = total + output.moe_loss
    terms = clip_terms(guides or Guides(), batch, output.pyramid, run.guidance)
    if terms:
        total = total + run.guidance.clip_weight * terms["loss/clip"]
    (share * total).backward()
    metrics = {
        "loss/reconstruction": error,
        "loss/latent_divergence": nats,
        "loss/mixture_of_experts": output.moe_loss,
        "error/reconstruction": errors[max(errors)],
    }
    return detached(metrics | terms), output.w.detach()
