"""Where in the latent space a picture lies: the w that draws it again, searched by gradients (after
StyleGAN2's projector; the losses are ours)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from impasto.aurora.discriminator import box_pyramid
from impasto.aurora.latents import Latents, latents_of
from impasto.aurora.pipeline import AuroraPipeline

Space = Literal["w", "w+"]
DRAWS = 64  # of w, whose mean is where the search begins


@dataclass(frozen=True, kw_only=True)
class InversionConfig:
    """Numbers are ours, but for the shape of the rate (StyleGAN2's projector)."""

    space: Space = "w+"  # one w for all slots, or one for each
    steps: int = 300
    learning_rate: float = 0.05  # of w in units of its own spread
    warm_up: float = 0.05  # share of the steps in which the rate rises
    cool_down: float = 0.3  # and falls
    feature_weight: float = 1.0  # of the distance between a frozen network's features, where one is given
    prior_weight: float = 0.002  # of the squared distance from the mean w, in units of its spread

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"--steps {self.steps} should be at least 1")
        if self.space not in ("w", "w+"):
            raise ValueError(f"--space {self.space} should be w or w+")


@dataclass(frozen=True)
class Inversion:
    """What was found: latents of one picture; the mean squared error of its pixels in [-1, 1], at the start
    and at the end; pictures [n, 3, R, R] on the way."""

    latents: Latents
    error: float
    first_error: float
    pictures: Tensor


def project(
    pipe: AuroraPipeline,
    target: Tensor,
    prompt: str,
    config: InversionConfig | None = None,
    *,
    features: Callable[[Tensor], list[Tensor]] | None = None,
    frames: int = 24,
    progress: Callable[[int, int, float], None] = lambda step, steps, error: None,
) -> Inversion:
    """Search the w that draws target [1, 3, R, R] in [-1, 1] with the tokens of a prompt.

    Errors of all levels of the pyramid count alike, since coarse ones lead the way. `features` gives maps of
    a frozen network, whose distance counts too.
    """
    config = config or InversionConfig()
    generator = pipe.generator
    draws = latents_of(pipe, [prompt] * DRAWS, range(DRAWS))
    mean, spread = draws.wp.mean(0, keepdim=True), draws.wp.std().clamp_min(1e-6)
    one = draws[:1]
    slots = mean.shape[1] if config.space == "w+" else 1
    offset = torch.zeros(1, slots, mean.shape[2], device=pipe.device, requires_grad=True)
    optimizer = torch.optim.Adam([offset], lr=config.learning_rate, betas=(0.9, 0.999))
    levels = box_pyramid(target.to(pipe.device), min(generator.config.active_resolutions))
    wanted = levels if generator.config.pyramid else {max(levels): levels[max(levels)]}
    known = None if features is None else [part.detach() for part in features(target.to(pipe.device))]
    kept, errors = [], []
    best: tuple[float, Tensor] | None = None
    for step in range(config.steps):
        optimizer.param_groups[0]["lr"] = config.learning_rate * _rate(step / config.steps, config)
        wp = (mean + spread * offset).expand_as(mean).to(mean.dtype)
        image, pyramid, _, _ = generator.synthesize(wp, one.local_text, one.mask)
        terms = [F.mse_loss(pyramid[side].float(), wanted[side]) for side in wanted if side in pyramid]
        total = torch.stack(terms).mean() + config.prior_weight * offset.square().mean()
        if features is not None and known is not None:
            apart = [
                F.mse_loss(a, b) / b.square().mean()
                for a, b in zip(features(image.float()), known, strict=True)
            ]
            total = total + config.feature_weight * torch.stack(apart).mean()
        (offset.grad,) = torch.autograd.grad(total, offset)  # the generator's parameters get none
        optimizer.step()
        error = float(F.mse_loss(image.detach().float(), wanted[max(wanted)]))
        if best is None or error < best[0]:
            best = (error, wp.detach().clone())
        errors.append(error)
        if step % max(config.steps // frames, 1) == 0 or step == config.steps - 1:
            kept.append(image.detach().float())
        progress(step + 1, config.steps, error)
    assert best is not None
    return Inversion(replace(one, wp=best[1]), best[0], errors[0], torch.cat(kept))


def _rate(done: float, config: InversionConfig) -> float:
    rising = min(1.0, (done + 1e-3) / config.warm_up) if config.warm_up else 1.0
    falling = min(1.0, (1 - done) / config.cool_down) if config.cool_down else 1.0
    return rising * falling
