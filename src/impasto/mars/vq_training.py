"""Training of the image tokenizer. Images are the clock; every random number of a step is drawn from (seed,
images seen), so that a resumed run repeats what an uninterrupted one does, bit for bit on a CPU."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from impasto.config import ConfigError
from impasto.mars.extraction import Source
from impasto.mars.vq import CodeUsage, VQOutput
from impasto.mars.vq_losses import (
    FeatureMaps,
    PerceptualDistance,
    discriminator_losses,
    peak_signal_to_noise,
    tokenizer_losses,
)
from impasto.mars.vq_state import TokenizerState
from impasto.runtime.dist import Ranks
from impasto.runtime.guards import Deadline, Graceful
from impasto.runtime.loop import run_steps
from impasto.runtime.streams import random_stream


class Recorder(Protocol):
    """What watches a run: writes metrics, samples, checkpoints."""

    def metrics(self, state: "TokenizerState", values: dict[str, float], seconds: float) -> None: ...
    def samples(self, state: "TokenizerState") -> None: ...
    def checkpoint(self, state: "TokenizerState") -> None: ...
    def tick(self, images: int) -> None: ...


def train_tokenizer(
    state: TokenizerState,
    source: Source,
    recorder: Recorder,
    *,
    ranks: Ranks,
    deadline: Deadline,
    stop: Graceful,
    perceptual: FeatureMaps | None = None,
) -> str:
    """Train until the run's images are seen, the deadline has passed or a signal asks to stop; the last
    checkpoint is written in each case. `perceptual` is the frozen network of the perceptual term; ConfigError
    if its weight asks for one and there is none. Returns why it ended. Raises NonFiniteError after too many
    bad steps in a row, with the last good checkpoint kept."""
    config = state.run.training
    if config.objective.perceptual_weight and perceptual is None:
        raise ConfigError(
            "training.objective.perceptual_weight needs a network of features; give one or set it to 0"
        )
    distance = (
        PerceptualDistance(perceptual)
        if config.objective.perceptual_weight and perceptual is not None
        else None
    )
    return run_steps(
        lambda: step(state, source, ranks, distance),
        lambda: state.images,
        lambda: state.take_metrics(ranks),
        state,
        recorder,
        config,
        end=config.images,
        ranks=ranks,
        deadline=deadline,
        stop=stop,
    )


def step(
    state: TokenizerState, source: Source, ranks: Ranks, perceptual: PerceptualDistance | None = None
) -> None:
    """One update of the tokenizer, then one of the discriminator if it is on, then of the codes' ages."""
    config = state.run.training
    adversarial = config.objective.adversarial_at(state.images)
    batches = list(_micro_batches(state, source, ranks))
    share, outputs = 1 / len(batches), []
    for images in batches:
        output, metrics = tokenizer_backward(
            state, images, share=share, adversarial=adversarial, perceptual=perceptual, ranks=ranks
        )
        outputs.append(output)
        state.means.add(metrics)
    _update(state, "tokenizer", state.tokenizer, state.tokenizer_optimizer, ranks)
    if adversarial:
        for images, output in zip(batches, outputs, strict=True):
            state.means.add(discriminator_backward(state, images, output.reconstruction, share=share))
        _update(state, "discriminator", state.discriminator, state.discriminator_optimizer, ranks)
    _age_and_revive(state, outputs, ranks)
    state.images += config.batch


def tokenizer_backward(
    state: TokenizerState,
    images: Tensor,
    *,
    share: float,
    adversarial: bool,
    perceptual: PerceptualDistance | None,
    ranks: Ranks,
) -> tuple[VQOutput, dict[str, Tensor]]:
    """Add `share` of the tokenizer's gradients for images [B, 3, R, R]. Returns its output without graph and
    what to log. (The adaptive weight is that of the pass, with accumulation it differs from the batch's.)"""
    config = state.run.training
    state.discriminator.requires_grad_(False)
    with _autocast(images.device, config.bfloat16):
        output = state.tokenizer(images)
        reconstruction = output.reconstruction.float()
        terms = tokenizer_losses(
            reconstruction,
            images,
            output.losses,
            config.objective,
            perceptual=perceptual,
            judge=state.discriminator if adversarial else None,
            last_layer=state.tokenizer.last_layer,
            across_ranks=ranks.mean_across_ranks,
        )
    (share * terms["loss/tokenizer"]).backward()
    state.discriminator.requires_grad_(True)
    terms["quality/psnr"] = peak_signal_to_noise(reconstruction, images).mean()
    return output._replace(reconstruction=reconstruction.detach()), terms


def discriminator_backward(
    state: TokenizerState, images: Tensor, reconstruction: Tensor, *, share: float
) -> dict[str, Tensor]:
    """Add `share` of the discriminator's gradients for images and their reconstructions [B, 3, R, R]."""
    with _autocast(images.device, state.run.training.bfloat16):
        terms = discriminator_losses(state.discriminator, images, reconstruction)
    (share * terms["loss/discriminator"]).backward()
    return terms


def _micro_batches(state: TokenizerState, source: Source, ranks: Ranks) -> Iterator[Tensor]:
    """This rank's part of the batch: rank r of n takes the positions congruent to r."""
    config = state.run.training
    positions = range(state.images + ranks.rank, state.images + config.batch, ranks.world_size)
    size = config.micro_batch or len(positions)
    for start in range(0, len(positions), size):
        yield source.batch(positions[start : start + size])[0].to(ranks.device)


def _update(state: TokenizerState, name: str, network: nn.Module, optimizer: Optimizer, ranks: Ranks) -> None:
    """Exchange gradients, put zero for what is not finite and count it, clip, step at the present rate."""
    config, parameters = state.run.training, list(network.parameters())
    ranks.all_reduce_gradients(parameters)
    bad = state.guards[name].clean(
        (parameter.grad for parameter in parameters), state.images, state.last_checkpoint
    )
    norm = nn.utils.clip_grad_norm_(parameters, config.clip)
    state.means.add({f"nonfinite/{name}": float(bad), f"gradient/{name}": norm})
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate_at(state.images)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


@torch.no_grad()
def _age_and_revive(state: TokenizerState, outputs: Sequence[VQOutput], ranks: Ranks) -> None:
    """Count the codes of all ranks; now and then replace those long unused by encoder outputs of this step,
    of the main rank, and forget what the optimiser knew of them."""
    config, usage = state.run.training, CodeUsage(state.run.model.codes, state.idle.device)
    for output in outputs:
        usage.update(output.ids)
    counts = ranks.mean_across_ranks(usage.counts.double()) * ranks.world_size
    state.usage.merge(counts.round().long())
    state.idle = torch.where(counts > 0, 0, state.idle + config.batch)
    if not config.revive_every or (state.images + config.batch) % config.revive_every:
        return
    inputs = torch.cat([output.inputs for output in outputs])
    ranks.broadcast([inputs])
    random = random_stream("step", config.seed, state.images)
    dead = state.idle >= config.revive_after
    revived = state.tokenizer.quantizer.revive(dead, inputs, random)
    moments = state.tokenizer_optimizer.state.get(state.tokenizer.quantizer.embedding.weight, {})
    for name in ("exp_avg", "exp_avg_sq"):
        if name in moments:
            moments[name][revived] = 0
    state.idle[revived] = 0
    state.means.add({"codes/revived": float(len(revived))})


def _autocast(device: torch.device, enabled: bool) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
