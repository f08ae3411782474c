"""The training loop of Aurora. Images are the clock; every random number of a step is drawn from (seed, rank,
images seen), so that a resumed run repeats what an uninterrupted one does, bit for bit on a CPU."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from impasto.aurora.discriminator import Discriminator
from impasto.aurora.generator import Generator
from impasto.aurora.steps import (
    MicroBatch,
    discriminator_backward,
    expert_load,
    generate,
    generator_backward,
)
from impasto.aurora.training_config import AuroraRun, TrainingConfig
from impasto.config import to_dict
from impasto.runtime.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from impasto.runtime.dist import Ranks
from impasto.runtime.ema import AverageByImages
from impasto.runtime.guards import Deadline, Graceful, NonFiniteGuard
from impasto.runtime.training_state import load_optimizer, optimizer_tensors
from impasto.text import TextEncoder


class Source(Protocol):
    """Endless pictures with captions: position n of the global order is the same in every run and rank."""

    def batch(self, positions: Sequence[int]) -> tuple[Tensor, list[str]]:
        """Pictures [len, 3, R, R] in [-1, 1] and one caption each."""
        ...


class Recorder(Protocol):
    """What watches a run: writes metrics, samples, models; see `recording`."""

    def metrics(self, state: "TrainingState", values: dict[str, float], seconds: float) -> None: ...
    def samples(self, state: "TrainingState") -> None: ...
    def checkpoint(self, state: "TrainingState") -> None: ...
    def tick(self, images: int) -> None: ...


@dataclass
class TrainingState:
    """Everything that a checkpoint holds."""

    run: AuroraRun
    generator: Generator
    discriminator: Discriminator
    generator_optimizer: Optimizer
    discriminator_optimizer: Optimizer
    average: AverageByImages
    path_mean: Tensor
    guards: dict[str, NonFiniteGuard]
    sums: dict[str, Tensor | float]  # of metrics since the last log line; fp64, on their device until read
    counts: dict[str, int]
    images: int = 0
    last_checkpoint: Path | None = None

    @classmethod
    def fresh(
        cls, run: AuroraRun, device: torch.device, initial: Mapping[str, Mapping[str, Tensor]] | None = None
    ) -> "TrainingState":
        """Networks initialised from the run's seed; `initial` gives weights for fine-tuning, by network."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.training.seed)
            generator, discriminator = Generator(run.model.generator), Discriminator(run.discriminator)
        for name, network in {"generator": generator, "discriminator": discriminator}.items():
            if initial and name in initial:
                network.load_state_dict(initial[name])
        generator.to(device).train()
        discriminator.to(device).train()
        training = run.training
        return cls(
            run=run,
            generator=generator,
            discriminator=discriminator,
            generator_optimizer=_optimizer([{"params": list(generator.parameters())}], training),
            discriminator_optimizer=_optimizer(_discriminator_groups(discriminator, training), training),
            average=AverageByImages(generator, training.average_half_life, training.average_ramp_up),
            path_mean=torch.zeros((), device=device),
            guards={
                name: NonFiniteGuard(training.max_bad_steps, f"gradients of the {name}")
                for name in ("generator", "discriminator")
            },
            sums={},
            counts={},
        )

    def add(self, metrics: Mapping[str, Tensor | float]) -> None:
        for name, value in metrics.items():
            summand = value.double() if isinstance(value, Tensor) else value
            self.sums[name] = self.sums.get(name, 0.0) + summand
            self.counts[name] = self.counts.get(name, 0) + 1

    def take_means(self) -> dict[str, float]:
        """Means of the metrics since the last call, which starts anew."""
        means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means

    def save(self, out: Path, extra: Mapping[str, Any]) -> Path:
        """Write a checkpoint and return its folder."""
        generator_state = optimizer_tensors(self.generator_optimizer, self.generator.named_parameters())
        discriminator_state = optimizer_tensors(
            self.discriminator_optimizer, self.discriminator.named_parameters()
        )
        self.last_checkpoint = save_checkpoint(
            out,
            self.images,
            {
                "generator": self.generator.state_dict(),
                "discriminator": self.discriminator.state_dict(),
                "average": self.average.state_dict(),
                "generator_optimizer": generator_state[0],
                "discriminator_optimizer": discriminator_state[0],
                "training": {"path_mean": self.path_mean},
            },
            {
                "config": to_dict(self.run),
                "images": self.images,
                "generator_optimizer": generator_state[1],
                "discriminator_optimizer": discriminator_state[1],
                "guards": {name: guard.state_dict() for name, guard in self.guards.items()},
                "sums": {name: float(total) for name, total in self.sums.items()},
                "counts": self.counts,
                **extra,
            },
        )
        return self.last_checkpoint

    def restore(self, checkpoint: Path) -> dict[str, Any]:
        """Take up a verified checkpoint of the same networks; returns its JSON state."""
        tensors, state = load_checkpoint(checkpoint, verified=True)
        self.generator.load_state_dict(tensors["generator"])
        self.discriminator.load_state_dict(tensors["discriminator"])
        fresh = self.average.load_state_dict(tensors["average"])
        for name, network, optimizer in (
            ("generator_optimizer", self.generator, self.generator_optimizer),
            ("discriminator_optimizer", self.discriminator, self.discriminator_optimizer),
        ):
            restored = load_optimizer(
                optimizer, network.named_parameters(), tensors[name], state[name], options=False
            )
            fresh += [*restored.fresh, *restored.unused]
        if fresh:
            raise CheckpointError(f"{checkpoint} is of another network: '{fresh[0]}' does not fit")
        self.path_mean.copy_(tensors["training"]["path_mean"])
        for name, guard in self.guards.items():
            guard.load_state_dict(state["guards"][name])
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])
        self.images, self.last_checkpoint = state["images"], checkpoint
        return state


