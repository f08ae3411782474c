"""What a training run would take on how many devices, from the sizes of its networks alone: both networks are
built on the meta device and one step of each kind is traced. Nothing is allocated and nothing is timed."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from impasto.aurora.discriminator import Discriminator
from impasto.aurora.generator import Generator
from impasto.aurora.steps import Critics, MicroBatch, discriminator_backward, generate, generator_backward
from impasto.aurora.training_config import AuroraRun
from impasto.config import ConfigError
from impasto.runtime.estimate import Machine, memory_of, operations_of, parameter_bytes
from impasto.runtime.streams import random_stream
from impasto.text.features import TextFeatures

PROMPT_TOKENS = 77  # CLIP's context; a sentence encoder's is shorter


@dataclass(frozen=True)
class TrainingCost:
    """Of a run. Operations are per picture (a multiply-add counts two), `penalty_flops` those of R1, at the
    steps where it is due. Bytes are those of one device: `kept_bytes` weights, two Adam moments each and the
    average; a step's peak for m pictures at once is `step_bytes + m * picture_bytes`, gradients included."""

    run: AuroraRun
    parameters: dict[str, int]
    step_flops: int
    penalty_flops: int
    kept_bytes: int
    step_bytes: int
    picture_bytes: int

    @property
    def flops(self) -> float:
        """Per picture, R1's spread over all steps."""
        return self.step_flops + self.penalty_flops / self.run.training.r1_interval

    def peak_bytes(self, pictures: int) -> int:
        return self.kept_bytes + self.step_bytes + pictures * self.picture_bytes


def training_cost(run: AuroraRun) -> TrainingCost:
    """In fp32, at the run's largest side. Frozen networks (the text encoder, guides) are not in it."""
    run = replace(run, training=replace(run.training, bfloat16_generator=False, bfloat16_discriminator=False))
    with torch.device("meta"):
        generator, discriminator = Generator(run.model.generator), Discriminator(run.discriminator)
    generator.recompute = discriminator.recompute = run.training.recompute_activations
    discriminator.apart = run.growing.schedule != "none"
    smaller, larger = 2, 4
    due = {count: _step(run, generator, discriminator, count, penalise=True) for count in (smaller, larger)}
    few, many = (memory_of(passes).peak_bytes for passes in due.values())
    picture = (many - few) // (larger - smaller)
    with_penalty = operations_of(due[smaller]) // smaller
    without = operations_of(_step(run, generator, discriminator, smaller, penalise=False)) // smaller
    weights = {"generator": generator, "discriminator": discriminator}
    return TrainingCost(
        run=run,
        parameters={name: sum(p.numel() for p in net.parameters()) for name, net in weights.items()},
        step_flops=without,
        penalty_flops=with_penalty - without,
        kept_bytes=sum(3 * parameter_bytes(net) for net in weights.values()) + parameter_bytes(generator),
        step_bytes=few - smaller * picture,
        picture_bytes=picture,
    )


def _step(
    run: AuroraRun, generator: Generator, discriminator: Discriminator, count: int, *, penalise: bool
) -> Callable[[], None]:
    """One update's passes for `count` pictures, as `trainer` makes them, without optimisers."""
    batch, critics = _micro_batch(run, count), Critics(discriminator)

    def passes() -> None:
        with torch.enable_grad():
            output = generate(generator, batch, run.training)
            discriminator_backward(critics, batch, output.pyramid, run, penalise=penalise, share=1.0)
            _clear(discriminator)
            generator_backward(critics, batch, output, run, path_mean=None, share=1.0)
            _clear(generator)

    return passes


def _clear(network: nn.Module) -> None:
    for parameter in network.parameters():
        parameter.grad = None


