"""Training the tokenizer: it learns, stops and resumes bit for bit, and survives what goes wrong."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from impasto.config import ConfigError, from_dict, override, to_dict
from impasto.data.scene_source import SceneOptions, SceneSource
from impasto.mars import vq_training
from impasto.mars.extraction import extract_codes
from impasto.mars.vq import VQConfig
from impasto.mars.vq_losses import ObjectiveConfig, PatchDiscriminatorConfig
from impasto.mars.vq_runs import TokenizerRun, TokenizerTraining, vq_16_run, vq_nano_32_run
from impasto.mars.vq_state import TokenizerState
from impasto.mars.vq_training import step, train_tokenizer
from impasto.runtime.checkpoint import CheckpointError, latest_checkpoint, load_checkpoint
from impasto.runtime.dist import Ranks
from impasto.runtime.guards import Deadline, Graceful, NonFiniteError

from .test_vq_losses import SmallNetwork

CPU = torch.device("cpu")
RUN = TokenizerRun(
    resolution=8,
    model=VQConfig(
        channels=(8, 8), blocks=1, attention_levels=(), norm_groups=4, latent_channels=8, codes=24, code_dim=4
    ),
    discriminator=PatchDiscriminatorConfig(channels=8, layers=1),
    training=TokenizerTraining(
        images=48,
        batch=4,
        learning_rate=3e-3,
        warm_up=8,
        final_rate=0.1,
        objective=ObjectiveConfig(adversarial_from=16),
        revive_every=8,
        revive_after=8,
        log_every=8,
        sample_every=24,
        checkpoint_every=24,
    ),
)


class Patches:
    """One of eight colours in each corner."""

    def batch(self, positions):
        images = torch.zeros(len(positions), 3, 8, 8)
        for row, position in enumerate(positions):
            corners = (
                torch.randint(0, 2, (3, 2, 2), generator=torch.Generator().manual_seed(position)) * 1.6 - 0.8
            )
            images[row] = corners.repeat_interleave(4, 1).repeat_interleave(4, 2)
        return images, [f"picture {position}" for position in positions]


class Flat:
    """Pictures of one colour of eight."""

    def batch(self, positions):
        colours = torch.tensor([[p * 5 % 8 >> axis & 1 for axis in range(3)] for p in positions])
        images = (colours * 1.6 - 0.8)[:, :, None, None].expand(-1, 3, 8, 8).contiguous()
        return images, [str(position) for position in positions]


class Broken(Patches):
    def batch(self, positions):
        images, captions = super().batch(positions)
        return images * float("nan"), captions


class Notes:
    """A recorder that writes checkpoints and keeps the rest."""

    def __init__(self, out: Path, stop_at: int = -1, stop: Graceful | None = None):
        self.out, self.stop_at, self.stop = out, stop_at, stop
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.sampled: list[int] = []

    def metrics(self, state, values, seconds):
        self.lines.append((state.images, values))

    def samples(self, state):
        self.sampled.append(state.images)

    def checkpoint(self, state):
        state.save(self.out, {})

    def tick(self, images):
        if images == self.stop_at and self.stop is not None:
            self.stop.requested, self.stop.reason = True, "SIGTERM"


def train(
    out: Path, run: TokenizerRun = RUN, stop_at: int = -1, source=None
) -> tuple[str, Notes, TokenizerState]:
    state, stop = TokenizerState.fresh(run, CPU), Graceful()
    checkpoint = latest_checkpoint(out)
    if checkpoint is not None:
        state.restore(checkpoint)
    notes = Notes(out, stop_at, stop)
    reason = train_tokenizer(
        state, source or Patches(), notes, ranks=Ranks(), deadline=Deadline(None), stop=stop,
        perceptual=SmallNetwork(),
    )  # fmt: skip
    return reason, notes, state


def changed(**training) -> TokenizerRun:
    return dataclasses.replace(RUN, training=dataclasses.replace(RUN.training, **training))


def same_checkpoint(a: Path, b: Path) -> None:
    (tensors_a, state_a), (tensors_b, state_b) = load_checkpoint(a), load_checkpoint(b)
    assert state_a == state_b and tensors_a.keys() == tensors_b.keys()
    for name, group in tensors_a.items():
        assert group.keys() == tensors_b[name].keys()
        for key, tensor in group.items():
            assert torch.equal(tensor, tensors_b[name][key]), (name, key)


def test_a_run_logs_everything_by_its_full_name(tmp_path):
    reason, notes, state = train(tmp_path)
    assert reason == "finished" and state.images == 48
    assert [images for images, _ in notes.lines] == [8, 16, 24, 32, 40, 48]
    assert notes.sampled == [0, 24, 48]
    always = {
        "loss/reconstruction", "loss/perceptual", "loss/codebook", "loss/commitment", "loss/tokenizer",
        "codes/used", "codes/perplexity", "codes/revived", "quality/psnr", "gradient/tokenizer",
        "nonfinite/tokenizer",
    }  # fmt: skip
    assert notes.lines[0][1].keys() == always
    assert notes.lines[-1][1].keys() == always | {
        "loss/adversarial", "weight/adversarial", "loss/discriminator", "loss/discriminator_real",
        "loss/discriminator_fake", "logit/real", "logit/fake", "gradient/discriminator",
        "nonfinite/discriminator",
    }  # fmt: skip
    assert any(values["codes/revived"] > 0 for _, values in notes.lines)
    for _, values in notes.lines:
        assert 1 <= values["codes/perplexity"] <= values["codes/used"] <= 24


def test_it_learns(tmp_path):
    run = changed(
        images=384,
        batch=8,
        log_every=96,
        sample_every=384,
        checkpoint_every=384,
        revive_every=32,
        revive_after=64,
        objective=ObjectiveConfig(perceptual_weight=0.0, adversarial_weight=0.0),
    )
    _, notes, _ = train(tmp_path, run, source=Flat())
    first, last = notes.lines[0][1], notes.lines[-1][1]
    assert last["loss/reconstruction"] < 0.75 * first["loss/reconstruction"]
    assert last["quality/psnr"] > first["quality/psnr"] + 1.5 and last["codes/used"] >= 8


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    """Also off every interval: ages of codes, counts and sums of metrics travel in the checkpoint."""
    _, whole, _ = train(tmp_path / "whole")
    reason, first, _ = train(tmp_path / "parts", stop_at=28)
    assert reason == "SIGTERM" and latest_checkpoint(tmp_path / "parts").name.endswith("028")
    _, second, _ = train(tmp_path / "parts")
    assert first.lines + second.lines == whole.lines
    same_checkpoint(latest_checkpoint(tmp_path / "whole"), latest_checkpoint(tmp_path / "parts"))


def test_the_discriminator_rests_until_its_image(tmp_path):
    state = TokenizerState.fresh(
        changed(objective=ObjectiveConfig(perceptual_weight=0.0, adversarial_from=4)), CPU
    )
    before = [p.clone() for p in state.discriminator.parameters()]
    step(state, Patches(), Ranks())
    assert all(torch.equal(a, b) for a, b in zip(before, state.discriminator.parameters(), strict=True))
    assert "loss/adversarial" not in state.means.sums
    step(state, Patches(), Ranks())
    assert not all(torch.equal(a, b) for a, b in zip(before, state.discriminator.parameters(), strict=True))
    assert float(state.means.sums["weight/adversarial"]) > 0


def test_the_discriminator_learns_from_its_own_loss_alone(monkeypatch):
    """The tokenizer's adversarial term must leave no gradient in it."""
    state = TokenizerState.fresh(
        changed(objective=ObjectiveConfig(perceptual_weight=0.0, adversarial_from=0)), CPU
    )
    images = Patches().batch(range(4))[0]
    vq_training.tokenizer_backward(state, images, share=1.0, adversarial=True, perceptual=None, ranks=Ranks())
    assert all(p.grad is None for p in state.discriminator.parameters())
    assert all(p.requires_grad for p in state.discriminator.parameters())
    assert all(p.grad is not None for p in state.tokenizer.parameters())


