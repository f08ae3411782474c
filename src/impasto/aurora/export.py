"""A generator as one graph: torch.export (.pt2) or ONNX (.onnx), checked against the model it came from.

Shapes are fixed: so many pictures, so many tokens. Text features are an input, so the text encoder stays
outside, as does noise. In the graph every expert computes every point and a mask picks, which costs as many
times the experts' part as there are experts, and is the same bit by bit: no graph format has a matmul whose
groups depend on data.
"""

from __future__ import annotations

import copy
import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from impasto.aurora.generator import Generator
from impasto.aurora.pipeline import AuroraPipeline
from impasto.config import ConfigError, first_line
from impasto.nn.moe import Experts, GroupedMethod, SparseFeedForward
from impasto.runtime.files import atomic_path

INPUTS = ("z", "text_tokens", "eot_index", "text_mask")
SUFFIXES = (".pt2", ".onnx")
CHECKED = ("a red circle", "a blue square on a gray background", "a green triangle", "x")
TOLERANCE = 1e-3  # of pictures in about [-1, 1]: an eighth of a level of 255

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


class DenseExperts(nn.Module):
    """The same experts, each on all tokens; a token takes its own's result."""

    def __init__(self, experts: Experts):
        super().__init__()
        self.experts = experts

    @property
    def count(self) -> int:
        return self.experts.count

    def forward(self, x: Tensor, expert_index: Tensor, method: GroupedMethod | None = None) -> Tensor:
        """x [T, C], expert_index [T] -> [T, C]."""
        own, y = self.experts, torch.zeros_like(x)
        for expert in range(own.count):
            hidden = torch.addmm(own.bias_in[expert], x, own.weight_in[expert].t(), alpha=own.gain_in)
            hidden = own.activate(hidden)
            of_all = torch.addmm(own.bias_out[expert], hidden, own.weight_out[expert].t(), alpha=own.gain_out)
            y = torch.where((expert_index == expert)[:, None], of_all, y)
        return y


class Drawing(nn.Module):
    """z [B, Z], text_tokens [B, T, C], eot_index [B], text_mask [B, T] -> image [B, 3, R, R], untruncated."""

    def __init__(self, generator: Generator):
        super().__init__()
        self.generator = copy.deepcopy(generator).eval().requires_grad_(False)
        for module in self.generator.modules():
            if isinstance(module, SparseFeedForward):
                module.experts = DenseExperts(module.experts)  # type: ignore[assignment]

    def forward(self, z: Tensor, text_tokens: Tensor, eot_index: Tensor, text_mask: Tensor) -> Tensor:
        """Shapes as above."""
        return self.generator(z, text_tokens, eot_index, text_mask).image


@dataclass(frozen=True)
class Exported:
    """What was written: the largest difference from the model, over pictures that the graph was not made
    with, in units of pixels from -1 to 1."""

    path: Path
    batch: int
    tokens: int
    difference: float


def export(pipe: AuroraPipeline, path: Path, *, batch: int = 1, tokens: int = 32) -> Exported:
    """Write the generator of a pipeline in fp32 on the CPU and check it. Raises ConfigError for another
    suffix, for sizes below what they may be, where the libraries of ONNX are absent, and, leaving nothing
    behind, where the graph does not draw what the model draws."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path} should end in .pt2 (torch.export) or .onnx")
    if batch < 1 or tokens < 3:
        raise ConfigError("batch should be at least 1 and tokens at least 3")
    if pipe.device.type != "cpu" or next(pipe.generator.parameters()).dtype != torch.float32:
        raise ConfigError("export takes a model in float32 on the CPU")
    if not pipe.config.generator.attention.mask_padding:
        tokens = pipe.encoder.encode([CHECKED[0]]).tokens.shape[1]  # padding would be read
    example = inputs_for(pipe, ["a picture"] * batch, list(range(batch)), tokens)
    with torch.no_grad(), atomic_path(path) as temporary:
        graph = torch.export.export(Drawing(pipe.generator), example)
        write = _write_pt2 if path.suffix == ".pt2" else _write_onnx
        run = write(graph, temporary)
        difference = parity(pipe, run, batch, tokens)
        if not difference < TOLERANCE:
            raise ConfigError(
                f"{path}: the graph is {difference:.2g} away from the model; nothing was written"
            )
    return Exported(path, batch, tokens, difference)


@torch.no_grad()
def parity(pipe: AuroraPipeline, run: Callable[[Inputs], Tensor], batch: int, tokens: int) -> float:
    """The largest difference of a graph's pictures from the model's."""
    largest = 0.0
    for start in range(0, len(CHECKED), batch):
        prompts = [CHECKED[(start + n) % len(CHECKED)] for n in range(batch)]
        seeds = [100 + start + n for n in range(batch)]
        expected = pipe.generate(prompts, seed=seeds, batch_size=batch).images
        actual = run(inputs_for(pipe, prompts, seeds, tokens))
        largest = max(largest, float((actual - expected).abs().max()))
    return largest


@torch.no_grad()
def inputs_for(pipe: AuroraPipeline, prompts: Sequence[str], seeds: Sequence[int], tokens: int) -> Inputs:
    """What a graph of so many tokens is given. ConfigError for a prompt of more."""
    features = pipe.encoder.encode(list(prompts))
    more = tokens - features.tokens.shape[1]
    if more < 0:
        raise ConfigError(f"a prompt has {features.tokens.shape[1]} tokens; the graph takes {tokens}")
    text = torch.nn.functional.pad(features.tokens, (0, 0, 0, more))
    mask = torch.nn.functional.pad(features.mask, (0, more))
    return pipe.noise(seeds), text, features.eot_index, mask


def _write_pt2(graph: Any, path: Path) -> Callable[[Inputs], Tensor]:
    file = io.BytesIO()
    torch.export.save(graph, file)
    path.write_bytes(file.getvalue())
    module = torch.export.load(io.BytesIO(path.read_bytes())).module()
    return lambda inputs: module(*inputs)


def _write_onnx(graph: Any, path: Path) -> Callable[[Inputs], Tensor]:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{first_line(error)}; run: pip install 'impasto[onnx]'") from None
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, which we do not use
    program = torch.onnx.export(
        graph, dynamo=True, verbose=False, input_names=list(INPUTS), output_names=["image"]
    )
    assert program is not None
    program.save(str(path), external_data=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(inputs: Inputs) -> Tensor:
        given = {name: value.numpy() for name, value in zip(INPUTS, inputs, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])

    return run
