"""The state of an image tokenizer's training, and its checkpoints."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from impasto.config import to_dict
from impasto.mars.vq import CodeUsage, VQTokenizer
from impasto.mars.vq_losses import PatchDiscriminator
from impasto.mars.vq_runs import TokenizerRun, TokenizerTraining
from impasto.runtime.checkpoint import load_checkpoint, save_checkpoint
from impasto.runtime.dist import Ranks
from impasto.runtime.guards import NonFiniteGuard
from impasto.runtime.means import Means
from impasto.runtime.training_state import load_network, load_optimizer, optimizer_tensors

CODEBOOK = "quantizer.embedding.weight"


@dataclass
class TokenizerState:
    """Everything that a checkpoint holds."""

    run: TokenizerRun
    tokenizer: VQTokenizer
    discriminator: PatchDiscriminator
    tokenizer_optimizer: Optimizer
    discriminator_optimizer: Optimizer
    usage: CodeUsage  # of all ranks, since the last log line
    idle: Tensor  # [codes] int64: images since a code was last used
    guards: dict[str, NonFiniteGuard]
    means: Means  # of metrics since the last log line
    images: int = 0
    last_checkpoint: Path | None = None

    @classmethod
    def fresh(
        cls,
        run: TokenizerRun,
        device: torch.device,
        initial: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> "TokenizerState":
        """Networks initialised from the run's seed; `initial` gives weights for fine-tuning, by network."""
        training = run.training
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            tokenizer, discriminator = VQTokenizer(run.model), PatchDiscriminator(run.discriminator)
        for name, network in {"tokenizer": tokenizer, "discriminator": discriminator}.items():
            if initial and name in initial:
                network.load_state_dict(initial[name])
        tokenizer.to(device).train()
        discriminator.to(device).train()
        return cls(
            run=run,
            tokenizer=tokenizer,
            discriminator=discriminator,
            tokenizer_optimizer=_optimizer(tokenizer, training),
            discriminator_optimizer=_optimizer(discriminator, training),
            usage=CodeUsage(run.model.codes, device),
            idle=torch.zeros(run.model.codes, dtype=torch.int64, device=device),
            guards={
                name: NonFiniteGuard(training.max_bad_steps, f"gradients of the {name}")
                for name in ("tokenizer", "discriminator")
            },
            means=Means(),
        )

    def take_metrics(self, ranks: Ranks) -> dict[str, float]:
        """Means of the metrics since the last call, and the codes used since then; both start anew."""
        means = self.means.take(ranks)
        means |= {"codes/used": float(self.usage.used), "codes/perplexity": self.usage.perplexity}
        self.usage.reset()
        return means

    def save(self, out: Path, extra: Mapping[str, Any]) -> Path:
        """Write a checkpoint and return its folder."""
        tensors: dict[str, Mapping[str, Tensor]] = {}
        documents: dict[str, Any] = {}
        for name, network, optimizer in self._trained():
            tensors[name] = network.state_dict()
            tensors[f"{name}_optimizer"], documents[f"{name}_optimizer"] = optimizer_tensors(
                optimizer, network.named_parameters()
            )
        tensors["codes"] = {"usage": self.usage.counts, "idle": self.idle}
        documents |= {
            "config": to_dict(self.run),
            "images": self.images,
            "guards": {name: guard.state_dict() for name, guard in self.guards.items()},
            **self.means.state_dict(),
        }
        self.last_checkpoint = save_checkpoint(out, self.images, tensors, {**documents, **extra})
        return self.last_checkpoint

    def restore(self, checkpoint: Path) -> dict[str, Any]:
        """Take up a verified checkpoint of the same networks; returns its JSON state. CheckpointError where
        it is of others."""
        tensors, state = load_checkpoint(checkpoint, verified=True)
        for name, network, optimizer in self._trained():
            load_network(network, tensors[name], f"{checkpoint} is of another {name}")
            named, key = network.named_parameters(), f"{name}_optimizer"
            load_optimizer(optimizer, named, tensors[key], state[key], options=False)
        self.usage.counts.copy_(tensors["codes"]["usage"])
        self.idle.copy_(tensors["codes"]["idle"])
        for name, guard in self.guards.items():
            guard.load_state_dict(state["guards"][name])
        self.means.load_state_dict(state)
        self.images, self.last_checkpoint = state["images"], checkpoint
        return state

    def _trained(self) -> Iterator[tuple[str, nn.Module, Optimizer]]:
        yield "tokenizer", self.tokenizer, self.tokenizer_optimizer
        yield "discriminator", self.discriminator, self.discriminator_optimizer


def _optimizer(network: nn.Module, config: TokenizerTraining) -> Optimizer:
    """AdamW; biases, norms and codes do not decay."""
    groups: list[dict[str, Any]] = [{"params": []}, {"params": [], "weight_decay": 0.0}]
    for name, parameter in network.named_parameters():
        groups[parameter.dim() < 2 or name == CODEBOOK]["params"].append(parameter)
    return AdamW(
        groups,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
    )
