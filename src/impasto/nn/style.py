"""Style-modulated layers: equalised dense layers, modulated 1x1 and 3x3 convolutions with kernel selection,
and the field of learned deformable sampling.

Everything is plain PyTorch, differentiable twice, and independent per sample: no statistic crosses the
batch. Facts about the published network carry the section of `docs/aurora.md` or of the paper they come
from. Shapes: B batch, T tokens, C channels, H and W the sides of a feature map, N kernels, D style width.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from impasto.nn import piecewise
from impasto.nn.convolution import convolve, convolve_columns, convolve_up, deformable_columns
from impasto.nn.modules import Remembered, normal
from impasto.nn.resample import filter_after_transposed_convolution, upsample_fir

Activation = Literal["linear", "lrelu"]
DEMODULATION_EPSILON = 1e-8  # published code


def leaky_relu(x: Tensor) -> Tensor:
    """sqrt(2) * LeakyReLU(x, 0.2), [...] -> [...]: keeps unit variance (StyleGAN2, published code)."""
    return piecewise.leaky_relu(x) * math.sqrt(2)


def activation_gain(activation: Activation) -> float:
    """What an activation multiplies by. Leaky ReLU is linear in positive factors, so layers put its sqrt(2)
    onto their weights and biases, which are smaller than what they compute."""
    return math.sqrt(2) if activation == "lrelu" else 1.0


def pixel_norm(x: Tensor) -> Tensor:
    """Scale each vector of the last axis of x [..., C] to root-mean-square one (epsilon 1e-8, published
    code)."""
    return x * (x.square().mean(-1, keepdim=True) + 1e-8).rsqrt()


class Dense(nn.Module):
    """Linear layer with an equalised learning rate (StyleGAN): the stored weight has unit variance and is
    scaled at run time, so that one learning rate fits layers of every width.

    `learning_rate_multiplier` slows a layer down: stored values are divided by it, effective ones multiplied.
    With `equalized=False` the scale 1/sqrt(in) is baked into the stored weight instead.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        bias_init: float | list[float] = 0.0,
        weight_init: float = 1.0,
        learning_rate_multiplier: float = 1.0,
        equalized: bool = True,
        activation: Activation = "linear",
    ):
        super().__init__()
        multiplier = learning_rate_multiplier
        fan_in_scale = 1 / math.sqrt(in_features)
        self.weight_gain = multiplier * (fan_in_scale if equalized else 1.0)
        self.bias_gain = multiplier
        self.activation: Activation = activation
        stored_scale = weight_init / multiplier * (1.0 if equalized else fan_in_scale)
        self.weight = nn.Parameter(normal(out_features, in_features, scale=stored_scale))
        self.bias = None
        if bias:
            start = bias_init if isinstance(bias_init, list) else [bias_init] * out_features
            self.bias = nn.Parameter(torch.tensor([value / multiplier for value in start]))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        gain = activation_gain(self.activation)
        bias = None if self.bias is None else self.bias * (self.bias_gain * gain)
        # The gain goes onto whichever operand is smaller; the product is the same.
        if x.numel() < self.weight.numel():
            y = F.linear(x * (self.weight_gain * gain), self.weight, bias)
        else:
            y = F.linear(x, self.weight * (self.weight_gain * gain), bias)
        return piecewise.leaky_relu(y) if self.activation == "lrelu" else y


def kernel_energy(kernel: Tensor) -> Tensor:
    """Squares of kernels [..., 3, 3] summed over their taps: [...]. Without gradients in one pass over what
    may be the largest tensors there are."""
    if torch.is_grad_enabled() and kernel.requires_grad:
        return kernel.square().sum((-2, -1))
    return torch.linalg.vector_norm(kernel, dim=(-2, -1)).square()