def _micro_batch(run: AuroraRun, count: int) -> MicroBatch:
    side, width = run.model.generator.resolution, run.discriminator.input_dim
    with torch.device("meta"):
        text = TextFeatures(
            torch.empty(count, PROMPT_TOKENS, width),
            torch.ones(count, PROMPT_TOKENS, dtype=torch.bool),
            torch.zeros(count, dtype=torch.long),
            torch.empty(count, width),
        )
        return MicroBatch(
            torch.empty(count, 3, side, side),
            [str(n) for n in range(count)],
            text,
            torch.empty(count, run.model.generator.z_dim),
            random_stream("estimate"),
            duplicates=torch.zeros(count, count, dtype=torch.bool),
        )


@dataclass(frozen=True)
class Projection:
    """A run on a machine: seconds of a step, apart, and bytes of one device."""

    cost: TrainingCost
    machine: Machine
    at_once: int  # pictures in one pass of a device
    computing: float
    exchanging: float

    @property
    def pictures_per_second(self) -> float:
        return self.cost.run.training.batch / (self.computing + self.exchanging)

    @property
    def days(self) -> float:
        return self.cost.run.training.images / self.pictures_per_second / 86400

    def lines(self) -> list[str]:
        """For people: what it takes, and below it every assumption."""
        cost, machine, training = self.cost, self.machine, self.cost.run.training
        exchanged = 4e-9 * sum(cost.parameters.values())
        memory = f"for {self.at_once} pictures at once, fp32"
        if training.recompute_activations:
            memory += ", activations computed again"
        if cost.peak_bytes(self.at_once) > machine.memory * 1e9:
            fitting = int((machine.memory * 1e9 - cost.peak_bytes(0)) // cost.picture_bytes)
            memory += f"; {machine.memory:g} GB hold {max(fitting, 0)}"
        rows = [
            ("parameters", f"{cost.parameters['generator']:,}", "of the generator"),
            ("", f"{cost.parameters['discriminator']:,}", "of the discriminator, its text layers included"),
            (
                "operations a picture",
                f"{cost.step_flops / 1e9:,.1f}",
                "GFLOP (multiply-add = 2), both networks",
            ),
            (
                "  R1, when due",
                f"{cost.penalty_flops / 1e9:,.1f}",
                f"more, every {training.r1_interval} steps",
            ),
            ("GB of a device", f"{cost.peak_bytes(self.at_once) / 1e9:,.1f}", memory),
            ("  each further picture", f"{cost.picture_bytes / 1e9:,.2f}", ""),
            (
                "seconds a step",
                f"{self.computing + self.exchanging:,.3f}",
                f"{self.exchanging:.3f} exchanging",
            ),
            ("pictures a second", f"{self.pictures_per_second:,.0f}", ""),
            ("days", f"{self.days:,.2f}", f"{self.days * 24 * machine.ranks:,.1f} device hours"),
        ]
        return [
            *(f"{name:24s}{number:>16s}  {note}".rstrip() for name, number, note in rows),
            "",
            f"Assumed: {machine.ranks} devices of {machine.teraflops:g} TFLOP/s used to "
            f"{machine.utilisation:.0%}; gradients ({exchanged:.2g} GB a step) in a ring",
            f"at {machine.bandwidth:g} GB/s, not beside computing; batch {training.batch:,}, "
            f"{training.images:,} images, all at the largest side; {PROMPT_TOKENS} tokens a caption.",
            "Not in it: data, frozen networks, heads on them, drawing again, path lengths, optimisers.",
        ]


def project(cost: TrainingCost, machine: Machine) -> Projection:
    """Raises ConfigError where the batch does not divide."""
    training, ranks = cost.run.training, machine.ranks
    if training.batch % ranks:
        raise ConfigError(f"training.batch={training.batch} does not divide among --ranks {ranks}")
    own = training.batch // ranks
    return Projection(
        cost,
        machine,
        at_once=min(own, training.micro_batch or own),
        computing=own * cost.flops / (machine.teraflops * 1e12 * machine.utilisation),
        exchanging=2
        * (ranks - 1)
        / ranks
        * 4  # bytes of a gradient
        * sum(cost.parameters.values())
        / (machine.bandwidth * 1e9),
    )
