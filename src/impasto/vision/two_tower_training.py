"""The training loop of a two-tower scorer. New pictures are the clock; what a step computes follows from
(run, pictures seen), so that a resumed run repeats what an uninterrupted one does, bit for bit on a CPU."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.optim import AdamW, Optimizer

from impasto.config import to_dict
from impasto.runtime.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from impasto.runtime.dist import Ranks
from impasto.runtime.guards import Deadline, Graceful, NonFiniteGuard
from impasto.runtime.means import Means
from impasto.runtime.streams import random_stream
from impasto.runtime.training_state import load_network, load_optimizer, optimizer_tensors
from impasto.vision.contrastive import pair_loss, symmetric_loss
from impasto.vision.examples import ExampleStream
from impasto.vision.two_tower import TwoTower
from impasto.vision.two_tower_config import TwoTowerRun, TwoTowerTraining


class Recorder(Protocol):
    """What watches a run, as `two_tower_launch.TwoTowerRecorder` does. images: new pictures seen; seconds: of
    the last step."""

    def tick(self, images: int) -> None: ...
    def metrics(self, state: "TwoTowerState", values: Mapping[str, float], seconds: float) -> None: ...
    def evaluate(self, state: "TwoTowerState") -> None: ...
    def checkpoint(self, state: "TwoTowerState") -> None: ...


@dataclass
class TwoTowerState:
    """Everything that a checkpoint holds: the heads, their optimiser, and where the data stands."""

    run: TwoTowerRun
    model: TwoTower
    optimizer: Optimizer
    guard: NonFiniteGuard
    images: int = 0
    means: Means = field(default_factory=Means)  # of metrics since the last log line
    last_checkpoint: Path | None = None

    @classmethod
    def fresh(cls, run: TwoTowerRun, device: torch.device | str = "cpu") -> "TwoTowerState":
        """Heads initialised from the run's seed. Raises impasto.assets.MissingAssetError without the
        packages."""
        model = TwoTower.fresh(run.model, run.training.seed).to(device)
        if run.training.bfloat16:
            model.features.to(torch.bfloat16)
            model.encoder.to(torch.bfloat16)
        guard = NonFiniteGuard(run.training.max_bad_steps, "gradients of the heads")
        return cls(run, model, _optimizer(model, run.training), guard)

    def save(self, out: Path) -> Path:
        """Write a checkpoint and return its folder. CheckpointError if it cannot be written."""
        tensors, optimizer = optimizer_tensors(self.optimizer, self.model.heads.named_parameters())
        self.last_checkpoint = save_checkpoint(
            out,
            self.images,
            {"heads": self.model.heads.state_dict(), "optimizer": tensors},
            {
                "config": to_dict(self.run),
                "images": self.images,
                "optimizer": optimizer,
                "guard": self.guard.state_dict(),
                **self.means.state_dict(),
            },
        )
        return self.last_checkpoint

    def restore(self, checkpoint: Path) -> dict[str, Any]:
        """Take up a verified checkpoint of the same heads; returns its JSON state. CheckpointError where it
        is of others, or cannot be read."""
        tensors, state = load_checkpoint(checkpoint, verified=True)
        load_network(self.model.heads, tensors["heads"], f"{checkpoint} is of other heads")
        restored = load_optimizer(
            self.optimizer,
            self.model.heads.named_parameters(),
            tensors["optimizer"],
            state["optimizer"],
            options=False,
        )
        if restored.fresh or restored.unused:
            name = [*restored.fresh, *restored.unused][0]
            raise CheckpointError(f"{checkpoint} is of other heads: '{name}' does not fit")
        self.guard.load_state_dict(state["guard"])
        self.means.load_state_dict(state)
        self.images, self.last_checkpoint = state["images"], checkpoint
        return state


def train(
    state: TwoTowerState,
    stream: ExampleStream,
    recorder: Recorder,
    *,
    deadline: Deadline,
    stop: Graceful,
) -> str:
    """Train until the run's pictures are seen, the deadline has passed or a signal asks to stop; the last
    checkpoint is written in each case, and at the end of the run an evaluation. Returns why it ended. Raises
    NonFiniteError after too many bad steps in a row, with the last good checkpoint kept."""
    config = state.run.training
    while state.images < config.images:
        started = time.perf_counter()
        step(state, stream)
        recorder.tick(state.images)
        if state.images % config.log_every == 0:
            recorder.metrics(state, state.means.take(Ranks()), time.perf_counter() - started)
        finished = state.images >= config.images
        if state.images % config.evaluate_every == 0 or finished:
            recorder.evaluate(state)
        ending = stop.requested or deadline.passed
        if state.images % config.checkpoint_every == 0 or finished or ending:
            recorder.checkpoint(state)
        if ending and not finished:
            return stop.reason or "time limit"
    return "finished"


def step(state: TwoTowerState, stream: ExampleStream) -> None:
    """One update of the heads, on `batch` examples of which `fresh` are new. Raises NonFiniteError as its
    guard does."""
    config, model = state.run.training, state.model
    generator = random_stream("step", config.seed, state.images)
    examples = stream.batch(state.images // config.fresh, config.batch, config.window, generator)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=config.bfloat16):
        images = model.embed_observed(examples.maps, examples.pooled)
        texts = model.embed_features(examples.texts())
    losses = symmetric_loss(images, texts, model.heads.log_scale.exp(), examples.ids, examples.samples)
    shown, said = model.heads.name_pairs(images), model.heads.name_pairs(texts)
    losses["loss/pairs"] = (
        pair_loss(shown, examples.pairs[: len(images)]) + pair_loss(said, examples.pairs)
    ) / 2
    (losses["loss/contrastive"] + config.pair_weight * losses["loss/pairs"]).backward()
    bad = state.guard.clean(
        (parameter.grad for parameter in model.heads.parameters()), state.images, state.last_checkpoint
    )
    share = schedule(config, state.images)
    for group in state.optimizer.param_groups:
        group["lr"] = share * group["initial_lr"]
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    model.heads.cap_scale()
    state.means.add(
        {
            **losses,
            "nonfinite": float(bad),
            "scale": model.scale,
            "learning_rate": share * config.learning_rate,
        }
    )
    state.images += config.fresh


def schedule(config: TwoTowerTraining, images: int) -> float:
    """Share of the learning rates in the step that begins at `images`: linear, then half a cosine to zero."""
    ramp = min(1.0, (images + config.fresh) / max(config.warm_up, 1))
    return ramp * 0.5 * (1 + math.cos(math.pi * min(1.0, images / config.images)))


def _optimizer(model: TwoTower, config: TwoTowerTraining) -> Optimizer:
    """Weight decay on matrices alone, as CLIP."""
    scale = model.heads.log_scale
    parameters = [parameter for parameter in model.heads.parameters() if parameter is not scale]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() == 1]},
        {"params": [scale], "lr": config.scale_learning_rate},
    ]
    betas = (config.beta1, config.beta2)
    optimizer = AdamW(groups, lr=config.learning_rate, betas=betas, weight_decay=0.0)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer
