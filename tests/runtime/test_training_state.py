"""Optimisers and random numbers continue bit for bit."""

import pytest
import torch
from torch import nn

from impasto.runtime.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from impasto.runtime.training_state import (
    load_optimizer,
    optimizer_tensors,
)


def network(width=8, grown=False):
    torch.manual_seed(1)
    layers = {"first": nn.Linear(4, width), "last": nn.Linear(width, 2), "unused": nn.Linear(2, 2)}
    if grown:
        layers = {"grown": nn.Linear(4, 4), **layers}
    return nn.ModuleDict(layers)


def adamw(module, **options):
    decayed = [p for p in module.parameters() if p.ndim > 1]
    other = [p for p in module.parameters() if p.ndim == 1]
    groups = [{"params": other, "weight_decay": 0.0, "lr": 0.02}, {"params": decayed}]
    return torch.optim.AdamW(groups, lr=0.01, betas=(0.0, 0.99), **options)


def step(module, optimizer, seed):
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    x = module["grown"](x) if "grown" in module else x
    module["last"](module["first"](x).relu()).square().mean().backward()
    optimizer.step()


def through_disk(tmp_path, module, optimizer):
    tensors, saved = optimizer_tensors(optimizer, module.named_parameters())
    path = save_checkpoint(tmp_path, 1, {"weights": module.state_dict(), "o": tensors}, {"o": saved})
    loaded, state = load_checkpoint(path)
    return loaded["weights"], loaded["o"], state["o"]


@pytest.mark.parametrize("options", [{}, {"fused": True}, {"amsgrad": True}, {"foreach": True}])
def test_adamw_resumed_equals_adamw_uninterrupted(tmp_path, options):
    module = network()
    optimizer = adamw(module, **options)
    for seed in range(5):
        step(module, optimizer, seed)
    optimizer.param_groups[0]["lr"] = 0.005  # a schedule was at work
    weights, tensors, saved = through_disk(tmp_path, module, optimizer)

    resumed = network()
    resumed.load_state_dict(weights)
    fresh = adamw(resumed, **options)
    assert load_optimizer(fresh, resumed.named_parameters(), tensors, saved) == ([], [])
    assert fresh.param_groups[0]["lr"] == 0.005 and fresh.param_groups[0]["betas"] == (0.0, 0.99)
    assert fresh.state[resumed["first"].weight]["step"].item() == 5
    for seed in range(5, 10):
        step(module, optimizer, seed)
        step(resumed, fresh, seed)
    for (name, a), b in zip(module.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b), name
        left, right = optimizer.state.get(a, {}), fresh.state.get(b, {})
        assert left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)
    assert "exp_avg/unused.weight" not in tensors  # it never had a gradient, and still has no state


def test_other_optimisers_keep_their_plain_values(tmp_path):
    module = network()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    step(module, optimizer, 0)
    _, tensors, saved = through_disk(tmp_path, module, optimizer)
    fresh = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    load_optimizer(fresh, module.named_parameters(), tensors, saved)
    momentum = optimizer.state[module["last"].bias]["momentum_buffer"]
    assert torch.equal(fresh.state[module["last"].bias]["momentum_buffer"], momentum)


def test_a_grown_network_keeps_the_state_of_its_old_layers(tmp_path):
    module = network()
    optimizer = adamw(module)
    for seed in range(3):
        step(module, optimizer, seed)
    _, tensors, saved = through_disk(tmp_path, module, optimizer)

    grown = network(grown=True)
    fresh = adamw(grown)
    result = load_optimizer(fresh, grown.named_parameters(), tensors, saved, options=False)
    assert result.fresh == ["grown.bias", "grown.weight"] and result.unused == []
    assert fresh.param_groups[0]["lr"] == 0.02
    old, new = optimizer.state[module["first"].weight], fresh.state[grown["first"].weight]
    assert all(torch.equal(old[key], new[key]) for key in ("step", "exp_avg", "exp_avg_sq"))
    step(grown, fresh, 3)
    assert fresh.state[grown["grown"].weight]["step"].item() == 1
    assert fresh.state[grown["first"].weight]["step"].item() == 4

    tensors, saved = optimizer_tensors(fresh, grown.named_parameters())
    result = load_optimizer(adamw(module), module.named_parameters(), tensors, saved)
    assert result == ([], ["grown.bias", "grown.weight"])


def test_a_parameter_of_another_shape_or_without_a_name_is_an_error():
    module, wider = network(), network(width=16)
    tensors, saved = optimizer_tensors(adamw(module), module.named_parameters())
    with pytest.raises(CheckpointError, match=r"'first.bias' has shape \(8,\), the model \(16,\)"):
        load_optimizer(adamw(wider), wider.named_parameters(), tensors, saved)
    with pytest.raises(ValueError, match="has no name"):
        optimizer_tensors(adamw(module), wider.named_parameters())
