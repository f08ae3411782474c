"""Two processes on half a batch each compute what one does on the whole."""

import sys
from pathlib import Path

import pytest
import torch

from impasto.runtime.dist import Ranks, RanksError
from tests.runtime.start_ranks import run_ranks
from tests.runtime.two_ranks import Network, batch

SCRIPT = Path(__file__).with_name("two_ranks.py")


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    path = tmp_path_factory.mktemp("ranks") / "reports.pt"
    run_ranks([sys.executable, str(SCRIPT), str(path)], 2, timeout=60)
    return torch.load(path, weights_only=True)


def test_averaged_gradients_are_those_of_the_whole_batch(reports):
    network = Network(seed=0)
    loss = network(batch(), 0)
    loss.backward()
    expected = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    for report in reports:
        assert report["gradients"].keys() == expected.keys()
        for name, gradient in expected.items():
            tolerance = 0.02 if gradient.dtype == torch.bfloat16 else 1e-6
            torch.testing.assert_close(report["gradients"][name], gradient, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(report["loss"], loss.detach())
        assert report["any"] == [True, False]


def test_ranks_agree_bit_for_bit_also_on_unused_parameters(reports):
    first, second = reports
    assert (first["rank"], second["rank"]) == (0, 1)
    assert (first["was_none"], second["was_none"]) == (False, True)
    assert "sometimes.weight" in second["gradients"] and "never.weight" not in first["gradients"]
    for kind in ("gradients", "weights"):
        assert first[kind].keys() == second[kind].keys()
        assert all(torch.equal(tensor, second[kind][name]) for name, tensor in first[kind].items())


def test_one_process_needs_no_group():
    ranks = Ranks.from_environment("cpu", {})
    assert ranks.is_main and ranks.world_size == 1 and ranks.device == torch.device("cpu")
    network = Network(seed=0)
    network(batch(), 0).backward()
    before = network.first.weight.grad
    kept = before.clone()
    ranks.all_reduce_gradients(network.parameters())
    assert network.first.weight.grad is before and torch.equal(before, kept)
    assert network.never.weight.grad is None
    assert ranks.gather_objects("x") == ["x"] and ranks.any(True) and not ranks.any(False)
    assert torch.equal(ranks.mean_across_ranks(kept), kept)
    ranks.broadcast(network.parameters())
    ranks.barrier()
    ranks.close()
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, "use torchrun"),
        ({"WORLD_SIZE": "two"}, "use torchrun"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK=2 is not below WORLD_SIZE=2"),
    ],
)
def test_half_an_environment_is_an_error(environment, message):
    with pytest.raises(RanksError, match=message):
        Ranks.from_environment("cpu", environment)


def test_a_group_that_cannot_form_is_an_error():
    with pytest.raises(RanksError, match=r"the 2 processes cannot connect: .*MASTER_ADDR"):
        Ranks(rank=0, world_size=2).barrier()
