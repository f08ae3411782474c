"""What a tokenizer is trained with besides its codes: pixels, features of a frozen network, a discriminator.

All losses are computed in fp32 or better and are means, so that they do not change with picture or batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from impasto.config import ConfigError
from impasto.mars.vq import COMMITMENT_WEIGHT, VQLosses
from impasto.nn.precision import at_least_float32, without_autocast

PixelLoss = Literal["l2", "l1"]  # LlamaGen: L2; taming: L1
UNIT_EPSILON = 1e-10  # LPIPS
WEIGHT_EPSILON, WEIGHT_MAXIMUM = 1e-4, 1e4  # taming's bounds of the adaptive weight


def reconstruction_loss(reconstruction: Tensor, images: Tensor, kind: PixelLoss = "l2") -> Tensor:
    """Mean over all numbers of the squared or absolute difference; both [B, C, H, W] in [-1, 1]."""
    dtype = at_least_float32(reconstruction)
    measure = F.mse_loss if kind == "l2" else F.l1_loss
    return measure(reconstruction.to(dtype), images.to(dtype))


def peak_signal_to_noise(reconstruction: Tensor, images: Tensor) -> Tensor:
    """[B] PSNR of each picture in dB; both [B, C, H, W] in [-1, 1], the reconstruction clipped to it."""
    difference = reconstruction.detach().float().clamp(-1, 1) - images.float()
    error = difference.square().flatten(1).mean(1).clamp_min(1e-10)
    return 10 * torch.log10(4 / error)


class FeatureMaps(Protocol):
    """A frozen network that sees pictures as maps of features."""

    def maps(self, images: Tensor) -> Sequence[Tensor]:
        """images [B, 3, H, W] in [-1, 1] -> maps [B, C_n, h_n, w_n]; gradients pass to the images."""
        ...


class PerceptualDistance:
    """Distance of pictures by the features of a frozen network: at every point of every map the squared
    distance of the feature vectors scaled to unit length, averaged over points and then over maps.

    This is LPIPS (Zhang et al. 2018) before its learned weighting of channels, so that any network will do.
    If the network is an nn.Module it is put into evaluation mode, and its parameters take no gradients.
    """

    def __init__(self, network: FeatureMaps):
        if isinstance(network, nn.Module):
            network.eval().requires_grad_(False)
        self.network = network

    def __call__(self, reconstruction: Tensor, images: Tensor) -> Tensor:
        """Both [B, 3, H, W] in [-1, 1] -> the mean over the batch, zero for equal pictures."""
        dtype = at_least_float32(reconstruction)
        with without_autocast(reconstruction):
            with torch.no_grad():
                wanted = self.network.maps(images.to(dtype))
            found = self.network.maps(reconstruction.to(dtype))
            terms = [(_unit(a) - _unit(b)).square().sum(1).mean() for a, b in zip(found, wanted, strict=True)]
        return torch.stack(terms).mean()


def _unit(x: Tensor) -> Tensor:
    """[B, C, h, w] with vectors over C of length one; a vector of zeros stays, with a gradient of zero."""
    return x * (x.square().sum(1, keepdim=True) + UNIT_EPSILON).rsqrt()


@dataclass(frozen=True, kw_only=True)
class PatchDiscriminatorConfig:
    """Defaults: taming's and LlamaGen's PatchGAN, whose outputs see patches of 70 px."""

    image_channels: int = 3
    channels: int = 64  # of the first layer; doubled by each further one, up to eight times
    layers: int = 3  # convolutions of stride 2; two leave patches of 34 px, for small pictures

    def __post_init__(self) -> None:
        if self.channels < 1 or self.channels % 8 or self.layers < 1:
            raise ConfigError("discriminator: channels should be a multiple of 8 and layers at least 1")


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al. 2017): 4x4 convolutions, a logit for every patch. Group norm in place of batch
    norm (ours): a picture's logits then do not depend on its batch, nor on the number of ranks."""

    def __init__(self, config: PatchDiscriminatorConfig):
        super().__init__()
        width = config.channels
        layers: list[nn.Module] = [nn.Conv2d(config.image_channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for index in range(1, config.layers + 1):
            after = config.channels * min(2**index, 8)
            stride = 2 if index < config.layers else 1
            layers += [
                nn.Conv2d(width, after, 4, stride, 1, bias=False),
                nn.GroupNorm(8, after),
                nn.LeakyReLU(0.2),
            ]
            width = after
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 4, 1, 1))
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0.0, 0.02)  # pix2pix

    def forward(self, images: Tensor) -> Tensor:
        """images [B, C, H, W] in [-1, 1] -> logits [B, 1, h, w]."""
        return self.layers(images)


