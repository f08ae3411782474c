"""The average equals its closed form."""

import pytest
import torch
from torch import nn

from impasto.runtime.checkpoint import CheckpointError
from impasto.runtime.ema import AverageByImages


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def change(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter))
        module[1].running_mean.add_(1)
        module[1].num_batches_tracked.add_(1)


def closed_form(values, first, batches, half_life, ramp_up):
    """Sum of weight * value in float64: the weight of update i is (1 - d_i) times all later d."""
    decays, seen = [], 0
    for batch in batches:
        memory = half_life if ramp_up is None else min(half_life, ramp_up * seen)
        decays.append(2.0 ** (-batch / memory) if memory else 0.0)
        seen += batch
    total, later = torch.zeros_like(first, dtype=torch.float64), 1.0
    for value, decay in zip(reversed(values), reversed(decays), strict=True):
        total += later * (1 - decay) * value.double()
        later *= decay
    return total + later * first.double()


@pytest.mark.parametrize("ramp_up", [0.05, 0.5, None])
def test_it_equals_its_closed_form(ramp_up):
    module, half_life = network(), 400.0
    average = AverageByImages(module, half_life, ramp_up)
    first = {name: p.detach().clone() for name, p in module.named_parameters()}
    history = {name: [] for name in first}
    batches = [8, 16, 4, 32] * 10 + [64] * 30  # ramp_up 0.5 ends at 800 images, 0.05 at 8000
    seen = 0
    for batch in batches:
        change(module)
        average.update(module, batch, seen)
        seen += batch
        for name, parameter in module.named_parameters():
            history[name].append(parameter.detach().clone())
    for name, values in history.items():
        expected = closed_form(values, first[name], batches, half_life, ramp_up)
        torch.testing.assert_close(average.state_dict()[name].double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(average.state_dict()["1.running_mean"], module[1].running_mean)
    assert average.state_dict()["1.num_batches_tracked"].item() == len(batches)


def test_the_half_life_is_what_it_says():
    average = AverageByImages({"w": torch.zeros(1)}, 1000, ramp_up=None)
    for seen in range(0, 1000, 50):
        average.update({"w": torch.ones(1)}, 50, seen)
    assert average.state_dict()["w"].item() == pytest.approx(0.5, abs=1e-6)
    assert average.decay(32, 0) == 0.5 ** (32 / 1000)
    ramped = AverageByImages({"w": torch.zeros(1)}, 1000)
    assert ramped.decay(32, 0) == 0.0  # the first weights are copied
    assert ramped.decay(32, 320) == 0.5 ** (32 / 16)
    assert ramped.decay(32, 10**6) == 0.5 ** (32 / 1000)


def test_accumulation_and_ranks_count_as_one_batch():
    """Four rounds of 8 images before one optimiser step are one update by 32, not four by 8."""
    torch.manual_seed(0)
    data = torch.randn(5, 32, 3)

    def train(rounds):
        torch.manual_seed(1)
        module = nn.Linear(3, 2).double()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        average = AverageByImages(module, 200)
        for index, batch in enumerate(data.double()):
            optimizer.zero_grad()
            for part in batch.chunk(rounds):
                (module(part).square().mean() / rounds).backward()
            optimizer.step()
            average.update(module, 32, 32 * index)
        return average.state_dict()

    whole, accumulated = train(1), train(4)
    assert whole["weight"].dtype == torch.float64
    for name in whole:
        torch.testing.assert_close(accumulated[name], whole[name], rtol=1e-12, atol=1e-12)


def test_bfloat16_weights_are_averaged_in_float32():
    module = nn.Linear(4, 4).bfloat16()
    average = AverageByImages(module, 10_000, None)
    with torch.no_grad():
        module.weight.add_(1)
    before = average.state_dict()["weight"].clone()
    average.update(module, 10, 0)
    moved = average.state_dict()["weight"] - before
    assert moved.dtype == torch.float32
    torch.testing.assert_close(
        moved, (1 - 0.5**0.001) * (module.weight.float() - before), rtol=1e-3, atol=1e-6
    )
    copy = nn.Linear(4, 4).bfloat16()
    average.copy_to(copy)
    assert torch.equal(copy.weight, average.state_dict()["weight"].bfloat16())


def test_it_continues_bit_for_bit_and_grows():
    module = network()
    average = AverageByImages(module, 100)
    change(module)
    average.update(module, 8, 0)
    saved = {name: tensor.clone() for name, tensor in average.state_dict().items()}
    resumed = AverageByImages(network(), 100)
    assert resumed.load_state_dict(saved) == []
    for seen in (8, 16):
        change(module)
        average.update(module, 8, seen)
        resumed.update(module, 8, seen)
    assert all(torch.equal(a, resumed.state_dict()[n]) for n, a in average.state_dict().items())
    target = network()
    average.copy_to(target)
    assert all(torch.equal(a, target.state_dict()[n]) for n, a in average.state_dict().items())

    larger = nn.Sequential(*network(), nn.Linear(2, 2))
    grown = AverageByImages(larger, 100)
    assert grown.load_state_dict(saved) == ["3.weight", "3.bias"]
    assert torch.equal(grown.state_dict()["3.weight"], larger[3].weight)
    with pytest.raises(ValueError, match=r"'3.bias' changed"):
        average.update(larger, 8, 24)
    with pytest.raises(ValueError, match=r"'3.bias' is not in both"):
        average.copy_to(larger)
    with pytest.raises(CheckpointError, match=r"'0.weight' has shape \(1,\), the model \(4, 3\)"):
        average.load_state_dict({**saved, "0.weight": torch.zeros(1)})


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="half_life_images=0"):
        AverageByImages(network(), 0)
