"""The unit generative block of Aurora (paper section 3.2): a convolution block, then an attention block whose
feed-forward layers are mixtures of experts."""

from typing import Any

import torch
from torch import Tensor, nn

from impasto.aurora.config import GeneratorConfig, at_level
from impasto.aurora.text_head import logit_scale
from impasto.nn.attention import attend, merge_heads, split_heads
from impasto.nn.fourier import ConstantInput, FourierInput
from impasto.nn.modules import module_list
from impasto.nn.moe import FeedForward, Routing, SparseFeedForward
from impasto.nn.resample import upsample_fir
from impasto.nn.style import Dense, ModulatedConvolution, ModulatedLinear

EVERYWHERE = "everywhere"


def modulated_convolution(
    config: GeneratorConfig, resolution: int, in_channels: int, *, deform: bool, upsample: bool = False
) -> ModulatedConvolution:
    """A 3x3 modulated convolution into one level, with that level's kernels."""
    convolution = config.convolution
    return ModulatedConvolution(
        in_channels,
        config.channels(resolution),
        config.w_dim,
        kernels=at_level(convolution.kernels, resolution),
        demodulate=convolution.demodulate,
        upsample=upsample,
        deform=deform,
        clamp=convolution.clamp,
        equalized=config.equalized,
    )


def projection_kernels(config: GeneratorConfig, resolution: int) -> int:
    """Kernels of the modulated 1x1 layers inside the attention block."""
    everywhere = config.convolution.kernel_selection == EVERYWHERE
    return at_level(config.convolution.kernels, resolution) if everywhere else 1


