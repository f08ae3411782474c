"""Everything that a checkpoint of a run holds: networks, optimisers, averages, counters."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from impasto.aurora.discriminator import Discriminator
from impasto.aurora.generator import Generator
from impasto.aurora.growing import Growth, at_side, begin_at_zero
from impasto.aurora.guidance import Guides
from impasto.aurora.reconstruction import LatentEncoder
from impasto.aurora.steps import Critics
from impasto.aurora.training_config import AuroraRun, TrainingConfig
from impasto.aurora.vision_aided import VisionAidedHeads
from impasto.config import ConfigError, to_dict
from impasto.runtime.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from impasto.runtime.ema import AverageByImages
from impasto.runtime.guards import NonFiniteGuard
from impasto.runtime.means import Means
from impasto.runtime.training_state import load_optimizer, optimizer_tensors


@dataclass
class Trained:
    """A network, what updates it, and what watches its gradients."""

    network: nn.Module
    optimizer: Optimizer
    guard: NonFiniteGuard


@dataclass
class TrainingState:
    """A run at one moment. `trained` holds the networks by name: generator, discriminator, and vision_aided
    and latent_encoder where the run has such; `critics` the same discriminator and heads as a step takes
    them."""

    run: AuroraRun
    generator: Generator
    critics: Critics
    trained: dict[str, Trained]
    average: AverageByImages
    path_mean: Tensor
    means: Means  # of metrics since the last log line
    latent_encoder: LatentEncoder | None = None
    growth: Growth | None = None  # of runs that grow
    images: int = 0
    last_checkpoint: Path | None = None

    @classmethod
    def fresh(
        cls,
        run: AuroraRun,
        device: torch.device,
        initial: Mapping[str, Mapping[str, Tensor]] | None = None,
        guides: Guides | None = None,
    ) -> "TrainingState":
        """Networks initialised from the run's seed; `initial` gives weights for fine-tuning, by network."""
        training, guides = run.training, guides or Guides()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            generator, discriminator = Generator(run.model.generator), Discriminator(run.discriminator)
            heads = None
            if guides.vision is not None:
                heads = VisionAidedHeads(guides.vision.map_channels, run.discriminator.text_width)
            encoder = None
            if training.reconstruction_weight:
                encoder = LatentEncoder(run.discriminator.resolution, run.model.generator.z_dim)
        networks: dict[str, nn.Module] = {"generator": generator, "discriminator": discriminator}
        if heads is not None:
            networks["vision_aided"] = heads
        if encoder is not None:
            networks["latent_encoder"] = encoder
        growth = None
        if run.growing.schedule != "none":
            growth = Growth(run.growing.first)
            if not (initial and "generator" in initial):
                begin_at_zero(generator, above=growth.side)
        generator.recompute = discriminator.recompute = training.recompute_activations
        discriminator.apart = run.growing.schedule != "none"
        for name, network in networks.items():
            if initial and name in initial:
                _begin_from(network, initial[name], name)
            network.to(device).train()
        return cls(
            run=run,
            generator=generator,
            critics=Critics(discriminator, guides, heads),
            trained={
                name: Trained(
                    network,
                    _optimizer(network, training),
                    NonFiniteGuard(training.max_bad_steps, f"gradients of the {name}"),
                )
                for name, network in networks.items()
            },
            average=AverageByImages(generator, training.average_half_life, training.average_ramp_up),
            path_mean=torch.zeros((), device=device),
            means=Means(),
            latent_encoder=encoder,
            growth=growth,
        )

    def __post_init__(self) -> None:
        self._show_side()

    def _show_side(self) -> None:
        """The generator stops at the stage's side."""
        self.generator.config = at_side(self.run.model, self.side).generator

    @property
    def side(self) -> int:
        """Of the pictures that are trained on now."""
        return self.run.model.generator.resolution if self.growth is None else self.growth.side

    @property
    def grown(self) -> bool:
        """Whether all levels are trained."""
        return self.side == self.run.model.generator.resolution

    def grow(self, reason: str) -> None:
        """Go on to the next side. Optimisers keep what they know of old parameters; new ones begin afresh."""
        assert self.growth is not None and not self.grown
        self.growth.enter(2 * self.side, self.images, reason)
        self._show_side()

    @property
    def drawing(self) -> list[str]:
        """Names of the networks that draw; the others judge."""
        return [name for name in self.trained if name in ("generator", "latent_encoder")]

    @property
    def discriminator(self) -> Discriminator:
        return self.critics.discriminator

    def save(self, out: Path, extra: Mapping[str, Any]) -> Path:
        """Write a checkpoint and return its folder."""
        tensors: dict[str, Mapping[str, Tensor]] = {
            "average": self.average.state_dict(),
            "training": {"path_mean": self.path_mean},
        }
        values: dict[str, Any] = {}
        for name, part in self.trained.items():
            tensors[name] = part.network.state_dict()
            moments, options = optimizer_tensors(part.optimizer, part.network.named_parameters())
            tensors[f"{name}_optimizer"], values[f"{name}_optimizer"] = moments, options
        self.last_checkpoint = save_checkpoint(
            out,
            self.images,
            tensors,
            {
                "config": to_dict(self.run),
                "images": self.images,
                **values,
                "guards": {name: part.guard.state_dict() for name, part in self.trained.items()},
                **self.means.state_dict(),
                "growth": None if self.growth is None else self.growth.state_dict(),
                **extra,
            },
        )
        return self.last_checkpoint

    def restore(self, checkpoint: Path) -> dict[str, Any]:
        """Take up a verified checkpoint of the same networks; returns its JSON state. Raises CheckpointError
        if it holds tensors of another network."""
        tensors, state = load_checkpoint(checkpoint, verified=True)
        unknown = self.average.load_state_dict(tensors["average"])
        for name, part in self.trained.items():
            part.network.load_state_dict(tensors[name])
            key, named = f"{name}_optimizer", part.network.named_parameters()
            restored = load_optimizer(part.optimizer, named, tensors[key], state[key], options=False)
            unknown += [*restored.fresh, *restored.unused]
            part.guard.load_state_dict(state["guards"][name])
        if unknown:
            raise CheckpointError(f"{checkpoint} is of another network: '{unknown[0]}' does not fit")
        self.path_mean.copy_(tensors["training"]["path_mean"])
        self.means.load_state_dict(state)
        self.images, self.last_checkpoint = state["images"], checkpoint
        if self.growth is not None:
            self.growth = Growth.from_state(state["growth"])
            self._show_side()
        return state


