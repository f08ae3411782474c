"""One SemVIE layer: two sets of weights, one joint attention (figure: Attention-Expert and FFN-Expert)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from impasto.mars.config import LanguageConfig, VisualConfig
from impasto.mars.routing import Routing, Rows
from impasto.nn.kv_cache import Memory
from impasto.nn.precision import at_least_float32
from impasto.nn.rotary import rotate


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension, the quotient in fp32 at least."""

    def __init__(self, width: int, epsilon: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """x [..., width] -> the same shape and type."""
        wide = x.to(at_least_float32(x))
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.epsilon)
        return self.weight * wide.to(x.dtype)


class AttentionWeights(nn.Module):
    """Projections of one expert. Without `output` another expert's W_O serves."""

    def __init__(self, config: LanguageConfig, *, output: bool = True, query_key_norm: bool = False):
        super().__init__()
        bias, head_dim = config.query_key_value_bias, config.head_dim
        queries, keys = config.heads * head_dim, config.key_value_heads * head_dim
        self.head_dim = head_dim
        self.query = nn.Linear(config.width, queries, bias=bias)
        self.key = nn.Linear(config.width, keys, bias=bias)
        self.value = nn.Linear(config.width, keys, bias=bias)
        self.output = nn.Linear(queries, config.width, bias=config.output_bias) if output else None
        epsilon = config.norm_epsilon
        self.query_norm = RMSNorm(head_dim, epsilon) if query_key_norm else None
        self.key_norm = RMSNorm(head_dim, epsilon) if query_key_norm else None

    def project(self, x: Tensor) -> Rows:
        """[..., width] -> queries [..., heads, d], keys and values [..., key_value_heads, d]."""
        query, key, value = (
            projection(x).unflatten(-1, (-1, self.head_dim))
            for projection in (self.query, self.key, self.value)
        )
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        return query, key, value


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: LanguageConfig):
        super().__init__()
        bias = config.feed_forward_bias
        self.gate = nn.Linear(config.width, config.feed_forward, bias=bias)
        self.up = nn.Linear(config.width, config.feed_forward, bias=bias)
        self.down = nn.Linear(config.feed_forward, config.width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., width] -> the same shape."""
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Expert(nn.Module):
    """What one modality owns in a layer; a part that it does not own is None and the other's is used."""

    def __init__(
        self,
        config: LanguageConfig,
        *,
        weights: bool = True,
        output: bool = True,
        norms: bool = True,
        query_key_norm: bool = False,
    ):
        super().__init__()
        width, epsilon = config.width, config.norm_epsilon
        self.attention_norm = RMSNorm(width, epsilon) if norms else None
        self.attention = (
            AttentionWeights(config, output=output, query_key_norm=query_key_norm) if weights else None
        )
        self.feed_forward_norm = RMSNorm(width, epsilon) if norms else None
        self.feed_forward = FeedForward(config) if weights else None


class TokenTables(nn.Module):
    """Embedding and output rows of one part of the vocabulary, and the final norm if it owns one."""

    def __init__(self, rows: int, config: LanguageConfig, *, tied: bool, norm: bool):
        super().__init__()
        self.embedding = nn.Embedding(rows, config.width)
        self.head = None if tied else nn.Linear(config.width, rows, bias=False)
        self.norm = RMSNorm(config.width, config.norm_epsilon) if norm else None

    @property
    def output_rows(self) -> Tensor:
        """[rows, width]: the embedding itself where tied."""
        return self.embedding.weight if self.head is None else self.head.weight


@dataclass(frozen=True)
class Visibility:
    """Which keys a query sees: a mask [B, 1, T, S] bool (True: seen), plain causality, or everything."""

    mask: Tensor | None
    causal: bool


def visibility(keys: Tensor | None, own: Tensor) -> Visibility:
    """Causal. keys [B, S] bool, True for tokens that count (None: all, and no others than these); own [B, T]
    bool: the part of it that belongs to the queries, which are the last, or one into a fixed-size cache.

    A padding query sees what it likes, so that no row of the softmax is empty.
    """
    queries = own.shape[1]
    if keys is None:
        return Visibility(None, queries > 1)
    seen = keys[:, None, :] | ~own[:, :, None]
    if queries > 1:
        length = keys.shape[1]
        seen = seen & torch.ones(queries, length, dtype=torch.bool, device=keys.device).tril(length - queries)
    return Visibility(seen[:, None], False)


class SemvieLayer(nn.Module):
    """Norm, QKV of each token's expert, joint attention, W_O and FFN of each token's expert.

    `language` always owns the shared norms. With experts="shared" it owns nothing else and `visual` serves
    every token; with output_projection="shared" its W_O serves both.
    """

    def __init__(self, config: LanguageConfig, visual: VisualConfig):
        super().__init__()
        self.language = Expert(config, weights=visual.experts == "split")
        self.visual = Expert(
            config,
            output=visual.output_projection == "per_modality",
            norms=visual.norms == "per_modality",
            query_key_norm=visual.query_key_norm,
        )

    def forward(
        self,
        x: Tensor,
        routing: Routing,
        tables: tuple[Tensor, Tensor],
        seen: Visibility,
        memory: Memory | None = None,
        index: int = 0,
    ) -> Tensor:
        """x [B, T, width] -> the same; tables: cosine and sine of the positions; index: which layer of the
        memory this is."""
        projected = routing.route((x,), self._project_language, self._project_visual)
        query, key, value = (part.transpose(1, 2) for part in projected)
        query, key = rotate(query, tables), rotate(key, tables)
        if memory is not None:
            key, value = memory.extend(index, key, value)
        grouped = query.shape[1] != key.shape[1]
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=seen.mask, is_causal=seen.causal, enable_gqa=grouped
        )
        mixed = mixed.transpose(1, 2).flatten(2)
        return routing.route((x, mixed), self._finish_language, self._finish_visual)[0]

    def _project_language(self, x: Tensor) -> Rows:
        weights = self.language.attention or self.visual.attention
        assert weights is not None and self.language.attention_norm is not None
        return weights.project(self.language.attention_norm(x))

    def _project_visual(self, x: Tensor) -> Rows:
        norm = self.visual.attention_norm or self.language.attention_norm
        assert self.visual.attention is not None and norm is not None
        return self.visual.attention.project(norm(x))

    def _finish_language(self, x: Tensor, mixed: Tensor) -> Rows:
        return self._finish(x, mixed, self.language, self.visual)

    def _finish_visual(self, x: Tensor, mixed: Tensor) -> Rows:
        return self._finish(x, mixed, self.visual, self.language)

    @staticmethod
    def _finish(x: Tensor, mixed: Tensor, own: Expert, other: Expert) -> Rows:
        """W_O, residual, FFN, residual, with `own` parts where there are any."""
        attention = own.attention or other.attention
        assert attention is not None
        output = attention.output
        if output is None:
            assert other.attention is not None
            output = other.attention.output
        feed_forward = own.feed_forward or other.feed_forward
        norm = own.feed_forward_norm or other.feed_forward_norm
        assert output is not None and feed_forward is not None and norm is not None
        x = x + output(mixed)
        return (x + feed_forward(norm(x)),)
