"""Operations and live memory without allocation."""

import torch
from torch import nn

from impasto.runtime.estimate import cost_of, parameter_bytes


def test_operations_and_peak_of_a_known_call():
    with torch.device("meta"):
        layer, x = nn.Linear(64, 128, bias=False).requires_grad_(False), torch.empty(32, 64)

    def call():
        y = layer(x)  # 32 * 128 * 4 bytes
        y = y.relu()  # the same again, while the first is alive
        return y.sum()

    cost = cost_of(call)
    assert cost.flops == 2 * 32 * 64 * 128
    assert cost.peak_bytes == 2 * 32 * 128 * 4
    assert parameter_bytes(layer) == 64 * 128 * 4


def test_backward_keeps_activations_and_makes_gradients():
    with torch.device("meta"):
        layer, x = nn.Linear(64, 128, bias=False), torch.empty(32, 64)
    cost = cost_of(lambda: layer(x).square().sum(), backward=True)
    assert cost.flops >= 2 * 2 * 32 * 64 * 128
    assert cost.kept_bytes >= 32 * 128 * 4
    assert cost.peak_bytes >= cost.kept_bytes + 64 * 128 * 4
