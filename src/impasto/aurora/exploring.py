"""How smooth, how bound to text and how varied a generator is: path lengths, directions of w, what noise and
text each decide, and whether experts know objects."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from impasto.aurora.latents import Latents, draw, latents_of, spherical, text_between, with_w
from impasto.aurora.pipeline import AuroraPipeline
from impasto.aurora.routing_maps import layers_of_experts, mutual_information
from impasto.metrics.intervals import Estimate, bootstrap

EPSILON = 1e-2  # of a path; StyleGAN: 1e-4, below the router's flips and fp32's rounding of small pictures
WAYS = ("z", "w", "text")

Distance = Callable[[Tensor, Tensor], Tensor]  # pictures [N, 3, R, R] twice -> [N]


def feature_distance(maps: Callable[[Tensor], list[Tensor]]) -> Distance:
    """After LPIPS, without its learned weights (ours): squared differences of maps that have unit length at
    every point, averaged over points and summed over maps. maps: pictures [N, 3, R, R] -> several
    [N, C, h, w]; the distance is [N]."""

    def distance(first: Tensor, second: Tensor) -> Tensor:
        parts = [
            (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1).mean((1, 2))
            for a, b in zip(maps(first), maps(second), strict=True)
        ]
        return torch.stack(parts).sum(0)

    return distance


@torch.no_grad()
def path_lengths(
    pipe: AuroraPipeline,
    prompts: Sequence[str],
    distance: Distance,
    *,
    seed: int = 0,
    epsilon: float = EPSILON,
) -> dict[str, Estimate]:
    """Perceptual path length (StyleGAN, section 4.1) on three ways through the latent space: distance of two
    pictures `epsilon` apart over its square, at a random place of each way, with 95 % intervals.

    "z": the arc between two noises, one prompt. "w": straight between two w of one prompt. "text": from one
    prompt to another, one noise. Lengths of different ways compare as far as their ends are equally apart.
    """
    count = len(prompts)
    one = latents_of(pipe, prompts, [seed + n for n in range(count)])
    other = latents_of(pipe, [*prompts[1:], prompts[0]], [seed + n for n in range(count)])
    again = latents_of(pipe, prompts, [seed + count + n for n in range(count)])
    places = torch.rand(count, generator=torch.Generator().manual_seed(seed)).tolist()
    found: dict[str, Estimate] = {}
    for way in WAYS:
        lengths = []
        for n, place in enumerate(places):
            place = place * (1 - epsilon)
            ends = one[n : n + 1], (other if way == "text" else again)[n : n + 1]
            near, far = (_at(pipe, way, *ends, share) for share in (place, place + epsilon))
            lengths.append(float(distance(draw(pipe, near).images, draw(pipe, far).images)) / epsilon**2)
        found[way] = bootstrap(lengths)
    return found


def _at(pipe: AuroraPipeline, way: str, first: Latents, second: Latents, share: float) -> Latents:
    if way == "z":
        return with_w(pipe, replace(first, z=spherical(first.z, second.z, share)))
    if way == "w":
        return replace(first, wp=torch.lerp(first.wp, second.wp, share))
    return with_w(pipe, text_between(first, second, share))


@torch.no_grad()
def principal_directions(
    pipe: AuroraPipeline, prompts: Sequence[str], count: int, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """The `count` directions [count, D] along which w of these prompts' pictures spreads most (GANSpace), as
    long as one standard deviation, and each one's share of the whole variance [count]. ValueError unless
    there are more prompts than directions."""
    if not 1 <= count < len(prompts):
        raise ValueError(f"{count} directions need more than {count} prompts, not {len(prompts)}")
    w = latents_of(pipe, prompts, [seed + n for n in range(len(prompts))]).wp[:, 0].double()
    _, singular, directions = torch.linalg.svd(w - w.mean(0), full_matrices=False)
    variance = singular.square() / (len(prompts) - 1)
    lengths = variance[:count].sqrt()[:, None]
    return (directions[:count] * lengths).to(pipe.device, torch.float32), variance[:count] / variance.sum()


@torch.no_grad()
def share_of_noise(pipe: AuroraPipeline, prompts: Sequence[str], draws: int = 8, seed: int = 0) -> float:
    """How much of the variance of pixels among pictures is due to noise, prompts given; the rest is due to
    the prompt. 0: noise changes nothing, 1: the prompt changes nothing. ValueError for fewer than two prompts
    or draws."""
    if draws < 2 or len(prompts) < 2:
        raise ValueError("the share of noise needs two prompts and two draws of each, at least")
    own = [seed + draws * n for n in range(len(prompts))]  # the same few noises for all would be no sample
    pictures = pipe.generate(list(prompts), draws, seed=own).images.float()
    by_prompt = pictures.unflatten(0, (len(prompts), draws)).flatten(2).double()
    within = by_prompt.var(1).mean()
    between = (by_prompt.mean(1).var(0).mean() - within / draws).clamp_min(
        0
    )  # without what noise adds to means
    return float(within / (within + between))


@dataclass(frozen=True)
class Knowledge:
    """What a layer's experts tell of an object map: bits at every point, and those of maps of other pictures
    (what the estimate gives for nothing but the objects' usual place)."""

    layer: str
    side: int
    bits: float
    shuffled: float


@torch.no_grad()
def expert_knowledge(
    pipe: AuroraPipeline, prompts: Sequence[str], segment: Callable[[np.ndarray], np.ndarray], seed: int = 0
) -> list[Knowledge]:
    """Mutual information between expert index and what `segment` sees in the generated picture (uint8
    [R, R, 3] -> whole numbers [R, R]), of every layer, of whose points the map's centres are taken."""
    drawn = draw(pipe, latents_of(pipe, prompts, [seed + n for n in range(len(prompts))]))
    objects = np.stack([segment(np.asarray(picture)) for picture in drawn.pictures()])
    found = []
    for layer, routing in zip(layers_of_experts(pipe), drawn.routing, strict=True):
        centres = ((np.arange(layer.side) + 0.5) * objects.shape[1] / layer.side).astype(int)
        small = objects[:, centres][:, :, centres]
        experts = routing.expert_index.numpy()
        found.append(
            Knowledge(
                layer.name,
                layer.side,
                mutual_information(experts, small),
                mutual_information(experts, np.roll(small, len(small) // 2, axis=0)),
            )
        )
    return found
