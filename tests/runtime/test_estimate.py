"""Operations and live memory without allocation."""

import torch
from torch import nn

from impasto.nn.modules import run_part
from impasto.runtime.estimate import memory_of, operations_of, parameter_bytes


def test_operations_and_peak_of_a_known_call():
    with torch.device("meta"):
        layer, x = nn.Linear(64, 128, bias=False).requires_grad_(False), torch.empty(32, 64)

    def call():
        y = layer(x)  # 32 * 128 * 4 bytes
        y = y.relu()  # the same again, while the first is alive
        return y.sum()

    assert operations_of(call) == 2 * 32 * 64 * 128
    assert memory_of(call).peak_bytes == 2 * 32 * 128 * 4
    assert parameter_bytes(layer) == 64 * 128 * 4


def test_backward_keeps_activations_and_makes_gradients():
    with torch.device("meta"):
        layer, x = nn.Linear(64, 128, bias=False), torch.empty(32, 64)
    cost = memory_of(lambda: layer(x).square().sum(), backward=True)
    assert operations_of(lambda: layer(x).square().sum().backward()) >= 2 * 2 * 32 * 64 * 128
    assert cost.kept_bytes >= 32 * 128 * 4
    assert cost.peak_bytes >= cost.kept_bytes + 64 * 128 * 4


def test_activations_computed_again_are_alive_a_part_at_a_time():
    with torch.device("meta"):
        parts = [nn.Sequential(*(nn.Linear(64, 64) for _ in range(10))) for _ in range(10)]
        x = torch.empty(5000, 64)
    one = 5000 * 64 * 4

    def call(recompute):
        y = x
        for part in parts:
            y = run_part(part, y, recompute=recompute)
        return y.sum()

    assert memory_of(lambda: call(False), backward=True).peak_bytes > 99 * one
    assert memory_of(lambda: call(True), backward=True).peak_bytes < 30 * one
