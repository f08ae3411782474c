"""The Aurora generator: text features and noise to a pyramid of images (paper section 3)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from impasto.aurora.blocks import Level
from impasto.aurora.config import GeneratorConfig
from impasto.aurora.text_head import Mapping, TextHead
from impasto.nn.modules import module_list, run_part
from impasto.nn.moe import Routing, balance_loss
from impasto.nn.precision import at_least_float32
from impasto.nn.resample import upsample_fir


@dataclass(frozen=True)
class GeneratorOutput:
    """What one pass gives.

    image [B, 3, R, R] in about [-1, 1], not clamped; pyramid {r: [B, 3, r, r]}, the running sums; w [B, D]
    ([B, slots * D] with a w per slot); wp [B, slots, D], after truncation; global_text [B, C], local_text
    [B, T - 1, C] and its mask; routing, one entry per MoE layer in network order, as maps [B, r, r];
    moe_loss, the weighted sum of balance and z losses.
    """

    image: Tensor
    pyramid: dict[int, Tensor]
    routing: list[Routing]
    moe_loss: Tensor
    w: Tensor
    wp: Tensor
    global_text: Tensor
    local_text: Tensor
    local_mask: Tensor


class Generator(nn.Module):
    """Text head, mapping network, synthesis network, and the running mean of w."""

    w_avg: Tensor

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        self.config = config
        self.text_head = TextHead(config)
        self.mapping = Mapping(config)
        self.levels = module_list(Level(config, resolution) for resolution in config.resolutions)
        slots = config.style_slots if config.mapping.style_per_layer else 1
        self.register_buffer("w_avg", torch.zeros(slots * config.w_dim))
        self.recompute = False  # activations of units, on the way back, instead of keeping them
        # Averages the load over ranks when moe.balance_scope is "global"; a trainer sets it.
        self.reduce_load: Callable[[Tensor], Tensor] | None = None

    def forward(
        self,
        z: Tensor,
        text_tokens: Tensor,
        eot_index: Tensor,
        text_mask: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_layers: int = 0,
    ) -> GeneratorOutput:
        """z [B, z_dim]; text_tokens [B, T, C] float; eot_index [B] int64; text_mask [B, T] bool, True for
        tokens that count (ignored unless the configuration masks padding).

        Truncation pulls the first `truncation_layers` slots of w towards their mean: w_avg + psi (w - w_avg).
        Raises ValueError for shapes that do not fit the configuration.
        """
        self._check_inputs(z, text_tokens, eot_index, text_mask)
        global_text, local_text, mask = self.encode_text(text_tokens, eot_index, text_mask)
        untruncated = self.mapping(z, global_text)
        wp = self.truncate(untruncated, truncation_psi, truncation_layers)
        image, pyramid, routing, moe_loss = self.synthesize(wp, local_text, mask)
        per_layer = self.config.mapping.style_per_layer
        # As published: with one w per slot `w` shows the truncated ones, otherwise the untruncated w.
        w = wp.flatten(1) if per_layer else untruncated[:, 0]
        return GeneratorOutput(image, pyramid, routing, moe_loss, w, wp, global_text, local_text, mask)

    def encode_text(
        self, text_tokens: Tensor, eot_index: Tensor, text_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Global vector [B, C], local tokens [B, T - 1, C] and their mask [B, T - 1]."""
        if text_mask is None or not self.config.attention.mask_padding:
            text_mask = torch.ones(text_tokens.shape[:2], dtype=torch.bool, device=text_tokens.device)
        return self.text_head(text_tokens, eot_index, text_mask)

    def truncate(self, wp: Tensor, psi: float, layers: int) -> Tensor:
        """Pull the first `layers` slots of wp [B, slots, D] towards w_avg; psi = 1 or layers = 0 is none.
        Raises ValueError for psi above 1."""
        if psi > 1:
            raise ValueError(f"truncation_psi={psi} should be at most 1")
        if psi == 1 or layers <= 0:
            return wp
        mean = self.w_avg.view(1, -1, self.config.w_dim)
        head = wp[:, :layers]
        mean = mean[:, :layers] if mean.shape[1] > 1 else mean
        return torch.cat((mean + psi * (head - mean), wp[:, layers:]), dim=1)

    def synthesize(
        self, wp: Tensor, local_text: Tensor, local_mask: Tensor | None = None
    ) -> tuple[Tensor, dict[int, Tensor], list[Routing], Tensor]:
        """wp [B, slots, D], local_text [B, S, C] -> image, pyramid, routing, moe_loss.

        Stops after the largest trained resolution.
        """
        if not self.config.attention.mask_padding:
            local_mask = None
        elif local_mask is not None:
            # A sample whose tokens are all padding attends to zeros instead of to nothing.
            local_text = local_text * local_mask[..., None]
            local_mask = local_mask | ~local_mask.any(1, keepdim=True)
        active = self.config.active_resolutions
        x: Tensor | None = None
        image: Tensor | None = None
        pyramid: dict[int, Tensor] = {}
        routing: list[Routing] = []
        slot = 0
        for level in self.levels:
            for unit in level.units:
                own = wp[:, slot : slot + unit.slots]
                x, unit_routing = run_part(unit, x, own, local_text, local_mask, recompute=self.recompute)
                slot += unit.slots
                routing += unit_routing
            assert x is not None
            if level.resolution in active:
                rgb = level.to_rgb.on_map(x, wp[:, slot - 1])
                if self.config.final_tanh:
                    rgb = rgb.tanh()
                if self.config.pyramid:
                    rgb = rgb.to(at_least_float32(rgb))
                    rgb = rgb if image is None else rgb + upsample_fir(image)
                image = pyramid[level.resolution] = rgb
            if level.resolution == active[-1]:
                break
        assert image is not None
        return image, pyramid, routing, self._moe_loss(routing, wp)

    def _moe_loss(self, routing: list[Routing], like: Tensor) -> Tensor:
        moe = self.config.moe
        total = like.new_zeros((), dtype=at_least_float32(like))
        for layer in routing:
            balance = balance_loss(layer, moe.balance_scope, self.reduce_load)
            total = total + moe.balance_weight * balance + moe.z_weight * layer.z
        return total

    @torch.no_grad()
    def update_w_avg(self, w: Tensor, decay: float) -> None:
        """w_avg <- decay * w_avg + (1 - decay) * mean of w [B, ...] over the batch."""
        self.w_avg.copy_(w.detach().mean(0).to(self.w_avg.dtype).lerp(self.w_avg, decay))

    def _check_inputs(self, z: Tensor, tokens: Tensor, eot: Tensor, mask: Tensor | None) -> None:
        config = self.config
        if z.ndim != 2 or z.shape[1] != config.z_dim:
            raise ValueError(f"z has shape {tuple(z.shape)}; expected [B, {config.z_dim}]")
        width = config.text_head.input_dim
        if tokens.ndim != 3 or tokens.shape[0] != z.shape[0] or tokens.shape[2] != width:
            raise ValueError(
                f"text_tokens has shape {tuple(tokens.shape)}; expected [{z.shape[0]}, T, {width}]"
            )
        if eot.shape != z.shape[:1]:
            raise ValueError(f"eot_index has shape {tuple(eot.shape)}; expected [{z.shape[0]}]")
        if mask is not None and mask.shape != tokens.shape[:2]:
            raise ValueError(f"text_mask has shape {tuple(mask.shape)}; expected {tuple(tokens.shape[:2])}")
