"""The ways a CPU takes through a convolution are one convolution; what modules remember is never stale."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from impasto.nn import convolution
from impasto.nn.convolution import convolve, convolve_up
from impasto.nn.modules import Remembered
from impasto.nn.style import ModulatedConvolution
from tests.conftest import relative_difference

OUT, INPUT = 40, 24


def operands(batch: int, side: int, own: bool, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    shape = (batch, OUT, INPUT, 3, 3) if own else (OUT, INPUT, 3, 3)
    return torch.randn(batch, INPUT, side, side).to(dtype), torch.randn(shape).to(dtype)


def each(x: Tensor, kernel: Tensor, one) -> Tensor:
    """`one` of every sample, with its own kernel or the shared one."""
    kernels = kernel if kernel.ndim == 5 else kernel.expand(len(x), -1, -1, -1, -1)
    return torch.cat([one(sample[None], k) for sample, k in zip(x, kernels, strict=True)])


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_convolution_by_columns_is_the_convolution(monkeypatch, batch, own):
    monkeypatch.setattr(convolution, "LARGE_KERNEL", 0)  # side 2 goes by columns, side 8 does not
    for side in (2, 8):
        x, kernel = operands(batch, side, own)
        expected = each(x, kernel, lambda s, k: F.conv2d(s, k, padding=1))
        assert relative_difference(convolve(x, kernel), expected) < 1e-6


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_doubling_the_side_is_the_transposed_convolution(own, gradients, dtype):
    for batch, side in ((1, 4), (3, 4), (2, 8)):  # 64 points of 24 channels go the library's way
        x, kernel = operands(batch, side, own, dtype)
        expected = each(
            x.double(), kernel.double(), lambda s, k: F.conv_transpose2d(s, k.transpose(0, 1), stride=2)
        )
        with torch.set_grad_enabled(gradients):
            found = convolve_up(x, kernel)
        assert found.dtype == dtype
        assert relative_difference(found.double(), expected) < (2e-2 if dtype == torch.bfloat16 else 1e-6)


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
def test_both_have_first_and_second_derivatives(monkeypatch, own):
    monkeypatch.setattr(convolution, "LARGE_KERNEL", 0)
    kernel = torch.randn((2, 8, 6, 3, 3) if own else (8, 6, 3, 3), dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 6, 1, 2, dtype=torch.float64, requires_grad=True)
    for function in (convolve, convolve_up):
        assert torch.autograd.gradcheck(function, (x, kernel))
        assert torch.autograd.gradgradcheck(function, (x, kernel))


def frozen() -> tuple[nn.Parameter, Remembered, list[int]]:
    calls: list[int] = []

    def compute(x: Tensor) -> Tensor:
        calls.append(1)
        return x.square()

    return nn.Parameter(torch.randn(3, 3), requires_grad=False), Remembered(compute), calls


def test_what_is_remembered_is_computed_once_and_again_after_a_write():
    parameter, squares, calls = frozen()

    def check(computed: int) -> None:
        assert torch.equal(squares(parameter, of=parameter, training=False), parameter.square())
        assert len(calls) == computed

    check(1)
    check(1)
    with torch.no_grad():
        parameter.mul_(2)
        check(2)
        torch._foreach_lerp_([parameter], [torch.ones(3, 3)], 0.5)
        check(3)
        parameter.copy_(torch.randn(3, 3))
        check(4)
    parameter.data = torch.randn(3, 3)
    check(5)
    parameter = nn.Parameter(torch.randn(3, 3), requires_grad=False)
    check(6)


def test_nothing_is_remembered_of_what_is_trained_or_copied():
    parameter, squares, calls = frozen()
    for _ in range(2):  # a discriminator frozen for the generator's step is in training mode
        squares(parameter, of=parameter, training=True)
    parameter.requires_grad_(True)
    for _ in range(2):
        squares(parameter, of=parameter, training=False)
    assert len(calls) == 4
    memory = Remembered(torch.square)
    memory(parameter.detach(), of=parameter.requires_grad_(False), training=False)
    for other in (copy.deepcopy(memory), pickle.loads(pickle.dumps(memory))):
        assert other._value is None and other.compute is torch.square


def test_a_layer_that_draws_remembers_and_a_layer_trained_by_a_fused_optimiser_does_not_lag():
    layer, w = ModulatedConvolution(8, 8, 4), torch.randn(2, 4)
    x = torch.randn(2, 8, 4, 4)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)

    def drawn() -> Tensor:
        with torch.no_grad():
            return copy.deepcopy(layer).eval().requires_grad_(False)(x, w)

    for _ in range(3):
        layer(x, w).square().sum().backward()
        optimizer.step()
        with torch.no_grad():
            assert torch.equal(layer(x, w), drawn())
    layer.eval().requires_grad_(False)
    with torch.no_grad():
        first = layer(x, w)
        assert layer.bank._energy._value is not None
        layer.bank.weight.mul_(3)
        assert relative_difference(layer(x, w), drawn()) == 0
    assert relative_difference(first, drawn()) < 1e-5  # demodulation takes the factor out again
