"""Weights in 8 bit for drawing (option; ours, with `torchao`): a quarter of the bytes of fp32.

Only weights are rounded, one scale an output row; products stay in the type of the activations. Tables, norms
and output rows stay as they are: pictures are drawn from their logits.
"""

import importlib.util

from torch import nn

from impasto.config import ConfigError
from impasto.mars.semvie import MarsModel


def quantise_int8(model: MarsModel) -> MarsModel:
    """Round the linear layers of both experts in place, and return the model: for decoding alone, it cannot
    be trained or saved afterwards. ConfigError without `torchao`, ValueError for a model with adapters."""
    if importlib.util.find_spec("torchao") is None:
        raise ConfigError("int8 weights need the package torchao: pip install 'impasto[int8]'")
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    if any("base_layer" in name.split(".") for name, _ in model.named_parameters()):
        raise ValueError("merge the adapters before quantising: without_adapters(model)")
    model.requires_grad_(False)
    quantize_(model.layers, Int8WeightOnlyConfig(), filter_fn=lambda module, _: type(module) is nn.Linear)
    return model.eval()