def test_accumulation_gives_the_gradients_of_the_whole_batch():
    objective = ObjectiveConfig(perceptual_weight=0.0, adversarial_weight=0.0)
    weights = []
    for micro_batch in (None, 1):
        run = changed(micro_batch=micro_batch, objective=objective, revive_every=0)
        state = TokenizerState.fresh(run, CPU)
        step(state, Patches(), Ranks())
        moments = state.tokenizer_optimizer.state[state.tokenizer.last_layer]["exp_avg"]
        weights.append(moments.clone())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-8)


def test_a_revived_code_starts_without_a_past():
    state = TokenizerState.fresh(changed(objective=ObjectiveConfig(perceptual_weight=0.0)), CPU)
    step(state, Patches(), Ranks())
    assert state.idle.max() == 4 and (state.idle == 0).any()
    weight = state.tokenizer.quantizer.embedding.weight
    moments = state.tokenizer_optimizer.state[weight]
    moments["exp_avg"].fill_(1.0)
    dead = state.idle == 4
    step(state, Patches(), Ranks())  # 8 images: due, and what was idle for all of them is dead
    revived = dead & (state.idle == 0) & (moments["exp_avg"] == 0).all(1)
    assert revived.any()
    assert state.means.counts["codes/revived"] == 1 and float(state.means.sums["codes/revived"]) == int(
        revived.sum()
    )


