"""What a picture is drawn from, taken apart: noise, text and w, to be walked between, mixed and searched."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from impasto.aurora.pipeline import AuroraPipeline, Generation, join_routing

TextPart = Literal["both", "tokens", "global"]


@dataclass(frozen=True)
class Latents:
    """Of N pictures: z [N, Z], global_text [N, C], local_text [N, S, C] with its mask [N, S] bool, and
    wp [N, slots, D]; prompts and seeds to name them by."""

    z: Tensor
    global_text: Tensor
    local_text: Tensor
    mask: Tensor
    wp: Tensor
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.z)

    def __getitem__(self, index: slice | list[int]) -> "Latents":
        chosen = range(len(self))[index] if isinstance(index, slice) else index
        rows = list(chosen)
        return Latents(
            self.z[rows],
            self.global_text[rows],
            self.local_text[rows],
            self.mask[rows],
            self.wp[rows],
            tuple(self.prompts[row] for row in rows),
            tuple(self.seeds[row] for row in rows),
        )


@torch.no_grad()
def latents_of(
    pipe: AuroraPipeline, prompts: Sequence[str], seeds: Sequence[int], truncation: float | None = None
) -> Latents:
    """One picture for each prompt and seed, as `generate` would draw them."""
    z = pipe.noise(seeds)
    global_text, local_text, mask = pipe.encode(list(prompts))
    plain = Latents(z, global_text, local_text, mask, z[:, None], tuple(prompts), tuple(seeds))
    return with_w(pipe, plain, truncation)


@torch.no_grad()
def with_w(pipe: AuroraPipeline, latents: Latents, truncation: float | None = None) -> Latents:
    """The same with the w of its noise and text."""
    generator = pipe.generator
    wp = generator.mapping(latents.z, latents.global_text)
    psi = 1.0 if truncation is None else truncation
    return replace(latents, wp=generator.truncate(wp, psi, pipe.config.generator.style_slots))


@torch.no_grad()
def draw(pipe: AuroraPipeline, latents: Latents, batch_size: int = 8) -> Generation:
    """Pictures of latents as they are; z and the global text matter only through wp."""
    outputs = []
    for start in range(0, len(latents), batch_size):
        part = latents[start : start + batch_size]
        outputs.append(pipe.generator.synthesize(part.wp, part.local_text, part.mask))
    return Generation(
        images=torch.cat([image for image, _, _, _ in outputs]),
        pyramid={r: torch.cat([pyramid[r] for _, pyramid, _, _ in outputs]) for r in outputs[0][1]},
        routing=join_routing([routing for _, _, routing, _ in outputs]),
        prompts=list(latents.prompts),
        seeds=list(latents.seeds),
    )


def spherical(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Between two vectors [..., D] on the arc between their directions, lengths in proportion: noise half way
    is as long as noise, where the straight line's middle would be shorter."""
    lengths = torch.lerp(first.norm(dim=-1), second.norm(dim=-1), share)
    one, two = F.normalize(first, dim=-1), F.normalize(second, dim=-1)
    angle = (one * two).sum(-1, keepdim=True).clamp(-1, 1).acos()
    sine = angle.sin()
    arc = torch.where(
        sine.abs() < 1e-6,
        torch.lerp(one, two, share),
        (((1 - share) * angle).sin() * one + (share * angle).sin() * two) / sine.clamp_min(1e-6),
    )
    return arc * lengths[..., None]


def text_between(first: Latents, second: Latents, share: float, part: TextPart = "both") -> Latents:
    """The first's noise with text between the two, of equally many pictures; w still the first's.

    EOT is taken out of the local tokens, so that the n-th word of one prompt meets the n-th of the other
    whatever their lengths (the released script lets them slip by one). A position that one prompt alone has
    holds its token on the whole way between, and leaves at the other end.
    """
    length = max(first.mask.shape[1], second.mask.shape[1])
    first, second = padded(first, length), padded(second, length)
    mask, tokens, whole = first.mask, first.local_text, first.global_text
    if part != "global" and share > 0:
        one, two = first.mask[..., None], second.mask[..., None]
        mixed = torch.lerp(first.local_text, second.local_text, share)
        tokens = torch.where(one & two, mixed, torch.where(one, first.local_text, second.local_text))
        mask = first.mask | second.mask
        if share == 1:
            tokens, mask = second.local_text, second.mask
    if part != "tokens":
        whole = torch.lerp(first.global_text, second.global_text, share)
    return replace(first, global_text=whole, local_text=tokens, mask=mask)


def shares_of(steps: int) -> list[float]:
    """From 0 to 1, both included. ValueError below two steps."""
    if steps < 2:
        raise ValueError(f"--steps {steps} should be at least 2: both ends are steps")
    return [step / (steps - 1) for step in range(steps)]


def padded(latents: Latents, length: int) -> Latents:
    """The same with local text of so many positions, the new ones masked."""
    more = length - latents.mask.shape[1]
    return replace(
        latents,
        local_text=F.pad(latents.local_text, (0, 0, 0, more)),
        mask=F.pad(latents.mask, (0, more), value=False),
    )


def walk_text(
    pipe: AuroraPipeline,
    first: Latents,
    second: Latents,
    steps: int,
    part: TextPart = "both",
    truncation: float | None = None,
) -> list[Generation]:
    """Pictures at every step from one prompt to the other; noise stays the first's."""
    ways = (text_between(first, second, share, part) for share in shares_of(steps))
    return [draw(pipe, with_w(pipe, at, truncation)) for at in ways]


def walk_z(
    pipe: AuroraPipeline, first: Latents, second: Latents, steps: int, truncation: float | None = None
) -> list[Generation]:
    """Noise goes along the arc to the second's; text stays the first's."""
    ways = (replace(first, z=spherical(first.z, second.z, share)) for share in shares_of(steps))
    return [draw(pipe, with_w(pipe, at, truncation)) for at in ways]


def walk_w(pipe: AuroraPipeline, first: Latents, second: Latents, steps: int) -> list[Generation]:
    """w goes straight to the second's; the tokens that attention reads stay the first's."""
    ways = (replace(first, wp=torch.lerp(first.wp, second.wp, share)) for share in shares_of(steps))
    return [draw(pipe, at) for at in ways]


def slots_by_side(pipe: AuroraPipeline) -> dict[int, slice]:
    """{side: the slots of wp that its level reads}."""
    found, start = {}, 0
    for level in pipe.generator.levels:
        found[level.resolution] = slice(start, start + level.slots)
        start += level.slots
    return found


def mixed(pipe: AuroraPipeline, structure: Latents, style: Latents, from_side: int) -> Latents:
    """The first's w below a side, the second's from it on (style mixing by resolution); tokens stay the
    first's."""
    wp = structure.wp.clone()
    for side, slots in slots_by_side(pipe).items():
        if side >= from_side:
            wp[:, slots] = style.wp[:, slots]
    return replace(structure, wp=wp)
