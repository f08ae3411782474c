"""Learned layers over frozen text features, and the mapping network: text and noise to w."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from impasto.aurora.config import AttentionConfig, GeneratorConfig
from impasto.nn.attention import attend, merge_heads, split_heads
from impasto.nn.modules import module_list
from impasto.nn.style import Dense, pixel_norm


class TextBlock(nn.Module):
    """Pre-norm transformer block; x = (x + part(norm(x))) * gain for attention, then for the perceptron.

    With `attention="values_only"` the queries and keys are parameters without effect: the published code
    attends across the batch with uniform weights, which for a single sample is out(v(x)).
    """

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        head, width = config.text_head, config.context_dim
        self.heads, self.gain, self.mode = config.attention.heads, head.gain, head.attention
        self.distance = config.attention.distance
        self.scale = logit_scale(config.attention, width // config.attention.heads)
        options: dict[str, Any] = {
            "learning_rate_multiplier": head.learning_rate_multiplier,
            "equalized": config.equalized,
        }
        self.norm_attention = nn.LayerNorm(width)
        self.to_qkv = Dense(width, 3 * width, **options)
        self.to_out = Dense(width, width, **options)
        self.norm_perceptron = nn.LayerNorm(width)
        self.expand = Dense(width, 4 * width, **options)
        self.contract = Dense(4 * width, width, **options)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [B, T, C], mask [B, T] bool -> [B, T, C]."""
        x = (x + self._attention(self.norm_attention(x), mask)) * self.gain
        hidden = self.expand(self.norm_perceptron(x))
        hidden = hidden * (1.702 * hidden).sigmoid()  # QuickGELU, published
        return (x + self.contract(hidden)) * self.gain

    def _attention(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.to_qkv(x).chunk(3, dim=-1)
        if self.mode == "values_only":
            return self.to_out(v)
        q, k, v = (split_heads(part, self.heads) for part in (q, k, v))
        attended = attend(q, k, v, distance=self.distance, scale=self.scale, key_mask=mask)
        return self.to_out(merge_heads(attended))


class TextHead(nn.Module):
    """Frozen features to a global vector (the EOT token) and local tokens (paper section 3.1)."""

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        head, width = config.text_head, config.context_dim
        self.align = None
        if head.input_dim != width:
            self.align = Dense(
                head.input_dim,
                width,
                bias_init=1.0,
                learning_rate_multiplier=head.learning_rate_multiplier,
                equalized=config.equalized,
            )
        self.blocks = module_list(TextBlock(config) for _ in range(head.layers))
        self.keep_eot = config.attention.text_tokens == "all"

    def forward(self, tokens: Tensor, eot_index: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """tokens [B, T, C_in], eot_index [B], mask [B, T] bool.

        Returns the global vector [B, C], the local tokens [B, T - 1, C] (all T if EOT stays among them),
        and their mask.
        """
        x = tokens if self.align is None else self.align(tokens)
        for block in self.blocks:
            x = block(x, mask)
        global_text = x.take_along_dim(eot_index.view(-1, 1, 1), dim=1)[:, 0]
        if self.keep_eot:
            return global_text, x, mask
        positions = torch.arange(x.shape[1] - 1, device=x.device)
        others = positions + (positions >= eot_index[:, None])  # every position but EOT's, in order
        return global_text, x.take_along_dim(others[..., None], dim=1), mask.take_along_dim(others, dim=1)


class Mapping(nn.Module):
    """w = MLP(concat(z, global text)) (paper eq. 2), one w for all slots or one for each."""

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        mapping = config.mapping
        self.slots, self.style_per_layer = config.style_slots, mapping.style_per_layer
        self.normalize_inputs = mapping.normalize_inputs
        outputs = config.w_dim * (self.slots if mapping.style_per_layer else 1)
        widths = [config.z_dim + config.context_dim, *[mapping.width] * (mapping.layers - 1), outputs]
        self.layers = module_list(
            Dense(
                a,
                b,
                learning_rate_multiplier=mapping.learning_rate_multiplier,
                equalized=config.equalized,
                activation="lrelu",
            )
            for a, b in pairwise(widths)
        )

    def forward(self, z: Tensor, global_text: Tensor) -> Tensor:
        """z [B, Z], global_text [B, C] -> w [B, slots, D]."""
        if self.normalize_inputs:
            z, global_text = pixel_norm(z), pixel_norm(global_text)
        w = torch.cat((z, global_text), dim=1)
        for layer in self.layers:
            w = layer(w)
        if self.style_per_layer:
            return w.unflatten(1, (self.slots, -1))
        return w[:, None].expand(-1, self.slots, -1)


def logit_scale(config: AttentionConfig, head_dim: int) -> float:
    """Factor on attention logits. Scaling q and k by head_dim ** -0.5 each, instead of the logits, is the
    same for a distance and the square of it for a dot product."""
    doubled = config.scale_query_and_key and config.distance != "l2"
    return head_dim**-1.0 if doubled else head_dim**-0.5
