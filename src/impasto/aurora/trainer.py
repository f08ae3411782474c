"""The training loop of Aurora. Images are the clock; every random number of a step is drawn from (seed,
micro-batch, images seen), so that a resumed run repeats what an uninterrupted one does, bit for bit on a CPU,
and ranks and rounds of accumulation can stand in for each other."""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from impasto.aurora.growing import down_to
from impasto.aurora.guidance import ClipCaptions, gather_captions
from impasto.aurora.losses import PATH_LENGTH_DECAY, caption_ids, duplicate_mask
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
from impasto.runtime.streams import random_stream
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
    state.generator.reduce_load = ranks.mean_across_ranks  # for moe.balance_scope=global

    def advance() -> None:
        step(state, source, encoder, ranks)
        if grower is not None:
            grower.consider(state)

    return run_steps(
        advance,
        lambda: state.images,
        lambda: state.means.take(ranks),
        state,
        recorder,
        config,
        end=config.images,
        ranks=ranks,
        deadline=deadline,
        stop=stop,
    )


def step(state: TrainingState, source: Source, encoder: TextEncoder, ranks: Ranks) -> None:
    """One update of the discriminator, then of the generator, then of the averages.

    A step is made of micro-batches, on how many ranks and in how many rounds of accumulation does not matter:
    each has its own positions of the batch and its own stream of random numbers, every position has its own
    latent, and gradients, captions to tell apart and running means are taken over all of them.
    """
    config = state.run.training
    batches = _micro_batches(state, source, encoder, ranks)
    if state.images >= config.adversarial_from:
        _adversarial_backward(state, batches, ranks)
    if state.latent_encoder is not None:
        _reconstruction_backward(state, state.latent_encoder, batches, ranks)
    _update(state, state.drawing, ranks)
    state.average.update(state.generator, config.batch, state.images)
    state.images += config.batch


def _shares(batches: Sequence[MicroBatch]) -> list[float]:
    """Each micro-batch's part of this rank's pictures."""
    total = sum(len(batch.captions) for batch in batches)
    return [len(batch.captions) / total for batch in batches]


def _adversarial_backward(state: TrainingState, batches: Sequence[MicroBatch], ranks: Ranks) -> None:
    """The critics' update, then the generator's gradients through them."""
    config, index = state.run.training, state.images // state.run.training.batch
    shares = _shares(batches)
    # The first pass of the generator serves both updates; with accumulation the others are made again.
    first = generate(state.generator, batches[0], config)
    for batch, share in zip(batches, shares, strict=True):
        if batch is batches[0]:
            fake = first.pyramid
        else:
            with torch.no_grad():
                fake = generate(state.generator, batch, config).pyramid
        penalise = index % config.r1_interval == 0
        state.means.add(
            discriminator_backward(state.critics, batch, fake, state.run, penalise=penalise, share=share)
        )
    _update(state, [name for name in state.trained if name not in state.drawing], ranks)
    path_due = config.path_length_weight > 0 and index % config.path_length_interval == 0
    path_mean = state.path_mean if path_due else None
    w, lengths = [], []
    for batch, share in zip(batches, shares, strict=True):
        output = first if batch is batches[0] else generate(state.generator, batch, config)
        metrics = generator_backward(
            state.critics, batch, output, state.run, path_mean=path_mean, share=share
        )
        state.means.add(metrics)
        state.means.add(expert_load(output))
        w.append(output.w.detach())
        if path_due:
            lengths.append(share * metrics["path_length/mean"])
    state.generator.update_w_avg(
        ranks.mean_across_ranks(torch.cat(w).mean(0, keepdim=True)), config.w_avg_decay
    )
    if path_due:
        mean = ranks.mean_across_ranks(torch.stack(lengths).sum())
        state.path_mean.lerp_(mean.to(state.path_mean.dtype), PATH_LENGTH_DECAY)


