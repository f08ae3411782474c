"""The training loop of Aurora. Images are the clock; every random number of a step is drawn from (seed, rank,
images seen), so that a resumed run repeats what an uninterrupted one does, bit for bit on a CPU."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from impasto.aurora.growing import down_to
from impasto.aurora.guidance import gather_captions
from impasto.aurora.losses import caption_ids, duplicate_mask
from impasto.aurora.reconstruction import LatentEncoder, reconstruction_backward
from impasto.aurora.steps import (
    MicroBatch,
    discriminator_backward,
    expert_load,
    generate,
    generator_backward,
)
from impasto.aurora.training_state import TrainingState
from impasto.config import ConfigError
from impasto.runtime.dist import Ranks
from impasto.runtime.guards import Deadline, Graceful
from impasto.runtime.loop import run_steps
from impasto.text import TextEncoder


class Source(Protocol):
    """Endless pictures with captions: position n of the global order is the same in every run and rank."""

    def batch(self, positions: Sequence[int]) -> tuple[Tensor, list[str]]:
        """Pictures [len, 3, R, R] in [-1, 1] and one caption each."""
        ...

    def near_misses(self, positions: Sequence[int]) -> list[str | None]:
        """Captions that are wrong by one fact, for those pictures that have one."""
        ...


class Recorder(Protocol):
    """What watches a run: writes metrics, samples, models; see `recording`."""

    def metrics(self, state: TrainingState, values: dict[str, float], seconds: float) -> None: ...
    def samples(self, state: TrainingState) -> None: ...
    def checkpoint(self, state: TrainingState) -> None: ...
    def tick(self, images: int) -> None: ...


class Grows(Protocol):
    """What decides, after every step, whether a run goes on to the next resolution; see `growing_measure`."""

    def consider(self, state: TrainingState) -> None: ...


def train(
    state: TrainingState,
    source: Source,
    encoder: TextEncoder,
    recorder: Recorder,
    grower: Grows | None = None,
    *,
    ranks: Ranks,
    deadline: Deadline,
    stop: Graceful,
) -> str:
    """Train until the run's images are seen, the deadline has passed or a signal asks to stop; the last
    checkpoint is written in each case. Returns why it ended. Raises NonFiniteError after too many bad steps
    in a row, with the last good checkpoint kept."""
    config = state.run.training

    def advance() -> None:
        step(state, source, encoder, ranks)
        if grower is not None:
            grower.consider(state)

    return run_steps(
        advance,
        lambda: state.images,
        state.take_means,
        state,
        recorder,
        config,
        end=config.images,
        ranks=ranks,
        deadline=deadline,
        stop=stop,
    )


def step(state: TrainingState, source: Source, encoder: TextEncoder, ranks: Ranks) -> None:
    """One update of the discriminator, then of the generator, then of the averages."""
    config = state.run.training
    random = torch.Generator().manual_seed(_step_seed(config.seed, ranks.rank, state.images))
    batches = list(_micro_batches(state, source, encoder, ranks, random))
    if state.images >= config.adversarial_from:
        _adversarial_backward(state, batches, ranks, random)
    if state.latent_encoder is not None:
        _reconstruction_backward(state, state.latent_encoder, batches, ranks, random)
    _update(state, state.drawing, ranks)
    state.average.update(state.generator, config.batch, state.images)
    state.images += config.batch


def _adversarial_backward(
    state: TrainingState, batches: Sequence[MicroBatch], ranks: Ranks, random: torch.Generator
) -> None:
    """The critics' update, then the generator's gradients through them."""
    config, index, share = state.run.training, state.images // state.run.training.batch, 1 / len(batches)
    # The first pass of the generator serves both updates; with accumulation the others are made again.
    first = generate(state.generator, batches[0], config)
    for batch in batches:
        if batch is batches[0]:
            fake = first.pyramid
        else:
            with torch.no_grad():
                fake = generate(state.generator, batch, config).pyramid
        metrics = discriminator_backward(
            state.critics,
            batch,
            fake,
            state.run,
            penalise=index % config.r1_interval == 0,
            share=share,
            source=random,
        )
        state.add(metrics)
    _update(state, [name for name in state.trained if name not in state.drawing], ranks)
    path_due = config.path_length_weight > 0 and index % config.path_length_interval == 0
    for batch in batches:
        output = first if batch is batches[0] else generate(state.generator, batch, config)
        metrics = generator_backward(
            state.critics,
            batch,
            output,
            state.run,
            path_mean=state.path_mean if path_due else None,
            share=share,
            source=random,
        )
        state.add(metrics)
        state.add(expert_load(output))
        state.generator.update_w_avg(ranks.mean_across_ranks(output.w.detach()), config.w_avg_decay)


def _reconstruction_backward(
    state: TrainingState,
    latent_encoder: LatentEncoder,
    batches: Sequence[MicroBatch],
    ranks: Ranks,
    random: torch.Generator,
) -> None:
    """Gradients of generator and encoder for drawing the real pictures again. While nothing else is trained
    the mean of w is theirs."""
    config = state.run.training
    alone = state.images < config.adversarial_from
    for batch in batches:
        metrics, w = reconstruction_backward(
            latent_encoder, state.generator, batch, state.run, share=1 / len(batches), source=random,
            guides=state.critics.guides if alone else None,  # later it judges pictures of noise
        )  # fmt: skip
        state.add(metrics)
        if alone:
            state.generator.update_w_avg(ranks.mean_across_ranks(w), config.w_avg_decay)


def _micro_batches(
    state: TrainingState, source: Source, encoder: TextEncoder, ranks: Ranks, random: torch.Generator
) -> Iterator[MicroBatch]:
    """This rank's part of the batch: every n-th position from its own rank on or, where the discriminator
    compares neighbours, every n-th group of them."""
    config, guides = state.run.training, state.critics.guides
    clip = guides.clip if state.images >= state.run.guidance.clip_from else None
    group = max(state.run.discriminator.deviation_group, 1)
    if config.batch % (group * ranks.world_size):
        raise ConfigError(
            f"training.batch={config.batch} does not divide among {ranks.world_size} ranks in groups of "
            f"discriminator.deviation_group={group}"
        )
    starts = range(state.images + ranks.rank * group, state.images + config.batch, ranks.world_size * group)
    positions = [start + place for start in starts for place in range(group)]
    size = config.micro_batch or len(positions)
    for start in range(0, len(positions), size):
        chosen = positions[start : start + size]
        images, captions = source.batch(chosen)
        z = torch.randn(len(captions), state.run.model.generator.z_dim, generator=random)
        near = {row: text for row, text in enumerate(source.near_misses(chosen)) if text is not None}
        texts = [*captions, *near.values()]
        ids, features = caption_ids(texts), encoder.encode(texts).to(ranks.device)
        yield MicroBatch(
            down_to(images.to(ranks.device), state.side),
            captions,
            features[: len(captions)],
            z.to(ranks.device),
            None if clip is None else gather_captions(clip, captions, ranks, list(near.values())),
            features[len(captions) :] if near else None,
            torch.tensor(list(near), device=ranks.device) if near else None,
            duplicate_mask(ids[: len(captions)], ids).to(ranks.device),
        )


def _update(state: TrainingState, names: Sequence[str], ranks: Ranks) -> None:
    """Exchange gradients of the named networks, put zero for what is not finite and count it, step."""
    for name in names:
        part = state.trained[name]
        parameters = list(part.network.parameters())
        ranks.all_reduce_gradients(parameters)
        gradients = (parameter.grad for parameter in parameters)
        bad = part.guard.clean(gradients, state.images, state.last_checkpoint)
        state.add({f"nonfinite/{name}": float(bad)})
        part.optimizer.step()
        part.optimizer.zero_grad(set_to_none=True)


def _step_seed(seed: int, rank: int, images: int) -> int:
    """One stream for every (seed, rank, images seen)."""
    return (seed * 1_000_003 + rank) * (1 << 44) % (1 << 63) + images