def train(
    state: TrainingState,
    source: Source,
    encoder: TextEncoder,
    recorder: Recorder,
    *,
    ranks: Ranks,
    deadline: Deadline,
    stop: Graceful,
) -> str:
    """Train until the run's images are seen, the deadline has passed or a signal asks to stop; the last
    checkpoint is written in each case. Returns why it ended. Raises NonFiniteError after too many bad steps
    in a row, with the last good checkpoint kept."""
    config = state.run.training
    due = [config.log_every, config.sample_every, config.checkpoint_every]
    reason = "finished"
    if state.images == 0:
        recorder.samples(state)
    while state.images < config.images:
        started = time.perf_counter()
        step(state, source, encoder, ranks)
        log, sample, checkpoint = (state.images % interval == 0 for interval in due)
        recorder.tick(state.images)
        if log:
            recorder.metrics(state, state.take_means(), time.perf_counter() - started)
        if sample:
            recorder.samples(state)
        ending = ranks.any(stop.requested or deadline.passed)
        if ending:
            reason = stop.reason or "time limit"
        if checkpoint or ending or state.images >= config.images:
            recorder.checkpoint(state)
        if ending:
            break
    return reason


def step(state: TrainingState, source: Source, encoder: TextEncoder, ranks: Ranks) -> None:
    """One update of the discriminator, then of the generator, then of the averages."""
    config, index = state.run.training, state.images // state.run.training.batch
    random = torch.Generator().manual_seed(_step_seed(config.seed, ranks.rank, state.images))
    batches = list(_micro_batches(state, source, encoder, ranks, random))
    share = 1 / len(batches)
    outputs = [generate(state.generator, batch, config) for batch in batches[:1]]
    penalise = index % config.r1_interval == 0
    for number, batch in enumerate(batches):
        if number < len(outputs):
            fake = outputs[number].pyramid
        else:
            with torch.no_grad():
                fake = generate(state.generator, batch, config).pyramid
        state.add(
            discriminator_backward(
                state.discriminator,
                batch,
                fake,
                config,
                penalise=penalise,
                share=share,
                source=random,
            )
        )
    _update(state, "discriminator", state.discriminator, state.discriminator_optimizer, ranks)
    path_due = config.path_length_weight > 0 and index % config.path_length_interval == 0
    for number, batch in enumerate(batches):
        # The first pass serves both updates; with accumulation the others are made again.
        output = outputs[0] if number == 0 else generate(state.generator, batch, config)
        path_mean = state.path_mean if path_due else None
        state.add(
            generator_backward(
                state.discriminator,
                batch,
                output,
                config,
                path_mean=path_mean,
                share=share,
                source=random,
            )
        )
        state.add(expert_load(output))
        state.generator.update_w_avg(ranks.mean_across_ranks(output.w.detach()), config.w_avg_decay)
    _update(state, "generator", state.generator, state.generator_optimizer, ranks)
    state.average.update(state.generator, config.batch, state.images)
    state.images += config.batch


def _micro_batches(
    state: TrainingState, source: Source, encoder: TextEncoder, ranks: Ranks, random: torch.Generator
) -> Iterator[MicroBatch]:
    """This rank's part of the batch: rank r of n takes the positions congruent to r."""
    config = state.run.training
    positions = range(state.images + ranks.rank, state.images + config.batch, ranks.world_size)
    size = config.micro_batch or len(positions)
    for start in range(0, len(positions), size):
        images, captions = source.batch(positions[start : start + size])
        z = torch.randn(len(captions), state.run.model.generator.z_dim, generator=random)
        text = encoder.encode(captions).to(ranks.device)
        yield MicroBatch(images.to(ranks.device), captions, text, z.to(ranks.device))


def _update(
    state: TrainingState, name: str, network: torch.nn.Module, optimizer: Optimizer, ranks: Ranks
) -> None:
    """Exchange gradients, put zero for what is not finite and count it, step."""
    ranks.all_reduce_gradients(network.parameters())
    bad = state.guards[name].clean(
        (parameter.grad for parameter in network.parameters()), state.images, state.last_checkpoint
    )
    state.add({f"nonfinite/{name}": float(bad)})
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _optimizer(groups: list[dict[str, Any]], config: TrainingConfig) -> Optimizer:
    return AdamW(
        groups,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
    )


def _discriminator_groups(discriminator: Discriminator, config: TrainingConfig) -> list[dict[str, Any]]:
    """Attention layers of the trunk have a weight decay of their own (GigaGAN)."""
    attention: list[Tensor] = []
    other: list[Tensor] = []
    for name, parameter in discriminator.named_parameters():
        (attention if ".attention." in name else other).append(parameter)
    groups: list[dict[str, Any]] = [{"params": other}]
    if attention:
        groups.append({"params": attention, "weight_decay": config.discriminator_attention_weight_decay})
    return groups


def _step_seed(seed: int, rank: int, images: int) -> int:
    """One stream for every (seed, rank, images seen)."""
    return (seed * 1_000_003 + rank) * (1 << 44) % (1 << 63) + images
