"""Latents of real pictures: the divergence, whom the gradients reach, what is trained when, and resuming."""

from dataclasses import replace

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from impasto.aurora import trainer
from impasto.aurora.launch import find_run
from impasto.aurora.reconstruction import LatentEncoder, divergence, reconstruction_backward
from impasto.aurora.trainer import step
from impasto.aurora.training_state import TrainingState
from impasto.config import ConfigError
from impasto.data.scene_source import SceneSource
from impasto.runtime.checkpoint import latest_checkpoint
from impasto.runtime.dist import Ranks
from impasto.runtime.log import read_metrics
from tests.aurora.test_training import WordEncoder, fast_encoder, few_evaluations, same_checkpoint, train

_ = fast_encoder, few_evaluations  # fixtures of every test here
RECONSTRUCT = ["training.reconstruction_weight=1"]
CPU = torch.device("cpu")


def start(*settings: str) -> tuple[TrainingState, SceneSource]:
    run = find_run("aurora-debug", [*RECONSTRUCT, *settings])
    return TrainingState.fresh(run, CPU), SceneSource(16, run.data)


def advance(state: TrainingState, source: SceneSource, steps: int = 1) -> None:
    for _ in range(steps):
        step(state, source, WordEncoder(), Ranks())


def weights(network: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in network.parameters()]


def changed(network: torch.nn.Module, before: list[torch.Tensor]) -> bool:
    return any(not torch.equal(a, b) for a, b in zip(network.parameters(), before, strict=True))


def test_the_divergence_is_that_of_two_normal_distributions():
    mean, log_variance = torch.randn(5, 7), torch.randn(5, 7)
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(divergence(mean, log_variance), expected)


@pytest.mark.parametrize(("resolution", "z_dim"), [(8, 5), (16, 32), (64, 16)])
def test_the_encoder_starts_near_the_prior_at_any_size(resolution, z_dim):
    mean, log_variance = LatentEncoder(resolution, z_dim)(torch.rand(3, 3, resolution, resolution) * 2 - 1)
    assert mean.shape == log_variance.shape == (3, z_dim)
    assert divergence(mean, log_variance).mean() < 0.1 * z_dim


def test_gradients_reach_the_generator_and_the_encoder_and_match_finite_differences(monkeypatch):
    monkeypatch.setattr(trainer, "_update", lambda *_: None)
    state, source = start("training.adversarial_from=64", "training.reconstruction_divergence=0.1")
    advance(state, source)
    encoder = state.latent_encoder
    assert encoder is not None
    assert all(p.grad is None for p in state.discriminator.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in state.generator.parameters())
    weight = encoder.latent.weight
    slope = weight.grad.clone()

    def total() -> float:
        again, pictures = start("training.adversarial_from=64", "training.reconstruction_divergence=0.1")
        again.latent_encoder.load_state_dict(encoder.state_dict())
        advance(again, pictures)
        return float(
            again.means.sums["loss/reconstruction"] + 0.1 * again.means.sums["loss/latent_divergence"]
        )

    direction, small = slope / slope.norm(), 0.02
    weight.data += small * direction
    above = total()
    weight.data -= 2 * small * direction
    below = total()
    assert (above - below) / (2 * small) == pytest.approx(float(slope.norm()), rel=0.05)


def test_the_discriminator_waits_for_its_turn():
    state, source = start("training.adversarial_from=16")
    before = weights(state.discriminator)
    advance(state, source, 2)
    assert not changed(state.discriminator, before)
    assert "loss/discriminator" not in state.means.take(Ranks())
    advance(state, source)
    assert changed(state.discriminator, before)
    assert {"loss/discriminator", "loss/generator", "loss/reconstruction"} <= state.means.take(Ranks()).keys()


class StillSource:
    """The same eight pictures always."""

    def __init__(self, source: SceneSource):
        self.source = source

    def batch(self, positions):
        return self.source.batch(range(len(positions)))

    def near_misses(self, positions):
        return self.source.near_misses(range(len(positions)))


def test_pictures_are_learnt_again_from_their_latents():
    """On eight pictures the error falls to a fraction, and the latents tell them apart: exchanged ones do
    worse."""
    state, source = start(
        "training.adversarial_from=100000", "training.learning_rate=0.01",
        "training.reconstruction_divergence=0.0001", "data.categories=color",
    )  # fmt: skip
    still = StillSource(source)
    errors = []
    for _ in range(60):
        advance(state, still)
        errors.append(state.means.take(Ranks())["error/reconstruction"])
    assert errors[-1] < 0.4 * errors[0]
    (batch,) = trainer._micro_batches(state, still, WordEncoder(), Ranks())
    exchanged = state.latent_encoder(batch.images.roll(1, 0))

    def error(encoder) -> float:
        drawn = replace(batch, random=torch.Generator().manual_seed(0))
        values, _ = reconstruction_backward(encoder, state.generator, drawn, state.run, share=1.0)
        return float(values["error/reconstruction"])

    assert error(lambda _: exchanged) > 1.2 * error(state.latent_encoder)


def test_accumulated_micro_batches_give_the_gradient_of_the_whole_batch(monkeypatch):
    monkeypatch.setattr(trainer, "_update", lambda *_: None)
    gradients = []
    for settings in ([], ["training.micro_batch=4"]):
        state, source = start("training.adversarial_from=64", *settings)
        with monkeypatch.context() as patch:  # the latents' noise is drawn pass by pass
            patch.setattr("torch.randn", lambda *shape, **_: torch.zeros(*shape))
            advance(state, source)
        gradients.append([p.grad for p in state.latent_encoder.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    """The checkpoint of the first half is written at the turn to the adversarial losses."""
    settings = [*RECONSTRUCT, "training.adversarial_from=16"]
    train(tmp_path / "whole", *settings)
    train(tmp_path / "parts", *settings, "training.images=16")
    train(tmp_path / "parts", *settings)
    same_checkpoint(*(latest_checkpoint(tmp_path / name) for name in ("whole", "parts")))
    rows = read_metrics(tmp_path / "whole" / "metrics.jsonl")
    assert all("loss/reconstruction" in row for row in rows if not any(k.startswith("score") for k in row))
    assert ["loss/generator" in row for row in rows if "loss/reconstruction" in row] == [False, True]
    # Another run takes up the encoder too.
    train(tmp_path / "next", *settings, init_from=str(tmp_path / "whole"))


def test_something_has_to_train():
    with pytest.raises(ConfigError, match=r"needs training\.reconstruction_weight"):
        find_run("aurora-debug", ["training.adversarial_from=8"])
