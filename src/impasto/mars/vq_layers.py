"""The convolutional halves of the image tokenizer: the VQ-GAN encoder and decoder (Esser et al. 2021, "Taming
Transformers"), in the form that openMUSE, aMUSEd and LlamaGen kept.

Both walk through levels; each level has residual blocks, attention after each of them where asked for, and a
change of the side by two, except at the coarsest level. Shapes: B batch, C channels, H and W sides of a map.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from impasto.nn.attention import attend
from impasto.nn.modules import module_list

NORM_EPSILON = 1e-6  # all peers


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    """Group norm with epsilon NORM_EPSILON, [B, C, H, W] -> the same."""
    return nn.GroupNorm(groups, channels, eps=NORM_EPSILON)


class ResidualBlock(nn.Module):
    """Twice norm, SiLU, 3x3 convolution; the skip is a 1x1 convolution where the channels change."""

    def __init__(self, in_channels: int, out_channels: int, *, groups: int):
        super().__init__()
        self.norm1 = group_norm(in_channels, groups)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(out_channels, groups)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        """x [B, in, H, W] -> [B, out, H, W]."""
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return (x if self.skip is None else self.skip(x)) + y


class MapAttention(nn.Module):
    """Dot-product attention among the points of a map, with one head as wide as the map has channels."""

    def __init__(self, channels: int, *, groups: int):
        super().__init__()
        self.scale = channels**-0.5
        self.norm = group_norm(channels, groups)
        self.to_query, self.to_key, self.to_value, self.to_out = (
            nn.Conv2d(channels, channels, 1) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C, H, W]."""
        normed = self.norm(x)
        q, k, v = (
            layer(normed).flatten(2).transpose(1, 2)[:, None]  # [B, 1, H * W, C]
            for layer in (self.to_query, self.to_key, self.to_value)
        )
        y = attend(q, k, v, distance="dot", scale=self.scale)
        return x + self.to_out(y[:, 0].transpose(1, 2).unflatten(2, x.shape[2:]))


class Downsample(nn.Module):
    """Half the side: 3x3 convolution of stride 2, padded with zeros to the right and below only (taming)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C, H / 2, W / 2]."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the side: every pixel four times, then a 3x3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C, 2H, 2W]."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """Residual blocks, each followed by attention if the level has it, then the change of the side."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        blocks: int,
        attention: bool,
        resample: nn.Module | None,
        groups: int,
    ):
        super().__init__()
        widths = [in_channels, *[out_channels] * blocks]
        self.blocks = module_list(ResidualBlock(a, out_channels, groups=groups) for a in widths[:-1])
        self.attentions = module_list(
            MapAttention(out_channels, groups=groups) for _ in range(blocks if attention else 0)
        )
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        """x [B, in, H, W] -> [B, out, H', W']."""
        for index, block in enumerate(self.blocks):
            x = block(x)
            if self.attentions:
                x = self.attentions[index](x)
        return x if self.resample is None else self.resample(x)


class Middle(nn.Module):
    """The coarsest map's own part: residual block, attention if asked for, residual block."""

    def __init__(self, channels: int, *, attention: bool, groups: int):
        super().__init__()
        self.first = ResidualBlock(channels, channels, groups=groups)
        self.attention = MapAttention(channels, groups=groups) if attention else None
        self.second = ResidualBlock(channels, channels, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C, H, W]."""
        x = self.first(x)
        if self.attention is not None:
            x = self.attention(x)
        return self.second(x)


class Encoder(nn.Module):
    """Pictures to latent maps. `channels` are those of the levels, finest first; `attention_levels` counts
    from the finest level, 0."""

    def __init__(
        self,
        image_channels: int,
        channels: Sequence[int],
        latent_channels: int,
        *,
        blocks: int,
        attention_levels: Sequence[int],
        middle_attention: bool,
        groups: int,
    ):
        super().__init__()
        last = len(channels) - 1
        self.conv_in = nn.Conv2d(image_channels, channels[0], 3, padding=1)
        self.levels = module_list(
            Level(
                channels[max(index - 1, 0)],
                width,
                blocks=blocks,
                attention=index in attention_levels,
                resample=Downsample(width) if index != last else None,
                groups=groups,
            )
            for index, width in enumerate(channels)
        )
        self.middle = Middle(channels[-1], attention=middle_attention, groups=groups)
        self.norm_out = group_norm(channels[-1], groups)
        self.conv_out = nn.Conv2d(channels[-1], latent_channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """images [B, C, H, W] -> [B, latent, H / f, W / f]."""
        x = self.conv_in(images)
        for level in self.levels:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.middle(x))))


class Decoder(nn.Module):
    """Latent maps to pictures: the encoder backwards, with one more residual block a level. Its levels are in
    the order in which they run, coarsest first; the arguments are the encoder's."""

    def __init__(
        self,
        image_channels: int,
        channels: Sequence[int],
        latent_channels: int,
        *,
        blocks: int,
        attention_levels: Sequence[int],
        middle_attention: bool,
        groups: int,
    ):
        super().__init__()
        last = len(channels) - 1
        self.conv_in = nn.Conv2d(latent_channels, channels[-1], 3, padding=1)
        self.middle = Middle(channels[-1], attention=middle_attention, groups=groups)
        self.levels = module_list(
            Level(
                channels[min(index + 1, last)],
                channels[index],
                blocks=blocks + 1,
                attention=index in attention_levels,
                resample=Upsample(channels[index]) if index != 0 else None,
                groups=groups,
            )
            for index in reversed(range(len(channels)))
        )
        self.norm_out = group_norm(channels[0], groups)
        self.conv_out = nn.Conv2d(channels[0], image_channels, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """latents [B, latent, h, w] -> [B, C, h * f, w * f]."""
        x = self.middle(self.conv_in(latents))
        for level in self.levels:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))