class InputBlock(nn.Module):
    """The first block: Fourier features or a constant, then one modulated convolution; no residual."""

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        resolution = config.initial_resolution
        channels = config.channels(resolution // 2)
        self.input: FourierInput | ConstantInput
        if config.convolution.input == "fourier":
            self.input = FourierInput(channels, resolution, config.w_dim)
        else:
            self.input = ConstantInput(channels, resolution)
        deform = config.convolution.deform != "none"
        self.convolution = modulated_convolution(config, resolution, channels, deform=deform)

    def forward(self, x: Tensor | None, w: Tensor) -> Tensor:
        """x is None; w [B, D] -> [B, C, r, r]."""
        return self.convolution(self.input(w), w)


class ResidualBlock(nn.Module):
    """(conv2(conv1(x)) + skip(x)) * gain; the first block of a level also doubles the side."""

    def __init__(self, config: GeneratorConfig, resolution: int, in_channels: int, *, upsample: bool):
        super().__init__()
        channels, convolution = config.channels(resolution), config.convolution
        small = resolution <= convolution.deform_max_resolution or resolution == config.initial_resolution
        deform_first, deform_second = convolution.deform == "both", convolution.deform != "none"
        self.first = modulated_convolution(
            config, resolution, in_channels, deform=small and deform_first, upsample=upsample
        )
        self.second = modulated_convolution(config, resolution, channels, deform=small and deform_second)
        self.upsample, self.gain = upsample, convolution.residual_gain
        self.skip = None
        if upsample or in_channels != channels:
            self.skip = Dense(in_channels, channels, bias=False, equalized=config.equalized)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x [B, C_in, h, h], w [B, D] -> [B, C, r, r]."""
        y = self.second(self.first(x, w), w)
        if self.skip is not None:
            x = dense_on_map(self.skip, x)
            x = upsample_fir(x) if self.upsample else x
        return (y + x) * self.gain


class SelfAttention(nn.Module):
    """Attention among the feature points of an image; w modulates the output projection (published).

    For distances q and k come from one layer, head by head (or are one and the same, `tie_query_key`) and v
    from another; for the dot product all three from one layer, head by head. This is the published layout.
    """

    def __init__(self, config: GeneratorConfig, resolution: int, width: int, head_dim: int):
        super().__init__()
        attention = config.attention
        self.heads, self.distance = attention.heads, attention.distance
        self.scale = logit_scale(attention, head_dim)
        self.tied = attention.tie_query_key and attention.distance != "dot"
        copies = 1 if self.tied else 2
        if attention.distance == "dot":
            self.to_qkv = Dense(width, 3 * width, bias=False, equalized=config.equalized)
        else:
            self.to_qk = Dense(width, copies * width, bias=False, equalized=config.equalized)
            self.to_v = Dense(width, width, bias=False, equalized=config.equalized)
        self.to_out: ModulatedLinear | Dense
        if attention.modulate == "self_attention":
            self.to_out = ModulatedLinear(
                width,
                width,
                config.w_dim,
                kernels=projection_kernels(config, resolution),
                demodulate=config.convolution.demodulate,
                equalized=config.equalized,
            )
        else:
            self.to_out = Dense(width, width, equalized=config.equalized)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x [B, T, C], w [B, D] -> [B, T, C]."""
        if self.distance == "dot":
            q, k, v = split_heads(self.to_qkv(x), self.heads).chunk(3, dim=-1)
        else:
            qk = split_heads(self.to_qk(x), self.heads)
            q, k = (qk, qk) if self.tied else qk.chunk(2, dim=-1)
            v = split_heads(self.to_v(x), self.heads)
        out = merge_heads(attend(q, k, v, distance=self.distance, scale=self.scale))
        return self.to_out(out, w) if isinstance(self.to_out, ModulatedLinear) else self.to_out(out)


class CrossAttention(nn.Module):
    """Attention of feature points to text tokens."""

    def __init__(self, config: GeneratorConfig, width: int, head_dim: int):
        super().__init__()
        self.heads, self.distance = config.attention.heads, config.attention.distance
        self.scale = logit_scale(config.attention, head_dim)
        self.to_q = Dense(width, width, bias=False, equalized=config.equalized)
        self.to_kv = Dense(config.context_dim, 2 * width, bias=False, equalized=config.equalized)
        self.to_out = Dense(width, width, equalized=config.equalized)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        """x [B, T, C], context [B, S, C_text], mask [B, S] bool or None -> [B, T, C]."""
        q = split_heads(self.to_q(x), self.heads)
        k, v = (split_heads(part, self.heads) for part in self.to_kv(context).chunk(2, dim=-1))
        attended = attend(q, k, v, distance=self.distance, scale=self.scale, key_mask=mask)
        return self.to_out(merge_heads(attended))


class AttentionLayer(nn.Module):
    """Self-attention, cross-attention, feed-forward, each added to its input (paper eqs. 5 to 7 and 9)."""

    def __init__(self, config: GeneratorConfig, resolution: int, width: int, head_dim: int):
        super().__init__()
        attention, moe = config.attention, config.moe
        self.norm_self = nn.LayerNorm(width) if attention.pre_norm else nn.Identity()
        self.self_attention = SelfAttention(config, resolution, width, head_dim)
        self.cross_attention: CrossAttention | None = None
        self.style_token: Dense | None = None
        self.reads_text = attention.text_tokens != "none"
        if self.reads_text or attention.style_token:
            self.norm_cross = nn.LayerNorm(width) if attention.pre_norm else nn.Identity()
            self.cross_attention = CrossAttention(config, width, head_dim)
        if attention.style_token:
            self.style_token = Dense(
                config.w_dim, config.context_dim, bias_init=1.0, equalized=config.equalized
            )
        self.feed_forward: SparseFeedForward | FeedForward | None = None
        if attention.feed_forward:
            self.norm_feed_forward = nn.LayerNorm(width) if attention.pre_norm else nn.Identity()
            experts, hidden = at_level(moe.experts, resolution), width * moe.hidden_ratio
            if experts == 1:
                self.feed_forward = FeedForward(width, hidden, kind=moe.kind, equalized=config.equalized)
            else:
                self.feed_forward = SparseFeedForward(
                    width,
                    hidden,
                    experts,
                    config.w_dim,
                    kind=moe.kind,
                    router_input=moe.router_input,
                    router_kernels=projection_kernels(config, resolution),
                    scale_by_probability=moe.expert_scale == "probability",
                    capacity=moe.capacity,
                    equalized=config.equalized,
                )

    def forward(
        self, x: Tensor, w: Tensor, context: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Routing | None]:
        """x [B, T, C], w [B, D], context [B, S, C_text], mask [B, S] -> (x, Routing of a sparse layer)."""
        x = x + self.self_attention(self.norm_self(x), w)
        if self.cross_attention is not None:
            if self.style_token is not None:
                context, mask = self._append(self.style_token(w)[:, None], context, mask)
            x = x + self.cross_attention(self.norm_cross(x), context, mask)
        if isinstance(self.feed_forward, SparseFeedForward):
            y, routing = self.feed_forward(self.norm_feed_forward(x), w)
            return x + y, routing
        if self.feed_forward is not None:
            x = x + self.feed_forward(self.norm_feed_forward(x))
        return x, None

    def _append(self, token: Tensor, context: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The text tokens, if they are read at all, followed by one more that always counts."""
        if not self.reads_text:
            return token, None
        if mask is not None:
            mask = torch.cat((mask, mask.new_ones(mask.shape[0], 1)), dim=1)
        return torch.cat((context, token), dim=1), mask


class AttentionBlock(nn.Module):
    """Project a feature map to tokens, `depth` attention layers, project back.

    Published: group norm and plain projections, (x + y) * gain. Paper: modulated projections (eqs. 4, 8).
    """

    def __init__(self, config: GeneratorConfig, resolution: int):
        super().__init__()
        attention, channels = config.attention, config.channels(resolution)
        head_dim = attention.head_dim or channels // attention.heads
        width = attention.heads * head_dim
        self.gain, self.skip, self.clamp = attention.gain, attention.skip, config.convolution.clamp
        self.modulated = attention.modulate == "projections"
        self.project_in: ModulatedLinear | Dense
        self.project_out: ModulatedLinear | Dense
        if self.modulated:
            kernels = projection_kernels(config, resolution)
            options: dict[str, Any] = {"kernels": kernels, "equalized": config.equalized}
            self.project_in = ModulatedLinear(channels, width, config.w_dim, **options)
            self.project_out = ModulatedLinear(width, channels, config.w_dim, **options)
        else:
            self.norm = nn.GroupNorm(32, channels)
            self.project_in = Dense(channels, width, bias=False, equalized=config.equalized)
            self.project_out = Dense(width, channels, bias=False, equalized=config.equalized)
        if attention.zero_output:
            for parameter in self.project_out.parameters():  # a plain projection: one weight
                nn.init.zeros_(parameter)
        depth = at_level(attention.depth, resolution)
        self.layers = module_list(AttentionLayer(config, resolution, width, head_dim) for _ in range(depth))

    def forward(
        self, x: Tensor, w: Tensor, context: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, list[Routing]]:
        """x [B, C, r, r], w [B, D], context [B, S, C_text], mask [B, S] -> (map, routing of its layers)."""
        height, width = x.shape[2:]
        tokens = (x if self.modulated else self.norm(x)).flatten(2).transpose(1, 2)
        tokens = self._project(self.project_in, tokens, w)
        routings = []
        for layer in self.layers:
            tokens, routing = layer(tokens, w, context, mask)
            if routing is not None:
                routings.append(routing.on_grid(height, width))
        y = self._project(self.project_out, tokens, w).transpose(1, 2).unflatten(2, (height, width))
        return ((x + y) * self.gain if self.skip else y), routings

    def _project(self, projection: ModulatedLinear | Dense, tokens: Tensor, w: Tensor) -> Tensor:
        if isinstance(projection, ModulatedLinear):
            return projection(tokens, w)
        y = projection(tokens)
        return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)


class Unit(nn.Module):
    """One convolution block and, where the level has attention, one attention block."""

    def __init__(self, config: GeneratorConfig, resolution: int, convolution: InputBlock | ResidualBlock):
        super().__init__()
        self.convolution = convolution
        attends = at_level(config.attention.depth, resolution) > 0
        self.attention = AttentionBlock(config, resolution) if attends else None

    @property
    def slots(self) -> int:
        """How many w slots the unit uses."""
        return 1 if self.attention is None else 2

    def forward(
        self, x: Tensor | None, w: Tensor, context: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, list[Routing]]:
        """x [B, C, h, h] or None, w [B, slots, D] -> (map, routings)."""
        x = self.convolution(x, w[:, 0])
        if self.attention is None:
            return x, []
        return self.attention(x, w[:, 1], context, mask)


class Level(nn.Module):
    """All units of one resolution, and the layer that turns the last feature map into RGB."""

    def __init__(self, config: GeneratorConfig, resolution: int):
        super().__init__()
        self.resolution = resolution
        first = resolution == config.initial_resolution
        units = []
        for index in range(at_level(config.convolution.blocks, resolution)):
            block: InputBlock | ResidualBlock
            if first and index == 0:
                block = InputBlock(config)
            else:
                upsample = not first and index == 0
                in_channels = config.channels(resolution // 2 if upsample else resolution)
                block = ResidualBlock(config, resolution, in_channels, upsample=upsample)
            units.append(Unit(config, resolution, block))
        self.units = module_list(units)
        self.to_rgb = ModulatedLinear(
            config.channels(resolution),
            config.image_channels,
            config.w_dim,
            kernels=at_level(config.convolution.kernels, resolution),
            demodulate=False,
            clamp=config.convolution.clamp,
            equalized=config.equalized,
        )

    @property
    def slots(self) -> int:
        return sum(unit.slots for unit in self.units)


def dense_on_map(dense: Dense, x: Tensor) -> Tensor:
    """A dense layer as a 1x1 convolution: [B, in, H, W] -> [B, out, H, W]."""
    return dense(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])
