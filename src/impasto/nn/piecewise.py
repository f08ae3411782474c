"""Piecewise linear operations that know that their second derivative is zero.

PyTorch's own give back a map of zeros for it, and a gradient penalty then takes those zeros backwards through
every layer before them: a third of the work of R1 where nothing else bends (measured, docs/aurora.md). Here
that way does not exist. Values and all gradients are the same bits.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

SLOPE = 0.2  # of the negative side (StyleGAN, published code)
aten = torch.ops.aten


def leaky_relu(x: Tensor) -> Tensor:
    """x where it is positive, `SLOPE` x elsewhere: [...] -> [...]."""
    wanted = torch.is_grad_enabled() and x.requires_grad
    return _LeakyReLU.apply(x) if wanted else F.leaky_relu(x, SLOPE)


def max_pool(x: Tensor) -> Tensor:
    """The largest of every 2x2: [B, C, H, W] -> [B, C, H / 2, W / 2]. Differentiable twice."""
    wanted = torch.is_grad_enabled() and x.requires_grad
    return _MaxPool.apply(x) if wanted else F.max_pool2d(x, 2)


class _LeakyReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = F.leaky_relu(x, SLOPE)
        ctx.save_for_backward(y)
        ctx.set_materialize_grads(False)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> Tensor | None:
        (y,) = ctx.saved_tensors
        return None if gradient is None else _Slope.apply(gradient, y.detach())


class _Slope(torch.autograd.Function):
    """A gradient times the slopes where y, the result, lies: linear, so that its own backward is itself."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(y)
        ctx.set_materialize_grads(False)
        return aten.leaky_relu_backward(gradient, y, SLOPE, True)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, None]:
        (y,) = ctx.saved_tensors
        return None if gradient is None else _Slope.apply(gradient, y), None


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y, where = aten.max_pool2d_with_indices(x, [2, 2], [2, 2])
        ctx.save_for_backward(x, where)
        ctx.set_materialize_grads(False)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> Tensor | None:
        x, where = ctx.saved_tensors
        return None if gradient is None else _Spread.apply(gradient, x.detach(), where)


class _Spread(torch.autograd.Function):
    """Gradients go to where the maxima were; their own come from there."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, x: Tensor, where: Tensor) -> Tensor:
        ctx.save_for_backward(where)
        ctx.set_materialize_grads(False)
        return aten.max_pool2d_with_indices_backward(
            gradient, x, [2, 2], [2, 2], [0, 0], [1, 1], False, where
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, None, None]:
        (where,) = ctx.saved_tensors
        if gradient is None:
            return None, None, None
        return gradient.flatten(2).gather(2, where.flatten(2)).view_as(where), None, None
