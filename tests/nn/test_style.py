"""Modulated layers against plain loops, and their gradients of first and second order."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from impasto.nn.convolution import deformable_columns
from impasto.nn.fourier import ConstantInput, FourierInput
from impasto.nn.resample import fir_kernel, upsample_fir
from impasto.nn.style import (
    DeformationField,
    Dense,
    KernelBank,
    ModulatedConvolution,
    ModulatedLinear,
    pixel_norm,
)
from tests.conftest import relative_difference

W_DIM = 5


def randomised(module: nn.Module) -> nn.Module:
    """Every parameter moved off its initial value, zeros included, in float64."""
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def w_of(batch: int) -> Tensor:
    return torch.randn(batch, W_DIM, dtype=torch.float64)


def modulated_kernel(layer: ModulatedConvolution | ModulatedLinear, w: Tensor) -> Tensor:
    """The kernel of one sample as the published code builds it: mix, normalise, modulate, demodulate."""
    bank, kernel = layer.bank, layer.bank.weight[0]
    if bank.choice is not None:
        mixture = bank.choice(w[None]).softmax(-1)[0]
        kernel = sum(share * one for share, one in zip(mixture, bank.weight, strict=True))
    style = layer.style(w[None])[0]
    axes = tuple(range(1, kernel.ndim))
    if not layer.demodulate:
        return kernel * style.view(1, -1, *[1] * (kernel.ndim - 2)) * bank.gain
    kernel = kernel / kernel.square().mean(axes, keepdim=True).sqrt()
    style = style / style.square().mean().sqrt()
    kernel = kernel * style.view(1, -1, *[1] * (kernel.ndim - 2))
    return kernel / (kernel.square().sum(axes, keepdim=True) + 1e-8).sqrt()


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("kernels", [1, 3])
@pytest.mark.parametrize("upsample", [False, True])
def test_modulated_convolution_equals_materialised_kernels(kernels, upsample, demodulate):
    layer = randomised(
        ModulatedConvolution(4, 6, W_DIM, kernels=kernels, upsample=upsample, demodulate=demodulate)
    )
    x, w = torch.randn(3, 4, 5, 5, dtype=torch.float64), w_of(3)
    for i, y in enumerate(layer(x, w)):
        kernel = modulated_kernel(layer, w[i])
        if upsample:
            expected = F.conv_transpose2d(x[i : i + 1], kernel.transpose(0, 1), stride=2)
            fir = (fir_kernel(x) * 4).expand(6, 1, 4, 4)
            expected = F.conv2d(F.pad(expected, (1, 1, 1, 1)), fir, groups=6)
        else:
            expected = F.conv2d(x[i : i + 1], kernel, padding=1)
        expected = F.leaky_relu(expected + layer.bias.view(1, -1, 1, 1), 0.2) * math.sqrt(2)
        assert relative_difference(y, expected[0]) < 1e-10


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("kernels", [1, 3])
def test_modulated_linear_is_the_1x1_convolution(kernels, demodulate):
    layer = randomised(ModulatedLinear(4, 6, W_DIM, kernels=kernels, demodulate=demodulate))
    x, w = torch.randn(3, 4, 2, 5, dtype=torch.float64), w_of(3)
    y = layer.on_map(x, w)
    for i in range(3):
        kernel = modulated_kernel(layer, w[i])[:, :, None, None]
        assert relative_difference(y[i], F.conv2d(x[i : i + 1], kernel, layer.bias)[0]) < 1e-10


def test_demodulated_output_ignores_the_scale_of_the_style():
    layer = randomised(ModulatedLinear(4, 6, W_DIM))
    x, w = torch.randn(1, 3, 4, dtype=torch.float64), w_of(1)
    before = layer(x, w)
    with torch.no_grad():
        layer.style.weight.mul_(1e-6)
        assert layer.style.bias is not None
        layer.style.bias.mul_(1e-6)
    assert relative_difference(layer(x, w), before) < 1e-9


def bilinear(picture: Tensor, y: float, x: float) -> Tensor:
    """One sample of [C, H, W] by the border rule: a neighbour outside is zero."""
    total = torch.zeros(picture.shape[0], dtype=picture.dtype)
    top, left = math.floor(y), math.floor(x)
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < picture.shape[1] and 0 <= column < picture.shape[2]:
                total += picture[:, row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


def test_deformable_sampling_equals_a_loop_over_positions_and_taps():
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    offsets = 2.5 * torch.randn(2, 18, 4, 5, dtype=torch.float64)  # well beyond the border
    gates = torch.rand(2, 9, 4, 5, dtype=torch.float64) * 2
    columns = deformable_columns(x, offsets, gates).view(2, 3, 9, 4, 5)
    for sample in range(2):
        for tap in range(9):
            for row in range(4):
                for column in range(5):
                    dy, dx = offsets[sample, 2 * tap : 2 * tap + 2, row, column].tolist()
                    value = bilinear(x[sample], row + tap // 3 - 1 + dy, column + tap % 3 - 1 + dx)
                    value = value * gates[sample, tap, row, column]
                    assert torch.allclose(columns[sample, :, tap, row, column], value, atol=1e-12)


def test_deformable_convolution_starts_as_the_ordinary_one():
    plain, deformed = ModulatedConvolution(4, 6, W_DIM), ModulatedConvolution(4, 6, W_DIM, deform=True)
    deformed.load_state_dict(plain.state_dict(), strict=False)
    x, w = torch.randn(2, 4, 6, 6), torch.randn(2, W_DIM)
    assert relative_difference(deformed(x, w), plain(x, w)) < 1e-5


def test_upsampling_inserts_zeros_pads_two_before_and_one_after_and_filters():
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    spread = torch.zeros(2, 3, 8, 10, dtype=torch.float64)
    spread[:, :, ::2, ::2] = x
    kernel = (fir_kernel(x) * 4).expand(3, 1, 4, 4)
    expected = F.conv2d(F.pad(spread, (2, 1, 2, 1)), kernel, groups=3)
    assert torch.allclose(upsample_fir(x), expected, atol=1e-12)


def test_dense_learning_rate_multiplier_changes_storage_not_function():
    layer = Dense(64, 32, bias_init=1.0, learning_rate_multiplier=0.01)
    assert layer.bias is not None
    assert torch.all(layer.bias == 100) and 80 < float(layer.weight.std()) < 120
    y = layer(torch.randn(1000, 64))
    assert 0.8 < float(y.std()) < 1.2 and 0.8 < float(y.mean()) < 1.2
    few, many = torch.randn(1, 64), torch.randn(100, 64)
    both = torch.cat((few, many))
    assert torch.allclose(layer(both)[:1], layer(few), atol=1e-5)  # the gain sits on either operand


def test_kernel_mix_is_convex():
    bank = randomised(KernelBank(4, (2, 3), W_DIM))
    kernels = bank(w_of(6))
    low, high = bank.weight.min(0).values, bank.weight.max(0).values
    assert bool(((kernels >= low) & (kernels <= high)).all())


LAYERS = {
    "dense": lambda: Dense(3, 4, activation="lrelu"),
    "linear": lambda: ModulatedLinear(3, 4, W_DIM, activation="lrelu"),
    "linear kernels": lambda: ModulatedLinear(3, 4, W_DIM, kernels=2),
    "linear plain": lambda: ModulatedLinear(3, 4, W_DIM, demodulate=False),
    "convolution": lambda: ModulatedConvolution(3, 4, W_DIM),
    "convolution kernels": lambda: ModulatedConvolution(3, 4, W_DIM, kernels=2),
    "convolution up": lambda: ModulatedConvolution(3, 4, W_DIM, kernels=2, upsample=True),
    "deformable": lambda: ModulatedConvolution(3, 4, W_DIM, kernels=2, deform=True),
    "deformable up": lambda: ModulatedConvolution(3, 4, W_DIM, deform=True, upsample=True),
    "field": lambda: DeformationField(3, W_DIM),
    "fourier": lambda: FourierInput(3, 4, W_DIM),
    "constant": lambda: ConstantInput(3, 4),
    "up": lambda: nn.Identity(),
    "pixel norm": lambda: nn.Identity(),
}


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_first_and_second_order(name):
    layer = randomised(LAYERS[name]())
    x = torch.randn(2, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    w = w_of(2).requires_grad_()
    tokens = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    calls = {
        "dense": (layer, (tokens,)),
        "fourier": (layer, (w,)),
        "constant": (lambda w, *p: layer(w) * w.sum(), (w,)),
        "up": (upsample_fir, (x,)),
        "pixel norm": (pixel_norm, (w,)),
    }
    is_linear = isinstance(layer, ModulatedLinear)
    call, inputs = calls.get(name, (layer, (tokens if is_linear else x, w)))
    parameters = tuple(layer.parameters())

    def function(*arguments: Tensor):
        return call(*arguments[: len(inputs)])

    assert torch.autograd.gradcheck(function, (*inputs, *parameters))
    assert torch.autograd.gradgradcheck(function, inputs)