def _reconstruction_backward(
    state: TrainingState, latent_encoder: LatentEncoder, batches: Sequence[MicroBatch], ranks: Ranks
) -> None:
    """Gradients of generator and encoder for drawing the real pictures again. While nothing else is trained
    the mean of w is theirs."""
    config = state.run.training
    alone, seen = state.images < config.adversarial_from, []
    for batch, share in zip(batches, _shares(batches), strict=True):
        metrics, w = reconstruction_backward(
            latent_encoder, state.generator, batch, state.run, share=share,
            guides=state.critics.guides if alone else None,  # later it judges pictures of noise
        )  # fmt: skip
        state.means.add(metrics)
        seen.append(w)
    if alone:
        mean = ranks.mean_across_ranks(torch.cat(seen).mean(0, keepdim=True))
        state.generator.update_w_avg(mean, config.w_avg_decay)


def _micro_batches(
    state: TrainingState, source: Source, encoder: TextEncoder, ranks: Ranks
) -> list[MicroBatch]:
    """This rank's part of the batch: every n-th position from its own rank on or, where the discriminator
    compares neighbours, every n-th group of them."""
    parts = _places(state, ranks)
    positions = sorted(position for _, chosen in parts for position in chosen)
    images, captions = source.batch(positions)  # at once, in the order a source reads ahead
    near = source.near_misses(positions)
    row_of = {position: row for row, position in enumerate(positions)}
    rows = [[row_of[position] for position in chosen] for _, chosen in parts]
    told = [[captions[row] for row in chosen] for chosen in rows]
    misses = [
        {at: text for at, row in enumerate(chosen) if (text := near[row]) is not None} for chosen in rows
    ]
    known: list[ClipCaptions | None] = [None] * len(parts)
    clip = state.critics.guides.clip
    if clip is not None and state.images >= state.run.guidance.clip_from:
        known = [*gather_captions(clip, told, ranks, [list(part.values()) for part in misses])]
    batches = []
    for (number, _), chosen, texts, wrong, others in zip(parts, rows, told, misses, known, strict=True):
        random = random_stream("step", state.run.training.seed, number, state.images)
        z = torch.stack([_noise(state, positions[row]) for row in chosen])
        every = [*texts, *wrong.values()]
        ids, features = caption_ids(every), encoder.encode(every).to(ranks.device)
        batches.append(
            MicroBatch(
                down_to(images[chosen].to(ranks.device), state.side),
                texts,
                features[: len(texts)],
                z.to(ranks.device),
                random,
                others,
                features[len(texts) :] if wrong else None,
                torch.tensor(list(wrong), device=ranks.device) if wrong else None,
                duplicate_mask(ids[: len(texts)], ids).to(ranks.device),
            )
        )
    return batches


def _places(state: TrainingState, ranks: Ranks) -> list[tuple[int, list[int]]]:
    """This rank's micro-batches: their numbers among those of all ranks, and the positions of each."""
    config = state.run.training
    group = max(state.run.discriminator.deviation_group, 1)
    groups = config.batch // group
    if config.batch % (group * ranks.world_size):
        raise ConfigError(
            f"training.batch={config.batch} does not divide among {ranks.world_size} ranks in groups of "
            f"discriminator.deviation_group={group}"
        )
    own = groups // ranks.world_size
    size = own if config.micro_batch is None else config.micro_batch // group
    count = ranks.world_size * math.ceil(own / size)
    if groups // count * group < 2:
        raise ConfigError(
            f"training.batch={config.batch} on {ranks.world_size} ranks, with training.micro_batch="
            f"{config.micro_batch}, leaves passes of one picture, which have no wrong captions"
        )
    return [
        (
            number,
            [
                state.images + first * group + place
                for first in range(number, groups, count)
                for place in range(group)
            ],
        )
        for number in range(ranks.rank, count, ranks.world_size)
    ]


def _update(state: TrainingState, names: Sequence[str], ranks: Ranks) -> None:
    """Exchange gradients of the named networks, put zero for what is not finite and count it, step."""
    for name in names:
        part = state.trained[name]
        parameters = list(part.network.parameters())
        ranks.all_reduce_gradients(parameters)
        gradients = (parameter.grad for parameter in parameters)
        bad = part.guard.clean(gradients, state.images, state.last_checkpoint)
        state.means.add({f"nonfinite/{name}": float(bad)})
        part.optimizer.step()
        part.optimizer.zero_grad(set_to_none=True)


def _noise(state: TrainingState, position: int) -> Tensor:
    """The latent [z_dim] of a position of the global order."""
    random = random_stream("latent", state.run.training.seed, position)
    return torch.randn(state.run.model.generator.z_dim, generator=random)