def hinge_discriminator_losses(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """The two halves of the hinge loss, from logits of any shape; their sum is trained. Scalars, in fp32 at
    least: real, then fake."""
    real, fake = real.to(at_least_float32(real)), fake.to(at_least_float32(fake))
    return 0.5 * F.relu(1 - real).mean(), 0.5 * F.relu(1 + fake).mean()


def adversarial_loss(fake: Tensor) -> Tensor:
    """The tokenizer's: minus the mean logit of its reconstructions. Logits of any shape -> a scalar, in fp32
    at least."""
    return -fake.to(at_least_float32(fake)).mean()


def adaptive_weight(
    fidelity: Tensor,
    adversarial: Tensor,
    last_layer: Tensor,
    across_ranks: Callable[[Tensor], Tensor] = lambda gradient: gradient,
) -> Tensor:
    """What to multiply the adversarial loss by, so that at the decoder's last layer its gradient has the norm
    of that of `fidelity`, pixels and features together (Esser et al. 2021, eq. 7). Without gradient, in
    [0, 1e4]; `across_ranks` averages gradients where each rank has a part of the batch. Both graphs stay."""
    norms = []
    for loss in (fidelity, adversarial):
        (gradient,) = torch.autograd.grad(loss, last_layer, retain_graph=True)
        norms.append(across_ranks(gradient.detach().float()).norm())
    return (norms[0] / (norms[1] + WEIGHT_EPSILON)).clamp(0.0, WEIGHT_MAXIMUM)


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """The terms of the tokenizer's loss and their weights; defaults: LlamaGen's. Zero switches a term off."""

    reconstruction: PixelLoss = "l2"
    reconstruction_weight: float = 1.0
    perceptual_weight: float = 1.0  # needs a frozen network
    codebook_weight: float = 1.0
    commitment_weight: float = COMMITMENT_WEIGHT
    adversarial_weight: float = 0.5
    adversarial_from: int = 2_560_000  # images; LlamaGen: 20,000 steps
    adaptive_weight: bool = True  # taming; LlamaGen's default is off

    def adversarial_at(self, images: int) -> bool:
        """Whether the discriminator takes part in the step that starts after `images` images."""
        return self.adversarial_weight > 0 and images >= self.adversarial_from


def tokenizer_losses(
    reconstruction: Tensor,
    images: Tensor,
    codes: VQLosses,
    config: ObjectiveConfig,
    *,
    perceptual: PerceptualDistance | None = None,
    judge: Callable[[Tensor], Tensor] | None = None,
    last_layer: Tensor | None = None,
    across_ranks: Callable[[Tensor], Tensor] = lambda gradient: gradient,
) -> dict[str, Tensor]:
    """All terms by name, with their weighted sum as `loss/tokenizer`.

    reconstruction and images [B, 3, H, W] in [-1, 1]. `judge` is the discriminator once it is on, and
    `last_layer` the decoder's last weight, which the adaptive weight needs.
    """
    terms = {"loss/reconstruction": reconstruction_loss(reconstruction, images, config.reconstruction)}
    fidelity = config.reconstruction_weight * terms["loss/reconstruction"]
    if perceptual is not None and config.perceptual_weight:
        terms["loss/perceptual"] = perceptual(reconstruction, images)
        fidelity = fidelity + config.perceptual_weight * terms["loss/perceptual"]
    terms |= {"loss/codebook": codes.codebook, "loss/commitment": codes.commitment}
    total = fidelity + config.codebook_weight * codes.total(config.commitment_weight)
    if judge is not None:
        terms["loss/adversarial"] = adversarial_loss(judge(reconstruction))
        weight = fidelity.new_tensor(config.adversarial_weight)
        if config.adaptive_weight and last_layer is not None:
            adversarial = terms["loss/adversarial"]
            weight = weight * adaptive_weight(fidelity, adversarial, last_layer, across_ranks)
        terms["weight/adversarial"] = weight
        total = total + weight * terms["loss/adversarial"]
    return {**terms, "loss/tokenizer": total}


def discriminator_losses(
    discriminator: Callable[[Tensor], Tensor], images: Tensor, reconstruction: Tensor
) -> dict[str, Tensor]:
    """Hinge losses for images and their reconstructions [B, 3, H, W], which get no gradient; their sum is
    `loss/discriminator`."""
    real, fake = discriminator(images), discriminator(reconstruction.detach())
    as_real, as_fake = hinge_discriminator_losses(real, fake)
    return {
        "loss/discriminator": as_real + as_fake,
        "loss/discriminator_real": as_real,
        "loss/discriminator_fake": as_fake,
        "logit/real": real.float().mean(),
        "logit/fake": fake.float().mean(),
    }
