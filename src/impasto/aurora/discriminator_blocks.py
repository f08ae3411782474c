"""Parts of the discriminator: stages of the trunk, score heads, text branch. All are differentiable twice and
keep samples apart, unless `deviation_group` asks otherwise.

Residual sums are (x + gain * f(x)) / sqrt(1 + gain^2) (ours). In the generator the published code scales the
whole sum by its gain, and the next layer's demodulation restores the variance; here nothing demodulates, and
nine such blocks would shrink the signal ten-thousandfold.
"""

import math
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from impasto.aurora.blocks import dense_on_map
from impasto.nn.attention import attend, merge_heads, split_heads
from impasto.nn.modules import module_list, normal
from impasto.nn.piecewise import leaky_relu, max_pool
from impasto.nn.precision import at_least_float32
from impasto.nn.style import Dense, ModulatedLinear, pixel_norm

Pooling = Literal["mean", "max"]


def residual_sum(x: Tensor, y: Tensor, gain: float) -> Tensor:
    """x + gain * y, of one shape, at the variance of x if both have the same."""
    norm = math.sqrt(1 + gain**2)
    return torch.add(x / norm, y, alpha=gain / norm)


class Convolution(nn.Module):
    """3x3 convolution with an equalised learning rate, zero padding and leaky ReLU. The activation's sqrt(2)
    is applied to weight and bias, which are smaller than the map."""

    def __init__(self, in_channels: int, out_channels: int, *, equalized: bool = True):
        super().__init__()
        scale = 1 / math.sqrt(9 * in_channels)
        self.gain, stored_scale = (scale, 1.0) if equalized else (1.0, scale)
        self.weight = nn.Parameter(normal(out_channels, in_channels, 3, 3, scale=stored_scale))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, in, H, W] -> [B, out, H, W]."""
        weight, bias = self.weight * (self.gain * math.sqrt(2)), self.bias * math.sqrt(2)
        return leaky_relu(F.conv2d(x, weight, bias, padding=1))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a skip; `downsample` halves the side between them.

    The 2x2 mean is the filter that makes the pyramid, leaves no border effect, and keeps constants; the
    maximum (ours) keeps what tells shapes apart, see `DiscriminatorConfig.pooling`. Before the second
    convolution either costs what a convolution of stride 2 would.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        gain: float,
        downsample: bool,
        pooling: Pooling = "mean",
        equalized: bool = True,
    ):
        super().__init__()
        self.gain, self.downsample = gain, downsample
        self.pool = max_pool if pooling == "max" else partial(F.avg_pool2d, kernel_size=2)
        self.first = Convolution(in_channels, in_channels, equalized=equalized)
        self.second = Convolution(in_channels, out_channels, equalized=equalized)
        changes = downsample or in_channels != out_channels
        self.skip = Dense(in_channels, out_channels, bias=False, equalized=equalized) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """x [B, in, H, W] -> [B, out, H, W], or half the side."""
        y = self.first(x)
        if self.downsample:
            x, y = self.pool(x), self.pool(y)
        if self.skip is not None:
            x = dense_on_map(self.skip, x)
        return residual_sum(x, self.second(y), self.gain)


class SelfAttention(nn.Module):
    """Attention among the points of a map by squared L2 distance with one projection for queries and keys
    (GigaGAN), which bounds its Lipschitz constant; layer norm before it, no feed-forward part."""

    def __init__(self, channels: int, *, heads: int, gain: float, equalized: bool = True):
        super().__init__()
        self.heads, self.gain = heads, gain
        self.scale = (channels // heads) ** -0.5
        self.norm = nn.LayerNorm(channels)
        self.to_query_and_key = Dense(channels, channels, bias=False, equalized=equalized)
        self.to_value = Dense(channels, channels, bias=False, equalized=equalized)
        self.to_out = Dense(channels, channels, equalized=equalized)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C, H, W]."""
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        q = split_heads(self.to_query_and_key(tokens), self.heads)
        v = split_heads(self.to_value(tokens), self.heads)
        y = self.to_out(merge_heads(attend(q, q, v, distance="l2_squared", scale=self.scale, fused=False)))
        return residual_sum(x, y.transpose(1, 2).unflatten(2, x.shape[2:]), self.gain)


def append_deviation(x: Tensor, group: int) -> Tensor:
    """One more channel: how much `group` consecutive samples differ (StyleGAN; Karras et al. 2018): the
    standard deviation over the group, averaged over channels and positions. x [N, C, H, W], N a multiple."""
    grouped = x.to(at_least_float32(x)).unflatten(0, (-1, group))
    variance = (grouped - grouped.mean(1, keepdim=True)).square().mean(1)  # quicker than var() on a CPU
    deviation = (variance + 1e-8).sqrt().mean((1, 2, 3)).to(x.dtype)
    channel = deviation.repeat_interleave(group).view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])
    return torch.cat((x, channel), dim=1)


