"""Multi-head attention by distance or by dot product.

`attend` is one function: Aurora's generator uses the plain Euclidean distance (published code), the
discriminator the squared one (safe under a gradient penalty), and the dot product is there for ablations.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from impasto.nn.precision import at_least_float32, without_autocast

Distance = Literal["l2", "l2_squared", "dot"]
SQUARED_DISTANCE_FLOOR = 1e-10  # below this a distance counts as zero, and has no gradient


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, T, heads * d] -> [B, heads, T, d]."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[B, heads, T, d] -> [B, T, heads * d]."""
    return x.transpose(1, 2).flatten(2)


def squared_distance(q: Tensor, k: Tensor) -> Tensor:
    """[..., S, d], [..., T, d] -> [..., S, T] squared Euclidean distances as one matmul:
    (-2q, |q|^2, 1) . (k, 1, |k|^2). No other tensor of the result's size is made."""
    q_norm, k_norm = q.square().sum(-1, keepdim=True), k.square().sum(-1, keepdim=True)
    left = torch.cat((-2 * q, q_norm, torch.ones_like(q_norm)), dim=-1)
    right = torch.cat((k, torch.ones_like(k_norm), k_norm), dim=-1)
    return left @ right.transpose(-2, -1)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    distance: Distance,
    scale: float,
    key_mask: Tensor | None = None,
    fused: bool = True,
) -> Tensor:
    """softmax(scale * similarity) v, with similarity -||q - k||, -||q - k||^2 or q . k.

    q [B, heads, S, d], k and v [B, heads, T, d], key_mask [B, T] bool with True for keys that count.
    Returns [B, heads, S, d]. The plain distance is computed in fp32 at least (the root of a difference of
    large numbers). `fused=False` keeps dot product and squared distance to operations with a second
    derivative.
    """
    if distance == "l2":
        return _attend_euclidean(q, k, v, scale, key_mask)
    bias = None if key_mask is None else key_mask[:, None, None, :]
    if distance == "l2_squared":
        # -s|q-k|^2 = 2s q.k - s|k|^2 - s|q|^2, and the last term cancels in the softmax.
        key_bias = -scale * k.square().sum(-1)[:, :, None, :]
        bias = key_bias if bias is None else key_bias.masked_fill(~bias, float("-inf"))
        scale = 2 * scale
    if fused:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    logits = (q * scale) @ k.transpose(-2, -1)
    if bias is not None:
        logits = logits.masked_fill(~bias, float("-inf")) if bias.dtype == torch.bool else logits + bias
    return logits.softmax(-1) @ v


def _attend_euclidean(q: Tensor, k: Tensor, v: Tensor, scale: float, key_mask: Tensor | None) -> Tensor:
    dtype = at_least_float32(q)
    with without_autocast(q):
        # Rebinding one name lets each large map be freed as soon as the next exists.
        x = squared_distance(q.to(dtype) * scale, k.to(dtype) * scale)
        if q is k:  # tied: a point is at distance zero from itself, which the matmul only knows to rounding
            x = x.masked_fill(torch.eye(q.shape[-2], dtype=torch.bool, device=q.device), 0.0)
        x = x.clamp_min(SQUARED_DISTANCE_FLOOR * scale**2)
        x = x.sqrt()
        if key_mask is not None:
            x = x.masked_fill(~key_mask[:, None, None, :], float("inf"))
        x = F.softmin(x, dim=-1)
    return x.to(v.dtype) @ v
