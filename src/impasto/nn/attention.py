"""Multi-head attention by distance or by dot product.

`attend` is one function: Aurora's generator uses the plain Euclidean distance (published code), the
discriminator the squared one (safe under a gradient penalty), and the dot product is there for ablations.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from impasto.nn.precision import at_least_float32, without_autocast

Distance = Literal["l2", "l2_squared", "dot"]
SQUARED_DISTANCE_FLOOR = 1e-10  # below this a distance counts as zero, and has no gradient
FAR = 1e30  # the squared distance of a key that does not count
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
    dtype, tied = at_least_float32(q), q is k
    with without_autocast(q):
        q, k = q.to(dtype), k.to(dtype)
        if not (torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v))):
            return _attend_in_blocks(q, k, v, scale, tied, key_mask)
        left, right = _distance_factors(q, k, scale)
        # Rebinding one name lets each large map be freed as soon as the next exists.
        x = left @ right
        if tied:  # a point is at distance zero from itself, which the matmul only knows to rounding
            x = x.masked_fill(torch.eye(q.shape[-2], dtype=torch.bool, device=q.device), 0.0)
        x = x.clamp_min(SQUARED_DISTANCE_FLOOR * scale**2).sqrt()
        if key_mask is not None:
            x = x.masked_fill(~key_mask[:, None, None, :], float("inf"))
        x = F.softmin(x, dim=-1)
    return x.to(v.dtype) @ v


def _attend_in_blocks(
    q: Tensor, k: Tensor, v: Tensor, scale: float, tied: bool, key_mask: Tensor | None
) -> Tensor:
    """The same without gradients: so many heads, or rows of one, at a time that their distances stay in the
    cache of a core (or in a small part of a GPU's memory), and always in the same memory."""
    heads, queries, keys = q.shape[1], q.shape[2], k.shape[2]
    scale = scale / math.log(2)  # for powers of two, which a CPU has faster than those of e
    left, right = (factor.flatten(0, 1) for factor in _distance_factors(q, k, scale))
    values = v.flatten(0, 1).contiguous()
    out = torch.empty_like(values[:, :1].expand(-1, queries, -1))
    most = CPU_BLOCK if v.device.type == "cpu" else DEVICE_BLOCK
    maps = min(left.shape[0], max(1, most // (queries * keys)))
    rows = min(queries, max(1, most // keys))
    mask = None if key_mask is None else ~key_mask.repeat_interleave(heads, 0)[:, None]
    # Rows of one map are a plain matrix: its matmul is faster than a batch of one.
    squares, powers = left.new_empty(2, rows, keys) if maps == 1 else left.new_empty(2, maps, rows, keys)
    for first in range(0, left.shape[0], maps):
        group = first if maps == 1 else slice(first, first + maps)
        for start in range(0, queries, rows):
            own = left[group, start : start + rows]
            squared, x = squares[: own.shape[0]], powers[: own.shape[0]]
            torch.matmul(own, right[group], out=squared)
            if tied:
                squared.diagonal(start, -2, -1).zero_()
            squared.clamp_min_(SQUARED_DISTANCE_FLOOR * scale**2)
            if mask is not None:
                squared.masked_fill_(mask[group], FAR)
            # A softmax of -sqrt(squared), less its last division. s / sqrt(s): the root of its own is slower.
            torch.rsqrt(squared, out=x)
            torch.addcmul(squared.amin(-1, keepdim=True).sqrt_(), squared, x, value=-1, out=x).exp2_()
            attended = out[group, start : start + rows]
            torch.matmul(x.to(v.dtype), values[group], out=attended)
            attended.div_(x.sum(-1, keepdim=True))
    return out.unflatten(0, (-1, heads))
