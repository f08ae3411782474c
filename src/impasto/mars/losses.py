"""Cross-entropy of next tokens, and what a batch of them amounts to."""

from dataclasses import dataclass

from torch import Tensor

from impasto.nn.precision import at_least_float32


@dataclass(frozen=True)
class TokenLosses:
    """Mean cross-entropies over the targets of one batch, in nats; None where it has no such targets.

    image: over codes and end tokens; text: over words. image_z: mean squared log-sum-exp of the image
    logits, for a z-loss. image_tokens, text_tokens: how many targets each mean is over.
    """

    image: Tensor | None
    text: Tensor | None
    image_z: Tensor | None
    image_tokens: int
    text_tokens: int


def cross_entropy(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """logits [N, C], classes [N] int64 -> mean negative log-likelihood and mean squared log-sum-exp, both in
    fp32 at least."""
    logits = logits.to(at_least_float32(logits))
    total = logits.logsumexp(-1)
    chosen = logits.gather(1, classes[:, None])[:, 0]
    return (total - chosen).mean(), total.square().mean()
