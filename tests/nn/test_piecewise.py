"""Piecewise linear operations against PyTorch's own, and the way back that they leave out."""

import pytest
import torch
import torch.nn.functional as F

from impasto.nn.piecewise import leaky_relu, max_pool

PAIRS = [(leaky_relu, lambda x: F.leaky_relu(x, 0.2)), (max_pool, lambda x: F.max_pool2d(x, 2))]
PAIRS_BY_NAME = pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=["leaky_relu", "max_pool"])


def penalty_gradients(operation, x, kernel, dtype):
    """Through a convolution before and behind, as a gradient penalty has it."""
    x, kernel = (tensor.to(dtype, copy=True).requires_grad_() for tensor in (x, kernel))
    y = F.conv2d(operation(F.conv2d(x, kernel, padding=1)), kernel, padding=1)
    (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), kernel)
    return y.detach(), gradient.detach(), second


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@PAIRS_BY_NAME
def test_values_and_both_gradients_are_the_same_bits(ours, theirs, dtype):
    x, kernel = torch.randn(2, 3, 8, 8), torch.randn(3, 3, 3, 3)
    expected = penalty_gradients(theirs, x, kernel, dtype)
    assert all(map(torch.equal, penalty_gradients(ours, x, kernel, dtype), expected))
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))
    assert ours(x).grad_fn is None


@PAIRS_BY_NAME
def test_gradients_are_those_of_finite_differences(ours, theirs):
    x = torch.randn(2, 2, 4, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(ours, x)
    assert torch.autograd.gradgradcheck(ours, x)


@PAIRS_BY_NAME
def test_nothing_goes_back_through_what_lies_before(ours, theirs):
    """Where nothing bends, a penalty on the gradient has no part in what the first layer computes."""
    kernel = torch.randn(3, 3, 3, 3).requires_grad_()
    for operation, expected in ((ours, []), (theirs, [0.0])):
        seen: list[float] = []
        image = torch.randn(1, 3, 8, 8).requires_grad_()
        first = F.conv2d(image, kernel, padding=1)
        y = operation(first) @ torch.randn(8 if operation in (leaky_relu, PAIRS[0][1]) else 4, 2)
        (gradient,) = torch.autograd.grad(y.sum(), image, create_graph=True)
        first.register_hook(lambda back, seen=seen: seen.append(float(back.abs().max())))
        gradient.square().sum().backward()
        assert seen == expected and kernel.grad is not None
        kernel.grad = None
