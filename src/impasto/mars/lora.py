"""Low-rank adapters on the visual expert (option; ours, with `peft`): less to train and to keep.

The linear layers of the visual expert stay as they start, and each gets a trained product of two thin
matrices, the second of which starts at zero. New embedding and output rows, and visual norms where there are
any, train as without adapters.
"""

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from impasto.config import ConfigError
from impasto.mars.convert import digest_of, load_state, visual_state
from impasto.mars.initial import empty_model
from impasto.mars.semvie import MarsModel, is_visual, train_only

ADAPTER, BASE = "default", "base_layer"  # peft's name of the only adapter, and of what it wraps


def add_adapters(model: MarsModel, rank: int, alpha: float, *, seed: int = 0) -> None:
    """Wrap every linear layer of the visual expert in place; at first the outputs are the same, bit for bit.
    alpha / rank scales the product. The same numbers for the same seed. ConfigError without `peft`."""
    if importlib.util.find_spec("peft") is None:
        raise ConfigError(
            f"training.lora_rank={rank} needs the package peft: pip install 'impasto[lora]', or leave it at 0"
        )
    from peft import LoraConfig, inject_adapter_in_model

    layers: Any = model.layers
    linear = [
        name for name, module in layers.named_modules() if isinstance(module, nn.Linear) and is_visual(name)
    ]
    config: Any = LoraConfig(r=rank, lora_alpha=alpha, target_modules=linear, lora_dropout=0.0, bias="none")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, layers, adapter_name=ADAPTER)
    train_only(model, "visual")
    for name, parameter in model.named_parameters():
        if BASE in name.split("."):
            parameter.requires_grad_(False)


def has_adapters(model: MarsModel) -> bool:
    """Whether any layer of the model is wrapped."""
    return any(BASE in name.split(".") for name, _ in model.named_parameters())


def without_adapters(model: MarsModel) -> MarsModel:
    """A plain model of the same function (to rounding) with the adapters added into their layers' weights;
    everything else shares memory with `model`, which stays as it is."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        parts = name.split(".")
        if "lora_A" in parts or "lora_B" in parts:
            continue
        tensors[".".join(part for part in parts if part != BASE)] = tensor
    with torch.no_grad():
        for name, module in model.named_modules():
            if hasattr(module, BASE):
                wrapped: Any = module
                weight = wrapped.base_layer.weight
                change = wrapped.lora_B[ADAPTER].weight @ wrapped.lora_A[ADAPTER].weight
                tensors[f"{name}.weight"] = weight + wrapped.scaling[ADAPTER] * change
    plain = empty_model(model.config)
    plain.load_state_dict(tensors, strict=True, assign=True)
    train_only(plain, "visual")
    return plain.train(model.training)


def trained_state(model: MarsModel) -> dict[str, Tensor]:
    """What a checkpoint holds, as views: every visual tensor, but with adapters not the layers that they
    wrap, which do not change."""
    return {name: tensor for name, tensor in visual_state(model).items() if BASE not in name.split(".")}


def load_trained_state(model: MarsModel, state: Mapping[str, Tensor]) -> None:
    """Give a model what `trained_state` held, in place. Raises ValueError naming the first tensor that is
    missing, unknown or of another shape; then nothing has changed."""
    load_state(trained_state(model), state)


def wrapped_fingerprint(model: MarsModel) -> str:
    """A digest of the visual weights that adapters wrap: those of the run's start."""
    return digest_of({n: tensor for n, tensor in visual_state(model).items() if BASE in n.split(".")})
