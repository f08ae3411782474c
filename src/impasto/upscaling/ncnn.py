"""Weights out of the two files of a network in ncnn's format: a text of layers, and their numbers.

The text: the number 7767517; the numbers of layers and of blobs; then a line for each layer, "type name
inputs outputs", the names of the inputs and of the outputs, and parameters "key=value". The other file, all
little-endian, in the order of the layers: for a convolution a word that says the type of its weights (0:
float32; 0x01306B47: float16, filled up to four bytes), the weights, then float32 biases; for a PReLU its
float32 slopes. No pickle anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

MAGIC, FLOAT32, FLOAT16 = "7767517", 0, 0x01306B47
OUTPUTS, KERNEL, BIAS, WEIGHTS = "0", "1", "5", "6"  # keys of a convolution's parameters; PReLU: slopes at 0


@dataclass(frozen=True)
class Layer:
    """A line of the text: its type, and its parameters by number."""

    kind: str
    parameters: dict[str, str]


def fill(network: nn.Module, stem: Path) -> None:
    """The weights of STEM.param and STEM.bin into the convolutions and PReLUs of a network, in their order.

    Raises FileNotFoundError where a file is absent, and ValueError, in one line that names the file, for one
    that is malformed, cut off, too long, or of another network.
    """
    text, numbers = stem.with_suffix(".param"), stem.with_suffix(".bin")
    ours = [module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.PReLU))]
    theirs = [layer for layer in read_layers(text) if layer.kind in ("Convolution", "PReLU")]
    if len(ours) != len(theirs):
        raise ValueError(f"{text}: {len(theirs)} layers with weights, the network has {len(ours)}")
    reader = _Reader(numbers)
    for index, (module, layer) in enumerate(zip(ours, theirs, strict=True)):
        if _expected(module) != {key: layer.parameters.get(key) for key in _expected(module)}:
            raise ValueError(f"{text}: layer {index} with weights is not the network's {module}")
        _fill_layer(module, reader)
    reader.finish()


def read_layers(path: Path) -> list[Layer]:
    """The layers of a .param file, in order. Raises FileNotFoundError where it is absent, ValueError, in one
    line, where it is malformed."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not the text of an ncnn network") from None
    if not lines or lines[0].strip() != MAGIC:
        raise ValueError(f"{path}: not an ncnn network, which begins with {MAGIC}")
    try:
        count = int(lines[1].split()[0])
        layers = [_parse(line.split()) for line in lines[2:] if line.strip()]
    except (IndexError, ValueError):
        raise ValueError(f"{path}: a line cannot be read as a layer of ncnn") from None
    if len(layers) != count:
        raise ValueError(f"{path}: {len(layers)} layers, not the {count} that it promises")
    return layers


def _parse(words: list[str]) -> Layer:
    inputs, outputs = int(words[2]), int(words[3])
    pairs = (word.split("=", 1) for word in words[4 + inputs + outputs :])
    return Layer(words[0], dict(pairs))


def _expected(module: nn.Conv2d | nn.PReLU) -> dict[str, str]:
    """What the text should say of a layer."""
    if isinstance(module, nn.PReLU):
        return {OUTPUTS: str(module.num_parameters)}
    sizes = {OUTPUTS: module.out_channels, KERNEL: module.kernel_size[0], BIAS: 1}
    return {key: str(value) for key, value in {**sizes, WEIGHTS: module.weight.numel()}.items()}


@torch.no_grad()
def _fill_layer(module: nn.Conv2d | nn.PReLU, reader: _Reader) -> None:
    if isinstance(module, nn.PReLU):
        module.weight.copy_(reader.floats(module.weight.numel()))
        return
    assert module.bias is not None
    module.weight.copy_(reader.weights(module.weight.numel()).view_as(module.weight))
    module.bias.copy_(reader.floats(module.bias.numel()))


class _Reader:
    """Goes through a .bin file."""

    def __init__(self, path: Path) -> None:
        self.path, self.position, self.data = path, 0, path.read_bytes()

    def weights(self, count: int) -> Tensor:
        """Numbers after a word that says their type."""
        kind = int(self._take("<u4", 1)[0])
        if kind == FLOAT32:
            return self.floats(count)
        if kind != FLOAT16:
            raise ValueError(f"{self.path}: weights of type {kind:#x}, neither float32 nor float16")
        return torch.from_numpy(self._take("<f2", count + count % 2)[:count].astype(np.float32))

    def floats(self, count: int) -> Tensor:
        return torch.from_numpy(self._take("<f4", count).astype(np.float32))

    def finish(self) -> None:
        if self.position != len(self.data):
            raise ValueError(
                f"{self.path}: {len(self.data)} bytes, of which the network uses {self.position}"
            )

    def _take(self, kind: str, count: int) -> np.ndarray:
        size = np.dtype(kind).itemsize * count
        if self.position + size > len(self.data):
            raise ValueError(f"{self.path}: cut off after {len(self.data)} bytes")
        found = np.frombuffer(self.data, kind, count, self.position)
        self.position += size
        return found
