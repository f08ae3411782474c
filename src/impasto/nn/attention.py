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
# Distances that are there at once where no gradient is wanted: 1 MiB, half of a core's usual cache; 1 GiB.
CPU_BLOCK, DEVICE_BLOCK = 2**18, 2**28


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, T, heads * d] -> [B, heads, T, d]."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[B, heads, T, d] -> [B, T, heads * d]."""
    return x.transpose(1, 2).flatten(2)


def _distance_factors(q: Tensor, k: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """[..., S, d], [..., T, d] -> [..., S, d + 2], [..., d + 2, T]: squares of scaled Euclidean distances are
    their product, (-2q, |q|^2, 1) . (k, 1, |k|^2), so that no other tensor of the result's size is made."""
    square = scale**2
    q_norm = q.square().sum(-1, keepdim=True) * square
    k_norm = (k.square().sum(-1) * square)[..., None, :]
    left = torch.cat((q * (-2 * square), q_norm, torch.ones_like(q_norm)), dim=-1)
    # Both lie as the product reads them: a transposed view costs a CPU half as much again.
    return left, torch.cat((k.transpose(-2, -1), torch.ones_like(k_norm), k_norm), dim=-2)


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
        left, right = _distance_factors(q.to(dtype), k.to(dtype), scale)
        floor = SQUARED_DISTANCE_FLOOR * scale**2
        if not (torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v))):
            return _attend_in_blocks(left, right, v, floor, q is k, key_mask)
        # Rebinding one name lets each large map be freed as soon as the next exists.
        x = left @ right
        if q is k:  # tied: a point is at distance zero from itself, which the matmul only knows to rounding
            x = x.masked_fill(torch.eye(q.shape[-2], dtype=torch.bool, device=q.device), 0.0)
        x = x.clamp_min(floor).sqrt()
        if key_mask is not None:
            x = x.masked_fill(~key_mask[:, None, None, :], float("inf"))
        x = F.softmin(x, dim=-1)
    return x.to(v.dtype) @ v


def _attend_in_blocks(
    left: Tensor, right: Tensor, v: Tensor, floor: float, tied: bool, key_mask: Tensor | None
) -> Tensor:
    """The same without gradients: so many heads, or rows of one, at a time that their distances stay in the
    cache of a core (or in a small part of a GPU's memory), and in place."""
    heads, (queries, keys) = left.shape[1], (left.shape[2], right.shape[3])
    left, right, values = left.flatten(0, 1), right.flatten(0, 1), v.flatten(0, 1).contiguous()
    out = torch.empty_like(values[:, :1].expand(-1, queries, -1))
    most = CPU_BLOCK if v.device.type == "cpu" else DEVICE_BLOCK
    maps = max(1, most // (queries * keys))
    rows = min(queries, max(1, most // keys))
    mask = None if key_mask is None else ~key_mask.repeat_interleave(heads, 0)[:, None]
    for first in range(0, left.shape[0], maps):
        group = first if maps == 1 else slice(first, first + maps)  # a plain matmul is faster than one of one
        for start in range(0, queries, rows):
            x = left[group, start : start + rows] @ right[group]
            if tied:
                x.diagonal(start, -2, -1).zero_()
            x.clamp_min_(floor).sqrt_()
            if mask is not None:
                x.masked_fill_(mask[group], float("inf"))
            torch.sub(x.amin(-1, keepdim=True), x, out=x).exp_()  # a softmax, less its last division
            attended = x.to(v.dtype) @ values[group]
            out[group, start : start + rows] = attended / x.sum(-1, keepdim=True).to(v.dtype)
    return out.unflatten(0, (-1, heads))
