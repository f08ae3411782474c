"""Differentiable augmentation of what the discriminator sees (Zhao et al. 2020, "DiffAugment").

The rule of the method is that real and generated pictures pass through the same random function. A generated
pyramid has an image of its own at every level, so the function is defined on pyramids: one draw per sample,
applied level by level in units of the side. Real pictures are therefore made into a pyramid first and
augmented after, exactly like generated ones. (Translating the full image and down-sampling it would blur by
fractions of a small pixel, which generated levels cannot imitate.) Levels are judged independently, so that
they need not agree with each other to the pixel.

Colour changes commute with the 2x2 mean. Translations are rounded to whole pixels of each level and so fade
out by themselves: with 0.125 of the side, 4x4 images do not move. Captions are left alone; strong colour
changes blur what a caption says of colours, and each part can be switched off.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class AugmentationPolicy:
    """Strengths, with images in [-1, 1]; zero switches a part off. All defaults are DiffAugment's."""

    brightness: float = 0.5  # adds U(-b, b)
    saturation: float = 1.0  # scales the distance from grey by U(1 - s, 1 + s)
    contrast: float = 0.5  # scales the distance from the image's mean by U(1 - c, 1 + c)
    translation: float = 0.125  # moves by U(-t, t) of the side along each axis; zeros come in
    cutout: float = 0.5  # side of a square of zeros at a random place, as a share of the side


def augment(
    pyramid: dict[int, Tensor], policy: AugmentationPolicy, generator: torch.Generator | None = None
) -> dict[int, Tensor]:
    """{side: [B, 3, side, side]} -> the same, every sample changed in its own way at all its levels.

    Twice differentiable. With equal generators two calls draw equal changes.
    """
    batch = next(iter(pyramid.values())).shape[0]
    draws = torch.rand(batch, 7, generator=generator) * 2 - 1  # drawn whether used or not
    return {side: _augment_level(image, policy, draws.to(image)) for side, image in pyramid.items()}


def _augment_level(x: Tensor, policy: AugmentationPolicy, draws: Tensor) -> Tensor:
    """x [B, C, side, side]; draws [B, 7] in [-1, 1): three for colour, two for each other part."""
    brightness, saturation, contrast = draws[:, :3, None, None, None].unbind(1)
    side = x.shape[-1]
    if policy.brightness:
        x = x + policy.brightness * brightness
    if policy.saturation:
        grey = x.mean(1, keepdim=True)
        x = grey + (x - grey) * (1 + policy.saturation * saturation)
    if policy.contrast:
        mean = x.mean((1, 2, 3), keepdim=True)
        x = mean + (x - mean) * (1 + policy.contrast * contrast)
    position = torch.arange(side, device=x.device)
    if policy.translation:
        shift = (draws[:, 3:5] * policy.translation * side).round()
        # Row i of the result is row i - shift of the image: one matrix of zeros and ones per axis.
        rows, columns = (
            (position[:, None] - shift[:, axis, None, None] == position).to(x) for axis in (0, 1)
        )
        x = rows[:, None] @ x @ columns[:, None].transpose(-2, -1)
    length = round(policy.cutout * side)
    if length:
        start = ((draws[:, 5:] + 1) / 2 * side).floor() - length // 2
        inside = (position >= start[..., None]) & (position < start[..., None] + length)  # [B, 2, side]
        x = x.masked_fill((inside[:, 0, :, None] & inside[:, 1, None, :])[:, None], 0.0)
    return x