def demodulation(filter_energy: Tensor, style: Tensor, taps: int) -> Tensor:
    """Factor that gives each output filter of a modulated kernel unit norm.

    filter_energy [out, in] or [B, out, in]: squares of the kernel summed over its `taps` (9 for 3x3);
    style [B, in]. Returns [B, out].

    The published code divides the kernel by its RMS per filter and the style by its RMS before modulating;
    both cancel except inside the epsilon, so here they scale the epsilon instead (and the style's RMS is
    taken per sample, which is what the published code computes for a batch of one).
    """
    squared_style = style.square()
    if filter_energy.ndim == 2:
        energy = squared_style @ filter_energy.t()
    else:
        energy = torch.einsum("boi,bi->bo", filter_energy, squared_style)
    scale_squared = filter_energy.mean(-1) / taps * squared_style.mean(-1, keepdim=True)
    return (energy + DEMODULATION_EPSILON * scale_squared).rsqrt()


class KernelBank(nn.Module):
    """N kernels and the style that picks among them: K = sum_i softmax(choice(w))_i W_i (GigaGAN; convex mix
    before any normalisation). N = 1 is an ordinary shared kernel.
    """

    def __init__(self, kernels: int, shape: tuple[int, ...], style_dim: int, *, equalized: bool = True):
        super().__init__()
        fan_in = math.prod(shape[1:])
        self.gain = 1 / math.sqrt(fan_in) if equalized else 1.0  # used only without demodulation
        stored_scale = 1.0 if equalized else 1 / math.sqrt(fan_in)
        self.weight = nn.Parameter(normal(kernels, *shape, scale=stored_scale))
        self.choice = Dense(style_dim, kernels, bias_init=1.0, equalized=equalized) if kernels > 1 else None
        self._energy = Remembered(kernel_energy if len(shape) == 4 else torch.square)

    def forward(self, w: Tensor) -> Tensor:
        """w [B, D] -> the shared kernel [*shape] when N = 1, else one kernel per sample [B, *shape]."""
        if self.choice is None:
            return self.weight[0]
        mixture = self.choice(w).softmax(-1).to(self.weight.dtype)
        return (mixture @ self.weight.flatten(1)).unflatten(1, self.weight.shape[1:])

    def energy(self, kernel: Tensor) -> Tensor:
        """What `demodulation` needs of the kernel that `forward` returned, [out, in] or [B, out, in]: a
        shared one's is remembered."""
        if self.choice is not None:
            return self._energy.compute(kernel)
        return self._energy(kernel, of=self.weight, training=self.training)


class ModulatedLinear(nn.Module):
    """The 1x1 modulated convolution, on tokens: y_o = d_o * sum_i K_oi s_i x_i + b_o."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        style_dim: int,
        *,
        kernels: int = 1,
        demodulate: bool = True,
        activation: Activation = "linear",
        clamp: float | None = None,
        equalized: bool = True,
    ):
        super().__init__()
        self.demodulate, self.activation, self.clamp = demodulate, activation, clamp
        self.bank = KernelBank(kernels, (out_features, in_features), style_dim, equalized=equalized)
        self.style = Dense(style_dim, in_features, bias_init=1.0, equalized=equalized)
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x [B, T, in], w [B, D] -> [B, T, out]."""
        style, kernel = self.style(w), self.bank(w)
        gain = activation_gain(self.activation)
        output_scale = None
        if self.demodulate:
            output_scale = demodulation(self.bank.energy(kernel), style, taps=1) * gain
        else:
            style = style * (self.bank.gain * gain)
        bias = self.bias * gain
        outputs, inputs = kernel.shape[-2:]
        if outputs * inputs <= x.shape[1] * (outputs + inputs):  # whatever the batch: it must not matter
            y = self._by_kernel(x, style, kernel, output_scale, bias)
        else:
            y = (x * style[:, None]) @ kernel.transpose(-2, -1)
            y = y + bias if output_scale is None else y * output_scale[:, None] + bias
        if self.activation == "lrelu":
            y = piecewise.leaky_relu(y)
        return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)

    @staticmethod
    def _by_kernel(
        x: Tensor, style: Tensor, kernel: Tensor, output_scale: Tensor | None, bias: Tensor
    ) -> Tensor:
        """Scale one kernel per sample where that is smaller than the features; the product is the same."""
        kernel = kernel * style[:, None]
        if output_scale is not None:
            kernel = kernel * output_scale[..., None]
        return torch.baddbmm(bias, x, kernel.transpose(1, 2))

    def on_map(self, x: Tensor, w: Tensor) -> Tensor:
        """The same on a feature map: x [B, in, H, W] -> [B, out, H, W]."""
        y = self(x.flatten(2).transpose(1, 2), w)
        return y.transpose(1, 2).unflatten(2, x.shape[2:])


