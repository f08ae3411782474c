"""Small models and batches that several tests share."""

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from impasto.mars.config import LanguageConfig, MarsConfig, VisualConfig
from impasto.mars.initial import new_model, start_visual_from_language
from impasto.mars.semvie import MarsModel

SHAPE = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
CODES, GRID = 32, 3
LENGTH = GRID * GRID


def tiny_config(**visual: Any) -> MarsConfig:
    language = LanguageConfig(
        vocabulary=96,
        width=48,
        layers=3,
        heads=6,
        key_value_heads=2,
        head_dim=8,
        feed_forward=80,
        tied_head=False,
        context=128,
        end_of_text=0,
    )
    return MarsConfig(language=language, visual=VisualConfig(codes=CODES, **visual), grids=(GRID, 2))


def tiny_model(*, apart: bool = True, seed: int = 0, **visual: Any) -> MarsModel:
    """A model of large weights, so that nothing is hidden by small numbers. apart: the visual weights moved
    away from the copies they start as."""
    model = new_model(tiny_config(**visual), seed=seed)
    scatter(model, 0.15, seed)
    if apart:
        scatter(model.visual, 0.2, seed + 1)
        for layer in model.layers:
            scatter(layer.visual, 0.1, seed + 2)
    else:
        start_visual_from_language(model, seed=seed)
    return model


@torch.no_grad()
def scatter(module: torch.nn.Module, deviation: float, seed: int) -> None:
    """Add noise to every parameter, biases and norms included."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.add_(deviation * torch.randn(parameter.shape, generator=generator))


def hf_model(family: str, **changes: Any) -> Qwen2ForCausalLM | LlamaForCausalLM:
    """A random causal language model of transformers, every parameter off its initial value."""
    kinds = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}
    config_kind, model_kind = kinds[family]
    model = model_kind(config_kind(**(SHAPE | changes))).eval()
    scatter(model, 0.15, 3)
    return model


def captions() -> list[list[int]]:
    """Texts of several lengths, the empty one among them."""
    return [[5, 6, 7], [8, 9, 10, 11, 12], [], [3]]


def random_codes(batch: int, seed: int = 0, length: int = LENGTH) -> torch.Tensor:
    return torch.randint(0, CODES, (batch, length), generator=torch.Generator().manual_seed(seed))