def test_gradients_that_are_no_numbers_stop_a_run_in_the_end(tmp_path):
    run = changed(max_bad_steps=3, objective=ObjectiveConfig(perceptual_weight=0.0, adversarial_weight=0.0))
    state = TokenizerState.fresh(run, CPU)
    step(state, Patches(), Ranks())
    state.save(tmp_path, {})
    step(state, Broken(), Ranks())
    assert float(state.means.sums["nonfinite/tokenizer"]) > 0
    assert all(torch.isfinite(p).all() for p in state.tokenizer.parameters())
    with pytest.raises(NonFiniteError, match=r"gradients of the tokenizer.*000000000004"):
        for _ in range(3):
            step(state, Broken(), Ranks())


def test_bfloat16_trains_with_losses_in_float32():
    state = TokenizerState.fresh(changed(bfloat16=True, objective=ObjectiveConfig(adversarial_from=0)), CPU)
    step(state, Patches(), Ranks(), vq_training.PerceptualDistance(SmallNetwork()))
    assert all(torch.isfinite(p).all() and p.dtype == torch.float32 for p in state.tokenizer.parameters())
    assert float(state.means.sums["loss/perceptual"]) > 0 and state.usage.used > 0


def test_another_network_is_refused(tmp_path):
    state = TokenizerState.fresh(RUN, CPU)
    path = state.save(tmp_path, {})
    other = dataclasses.replace(RUN, model=dataclasses.replace(RUN.model, codes=32))
    with pytest.raises(CheckpointError, match="another tokenizer"):
        TokenizerState.fresh(other, CPU).restore(path)


def test_the_perceptual_term_needs_a_network():
    with pytest.raises(ConfigError, match="perceptual_weight"):
        train_tokenizer(
            TokenizerState.fresh(RUN, CPU), Patches(), Notes(Path()), ranks=Ranks(),
            deadline=Deadline(None), stop=Graceful(),
        )  # fmt: skip


def test_codes_are_extracted_with_their_captions():
    state = TokenizerState.fresh(RUN, CPU)
    found = extract_codes(state.tokenizer, Patches(), range(3, 10), batch=3)
    assert found.codes.shape == (7, 4, 4) and found.codes.dtype == np.uint16
    assert found.captions == [f"picture {n}" for n in range(3, 10)]
    expected = state.tokenizer.encode(Patches().batch([5])[0])
    assert np.array_equal(found.codes[2], expected[0].numpy())
    with pytest.raises(ValueError, match="no positions"):
        extract_codes(state.tokenizer, Patches(), [])


def test_scenes_are_a_source():
    state = TokenizerState.fresh(RUN, CPU)
    found = extract_codes(
        state.tokenizer, SceneSource(8, SceneOptions(max_objects=2, textures=False)), [0, 1]
    )
    assert found.codes.shape == (2, 4, 4) and len(found.captions) == 2


def test_rates_and_configurations():
    training = RUN.training
    rates = [training.learning_rate_at(images) for images in (0, 4, 8, 28, 48)]
    assert rates[0] == pytest.approx(1e-3) and rates[1] == pytest.approx(2e-3) and rates[2] == 3e-3
    assert rates[3] == pytest.approx(3e-3 * 0.55) and rates[4] == pytest.approx(3e-4)
    assert TokenizerTraining().learning_rate_at(10_000_000) == 1e-4
    for run in (vq_16_run(), vq_nano_32_run()):
        assert from_dict(TokenizerRun, to_dict(run)) == run
    assert override(RUN, ["training.objective.reconstruction=l1"]).training.objective.reconstruction == "l1"
    for bad in ("training.log_every=9", "training.micro_batch=3", "resolution=9", "training.batch=0"):
        with pytest.raises(ConfigError):
            override(RUN, [bad])