def _optimizer(network: nn.Module, config: TrainingConfig) -> Optimizer:
    rate, own = config.learning_rate, config.discriminator_learning_rate
    if own is not None and not isinstance(network, (Generator, LatentEncoder)):
        rate = own
    return AdamW(
        _groups(network, config),
        lr=rate,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
        fused=True,
    )


def _groups(network: nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
    """Attention layers of the discriminator's trunk have a weight decay of their own (GigaGAN)."""
    if not isinstance(network, Discriminator):
        return [{"params": list(network.parameters())}]
    attention: list[Tensor] = []
    other: list[Tensor] = []
    for name, parameter in network.named_parameters():
        (attention if ".attention." in name else other).append(parameter)
    groups: list[dict[str, Any]] = [{"params": other}]
    if attention:
        groups.append({"params": attention, "weight_decay": config.discriminator_attention_weight_decay})
    return groups


def _begin_from(network: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Give a network the weights of an earlier run. Vision-aided heads on another network start fresh."""
    own = {key: tensor.shape for key, tensor in network.state_dict().items()}
    given = {key: tensor.shape for key, tensor in state.items()}
    if own == given:
        network.load_state_dict(state)
    elif name != "vision_aided":
        odd = next(key for key in [*own, *given] if own.get(key) != given.get(key))
        raise ConfigError(
            f"--init-from: '{odd}' of the {name} does not fit this run; give it the same settings"
        )