class Collapse(nn.Module):
    """The end of the trunk: a 3x3 convolution, then one dense layer over all positions to a single point.
    With `deviation_group` the convolution also sees how much neighbouring samples differ."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        side: int,
        *,
        deviation_group: int = 0,
        equalized: bool = True,
    ):
        super().__init__()
        self.deviation_group = deviation_group
        seen = in_channels + (1 if deviation_group else 0)
        self.convolution = Convolution(seen, in_channels, equalized=equalized)
        self.dense = Dense(in_channels * side**2, out_channels, equalized=equalized, activation="lrelu")

    def forward(self, x: Tensor) -> Tensor:
        """x [B, in, side, side] -> [B, out, 1, 1]."""
        if self.deviation_group:
            x = append_deviation(x, self.deviation_group)
        return self.dense(self.convolution(x).flatten(1))[:, :, None, None]


class Stage(nn.Module):
    """Everything at one side: from-RGB for images that enter here, residual blocks, attention, and the way
    down, to half the side or (`collapse_side`) to a single point."""

    def __init__(
        self,
        image_channels: int,
        in_channels: int,
        out_channels: int,
        *,
        collapse_side: int | None,
        blocks: int,
        attention_depth: int,
        heads: int,
        residual_gain: float,
        attention_gain: float,
        pooling: Pooling,
        deviation_group: int,
        equalized: bool,
    ):
        super().__init__()
        self.from_rgb = Dense(image_channels, in_channels, equalized=equalized, activation="lrelu")
        same_side = blocks if collapse_side is not None else blocks - 1
        self.blocks = module_list(
            ResidualBlock(in_channels, in_channels, gain=residual_gain, downsample=False, equalized=equalized)
            for _ in range(same_side)
        )
        self.attention = module_list(
            SelfAttention(in_channels, heads=heads, gain=attention_gain, equalized=equalized)
            for _ in range(attention_depth)
        )
        self.down: Collapse | ResidualBlock
        if collapse_side is not None:
            self.down = Collapse(
                in_channels,
                out_channels,
                collapse_side,
                deviation_group=deviation_group,
                equalized=equalized,
            )
        else:
            self.down = ResidualBlock(
                in_channels,
                out_channels,
                gain=residual_gain,
                downsample=True,
                pooling=pooling,
                equalized=equalized,
            )

    def from_image(self, image: Tensor) -> Tensor:
        """image [B, 3, R, R] -> [B, C, R, R]."""
        return dense_on_map(self.from_rgb, image)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, R, R] -> [B, C_out, R / 2, R / 2] or [B, C_out, 1, 1]."""
        for block in self.blocks:
            x = block(x)
        for layer in self.attention:
            x = layer(x)
        return self.down(x)


class Head(nn.Module):
    """Logits of a map: 1x1 modulated layers that know the text, plus one 1x1 layer that does not (GigaGAN
    eq. 7; the projection to one channel after the modulated layers is a guess). All levels of a sample are
    read in one pass, since they share its style."""

    def __init__(self, channels: int, text_width: int, *, layers: int, equalized: bool = True):
        super().__init__()
        self.conditional = module_list(
            ModulatedLinear(channels, channels, text_width, activation="lrelu", equalized=equalized)
            for _ in range(layers)
        )
        self.to_logit = Dense(channels, 1, equalized=equalized)
        self.unconditional = Dense(channels, 1, equalized=equalized)

    def forward(self, tokens: Tensor, text: Tensor) -> Tensor:
        """tokens [B, levels, T, C], text [B, D] -> logits [B, levels, T]."""
        x = flat = tokens.flatten(1, 2)
        for layer in self.conditional:
            x = layer(x, text)
        logits = self.to_logit(x) + self.unconditional(flat)
        return logits.squeeze(2).unflatten(1, tokens.shape[1:3])


class TextLayer(nn.Module):
    """Pre-norm transformer layer of the shape of the generator's, with squared-distance attention among the
    tokens of one sample."""

    def __init__(self, width: int, *, heads: int, learning_rate_multiplier: float, equalized: bool):
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5

        def dense(inputs: int, outputs: int) -> Dense:
            return Dense(
                inputs, outputs, learning_rate_multiplier=learning_rate_multiplier, equalized=equalized
            )

        self.norm_tokens = nn.LayerNorm(width)
        self.to_qkv, self.to_out = dense(width, 3 * width), dense(width, width)
        self.norm_perceptron = nn.LayerNorm(width)
        self.expand, self.contract = dense(width, 4 * width), dense(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [B, T, C], mask [B, T] bool -> [B, T, C]."""
        q, k, v = (split_heads(p, self.heads) for p in self.to_qkv(self.norm_tokens(x)).chunk(3, dim=-1))
        attended = attend(q, k, v, distance="l2_squared", scale=self.scale, key_mask=mask, fused=False)
        x = x + self.to_out(merge_heads(attended))
        return x + self.contract(F.gelu(self.expand(self.norm_perceptron(x))))


class TextBranch(nn.Module):
    """The discriminator's own layers over frozen text features; only the EOT position is kept (GigaGAN).

    The result has unit root-mean-square (ours): the heads' styles then start alike for every text encoder.
    """

    def __init__(
        self,
        input_dim: int,
        width: int,
        *,
        layers: int,
        heads: int,
        learning_rate_multiplier: float,
        equalized: bool,
    ):
        super().__init__()
        self.align = Dense(
            input_dim, width, learning_rate_multiplier=learning_rate_multiplier, equalized=equalized
        )
        self.layers = module_list(
            TextLayer(
                width, heads=heads, learning_rate_multiplier=learning_rate_multiplier, equalized=equalized
            )
            for _ in range(layers)
        )

    def forward(self, tokens: Tensor, eot_index: Tensor, mask: Tensor) -> Tensor:
        """tokens [B, T, C_in], eot_index [B], mask [B, T] bool -> [B, C]. EOT itself always counts."""
        position = eot_index.view(-1, 1)
        mask = mask.scatter(1, position, True)
        x = self.align(tokens.masked_fill(~mask[..., None], 0.0))
        for layer in self.layers:
            x = layer(x, mask)
        return pixel_norm(x.take_along_dim(position[..., None], dim=1)[:, 0])
