"""What a run would take, against the same passes made for real."""

from dataclasses import replace

import pytest
import torch

from impasto.aurora.discriminator import Discriminator
from impasto.aurora.generator import Generator
from impasto.aurora.launch import find_run
from impasto.aurora.training_cost import TrainingCost, project, training_cost
from impasto.cli import main
from impasto.config import ConfigError
from impasto.runtime.estimate import Machine


@pytest.fixture(scope="module")
def cost() -> TrainingCost:
    return training_cost(find_run("aurora-debug", []))


def test_parameters_are_those_of_the_networks(cost):
    run = find_run("aurora-debug", [])
    built = {"generator": Generator(run.model.generator), "discriminator": Discriminator(run.discriminator)}
    assert cost.parameters == {k: sum(p.numel() for p in net.parameters()) for k, net in built.items()}
    both = sum(cost.parameters.values())
    assert cost.kept_bytes >= 4 * (3 * both + cost.parameters["generator"])


def test_a_step_costs_more_than_three_passes_of_the_generator_and_the_penalty_costs_something(cost):
    from impasto.aurora.analysis import measure

    forward = measure(find_run("aurora-debug", []).model).flops
    assert cost.step_flops > 3 * forward
    assert 0 < cost.penalty_flops < cost.step_flops
    assert cost.flops == cost.step_flops + cost.penalty_flops / 4


def test_activations_computed_again_need_less_memory_and_more_operations(cost):
    again = training_cost(find_run("aurora-debug", ["training.recompute_activations=true"]))
    assert again.picture_bytes < 0.95 * cost.picture_bytes
    assert 1.05 * cost.step_flops < again.step_flops < 1.5 * cost.step_flops


def test_a_projection_adds_up(cost):
    run = replace(cost.run, training=replace(cost.run.training, batch=8))
    found = project(replace(cost, run=run), Machine(ranks=4, teraflops=2.0, utilisation=0.5, bandwidth=1.0))
    assert found.computing == pytest.approx(2 * cost.flops / 1e12)
    assert found.exchanging == pytest.approx(1.5 * 4 * sum(cost.parameters.values()) / 1e9)
    assert found.days == pytest.approx(run.training.images / 8 * (found.computing + found.exchanging) / 86400)
    assert found.at_once == 2
    with pytest.raises(ConfigError, match="does not divide among --ranks 3"):
        project(cost, Machine(ranks=3))


def test_the_verb_tells_its_assumptions_and_refuses_nonsense(capsys):
    assert main(["estimate", "aurora-debug", "--ranks", "2", "--memory", "0.0001"]) == 0
    printed = capsys.readouterr().out
    assert "Assumed: 2 devices of 156 TFLOP/s used to 30%" in printed and "GB hold 0" in printed
    for wrong in (["--utilisation", "2"], ["--ranks", "0"], ["--bandwidth", "nan"]):
        assert main(["estimate", "aurora-debug", *wrong]) == 2
        assert wrong[0] in capsys.readouterr().err
    assert main(["estimate", "mars-nano/language"]) == 2
    assert "'mars-nano/language' is not estimated" in capsys.readouterr().err
    assert torch.get_default_dtype() == torch.float32


def test_the_run_of_the_papers_scale_is_what_its_page_says():
    run = find_run("aurora-64-256gpu", [])
    assert run.growing.schedule == "reference" and run.growing.first == 4
    assert run.guidance.clip_model and run.training.batch % 256 == 0