class DeformationField(nn.Module):
    """Predicts where each tap of a 3x3 convolution looks and how much it counts (MTM, Yang et al. 2023).

    A modulated 3x3 convolution gives 27 channels: (dy, dx) of tap t = 3 * row + column at 2t and 2t + 1, then
    nine gates 2 * sigmoid(.). Starts as the identity: offsets zero, gates one (published code).
    """

    def __init__(self, channels: int, style_dim: int, *, demodulate: bool = True, equalized: bool = True):
        super().__init__()
        self.demodulate = demodulate
        self.weight = nn.Parameter(normal(27, channels, 3, 3))
        self.scale = nn.Parameter(torch.zeros(27))
        self.bias = nn.Parameter(torch.zeros(27))
        self._energy = Remembered(kernel_energy)
        self.style = Dense(style_dim, channels, bias_init=1.0, equalized=equalized)

    def forward(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, C, H, W], w [B, D] -> offsets [B, 18, H, W] in pixels, gates [B, 9, H, W] in (0, 2)."""
        style = self.style(w)
        if self.demodulate:
            energy = self._energy(self.weight, of=self.weight, training=self.training)
            output_scale = demodulation(energy, style, taps=9)
        else:
            output_scale = torch.full_like(style[:, :1], 1 / math.sqrt(x.shape[1] * 9))
        field = F.conv2d(x * style[:, :, None, None], self.weight, padding=1)
        field = field * (output_scale[:, :, None, None] * self.scale.view(1, 27, 1, 1))
        field = field + self.bias.view(1, 27, 1, 1)
        return field[:, :18], 2 * field[:, 18:].sigmoid()


class ModulatedConvolution(nn.Module):
    """3x3 convolution modulated by w: kernel selection, style on the input channels, demodulation, optional
    deformable sampling (`deform`) or 2x up-sampling (`upsample`), bias, leaky ReLU.

    Scaling the input by the style and the output by the demodulation factor equals scaling the kernel, and
    avoids building one kernel per sample when there is a single kernel.

    Deformable sampling together with up-sampling (the paper's form; never in the published code) filters the
    input up first and samples at the new resolution (ours).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        style_dim: int,
        *,
        kernels: int = 1,
        demodulate: bool = True,
        upsample: bool = False,
        deform: bool = False,
        clamp: float | None = None,
        equalized: bool = True,
    ):
        super().__init__()
        self.demodulate, self.upsample, self.clamp = demodulate, upsample, clamp
        self.bank = KernelBank(kernels, (out_channels, in_channels, 3, 3), style_dim, equalized=equalized)
        self.style = Dense(style_dim, in_channels, bias_init=1.0, equalized=equalized)
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.deformation = (
            DeformationField(in_channels, style_dim, demodulate=demodulate, equalized=equalized)
            if deform
            else None
        )

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x [B, in, H, W], w [B, D] -> [B, out, H, W], or [B, out, 2H, 2W] when up-sampling."""
        style, kernel = self.style(w), self.bank(w)
        gain = activation_gain("lrelu")
        output_scale = None
        if self.demodulate:
            output_scale = demodulation(self.bank.energy(kernel), style, taps=9) * gain
        else:
            style = style * (self.bank.gain * gain)
        y = self._convolve(x, style[:, :, None, None], kernel, w)
        bias = (self.bias * gain).to(y.dtype).view(1, -1, 1, 1)
        if output_scale is None:
            y = y + bias
        else:
            y = torch.addcmul(bias, y, output_scale.to(y.dtype)[:, :, None, None])
        y = piecewise.leaky_relu(y)
        return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)

    def _convolve(self, x: Tensor, style: Tensor, kernel: Tensor, w: Tensor) -> Tensor:
        if self.deformation is not None:
            if self.upsample:
                x = upsample_fir(x)
            columns = deformable_columns(x * style, *self.deformation(x, w))
            return convolve_columns(columns, kernel).unflatten(2, x.shape[2:])
        if self.upsample:
            return filter_after_transposed_convolution(convolve_up(x * style, kernel))
        return convolve(x * style, kernel)
