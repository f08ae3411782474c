"""Training of the image tokenizer. Images are the clock; every random number of a step is drawn from (seed,
images seen), so that a resumed run repeats what an uninterrupted one does, bit for bit on a CPU."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from impasto.config import ConfigError, to_dict
from impasto.data.options import DatasetOptions
from impasto.data.scene_source import SceneOptions
from impasto.mars.vq import CodeUsage, VQConfig, VQOutput, VQTokenizer, vq_16, vq_nano_32
from impasto.mars.vq_losses import (
    FeatureMaps,
    ObjectiveConfig,
    PatchDiscriminator,
    PatchDiscriminatorConfig,
    PerceptualDistance,
    discriminator_losses,
    peak_signal_to_noise,
    tokenizer_losses,
)
from impasto.runtime.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from impasto.runtime.dist import Ranks
from impasto.runtime.guards import Deadline, Graceful, NonFiniteGuard
from impasto.runtime.loop import run_steps
from impasto.runtime.means import Means
from impasto.runtime.streams import random_stream
from impasto.runtime.training_state import load_optimizer, optimizer_tensors

CODEBOOK = "quantizer.embedding.weight"


class Source(Protocol):
    """Endless pictures with captions: position n of the global order is the same in every run and rank."""

    def batch(self, positions: Sequence[int]) -> tuple[Tensor, list[str]]:
        """Pictures [len, 3, R, R] in [-1, 1] and one caption each."""
        ...


class Recorder(Protocol):
    """What watches a run: writes metrics, samples, checkpoints."""

    def metrics(self, state: "TokenizerState", values: dict[str, float], seconds: float) -> None: ...
    def samples(self, state: "TokenizerState") -> None: ...
    def checkpoint(self, state: "TokenizerState") -> None: ...
    def tick(self, images: int) -> None: ...


@dataclass(frozen=True, kw_only=True)
class TokenizerTraining:
    """Defaults are LlamaGen's recipe for VQ-16. All lengths and intervals count images."""

    images: int = 51_200_000  # LlamaGen: 40 epochs of ImageNet
    batch: int = 128  # LlamaGen
    micro_batch: int | None = None  # gradient accumulation: images per pass, on each rank; None: all at once
    seed: int = 0
    learning_rate: float = 1e-4  # LlamaGen, for both networks
    warm_up: int = 0  # images over which the rate rises from zero
    final_rate: float = 1.0  # share of the learning rate left at the end, after a cosine; 1: constant
    beta1: float = 0.9  # LlamaGen
    beta2: float = 0.95  # LlamaGen
    weight_decay: float = 0.05  # LlamaGen; here on weights of two or more axes, and not on the codes (ours)
    clip: float = 1.0  # LlamaGen: largest norm of the gradients
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    revive_every: int = 12_800  # ours; 0: dead codes stay dead
    revive_after: int = 12_800  # images during which a code was not used once
    bfloat16: bool = False  # autocast; the lookup and all losses stay in fp32
    log_every: int = 12_800
    sample_every: int = 1_280_000
    checkpoint_every: int = 1_280_000
    keep_checkpoints: int = 2
    max_bad_steps: int = 10  # consecutive steps with non-finite gradients before a run stops

    def __post_init__(self) -> None:
        if self.batch < 1 or self.images < 1:
            raise ConfigError("training.batch and training.images should be at least 1")
        for name in ("log_every", "sample_every", "checkpoint_every", "revive_every"):
            value = getattr(self, name)
            if value % self.batch or (value <= 0 and name != "revive_every"):
                raise ConfigError(f"training.{name}={value} should be a multiple of batch={self.batch}")
        if self.micro_batch is not None and (self.micro_batch < 1 or self.batch % self.micro_batch):
            raise ConfigError(f"training.micro_batch={self.micro_batch} should divide batch={self.batch}")

    def learning_rate_at(self, images: int) -> float:
        """The rate of the step that starts after `images` images: a linear rise, then half a cosine."""
        if images < self.warm_up:
            return self.learning_rate * (images + self.batch) / (self.warm_up + self.batch)
        done = min((images - self.warm_up) / max(self.images - self.warm_up, 1), 1.0)
        share = self.final_rate + (1 - self.final_rate) * (1 + math.cos(math.pi * done)) / 2
        return self.learning_rate * share


@dataclass(frozen=True, kw_only=True)
class TokenizerRun:
    """Everything that decides a run; saved as the run's config.json."""

    resolution: int = 256
    model: VQConfig = field(default_factory=vq_16)
    discriminator: PatchDiscriminatorConfig = field(default_factory=PatchDiscriminatorConfig)
    data: SceneOptions = field(default_factory=SceneOptions)  # --data scenes
    dataset: DatasetOptions = field(default_factory=DatasetOptions)  # any other --data
    training: TokenizerTraining = field(default_factory=TokenizerTraining)

    def __post_init__(self) -> None:
        if self.resolution % self.model.factor:
            raise ConfigError(f"resolution={self.resolution} should divide by f={self.model.factor}")


def vq_16_run() -> TokenizerRun:
    """LlamaGen's recipe at 256 px with the paper's number of codes."""
    return TokenizerRun()


def vq_nano_32_run() -> TokenizerRun:
    """Scenes of up to two plain objects at 32 px, for one CPU core; no perceptual and no adversarial part."""
    return TokenizerRun(
        resolution=32,
        model=vq_nano_32(),
        discriminator=PatchDiscriminatorConfig(channels=32, layers=2),
        data=SceneOptions(max_objects=2, textures=False),
        training=TokenizerTraining(
            images=64_000,
            batch=16,
            learning_rate=4e-3,
            warm_up=800,
            final_rate=0.02,
            objective=ObjectiveConfig(perceptual_weight=0.0, adversarial_weight=0.0),
            revive_every=640,
            revive_after=1_600,
            log_every=640,
            sample_every=3_200,
            checkpoint_every=3_200,
        ),
    )


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
            try:
                network.load_state_dict(tensors[name])
            except RuntimeError as error:
                reason = str(error).splitlines()[-1].strip()
                raise CheckpointError(f"{checkpoint} is of another {name}: {reason}") from None
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


class ExtractedCodes(NamedTuple):
    """codes [n, h, w] uint16 and the n captions of the same positions; low: codes of the same pictures in low
    resolution, if they were asked for."""

    codes: np.ndarray
    captions: list[str]
    low: np.ndarray | None = None


@torch.no_grad()
def extract_codes(
    tokenizer: VQTokenizer,
    source: Source,
    positions: Sequence[int],
    *,
    batch: int = 64,
    low_ratio: int | None = None,
) -> ExtractedCodes:
    """Codes and captions of the source's pictures at `positions`. low_ratio: also the codes of the pictures
    in a side smaller by it, averages of squares of pixels. ValueError for no positions, or for a codebook
    whose ids do not fit into 16 bits."""
    if tokenizer.config.codes > 2**16:
        raise ValueError(f"{tokenizer.config.codes} codes do not fit into 16 bits")
    if not len(positions):
        raise ValueError("no positions to extract codes from")
    device = tokenizer.last_layer.device
    parts: dict[int, list[np.ndarray]] = {ratio: [] for ratio in (1, low_ratio) if ratio is not None}
    captions: list[str] = []
    for start in range(0, len(positions), batch):
        images, texts = source.batch(positions[start : start + batch])
        for ratio, found in parts.items():
            sized = images if ratio == 1 else F.avg_pool2d(images, ratio)
            found.append(tokenizer.encode(sized.to(device)).cpu().numpy().astype(np.uint16))
        captions += texts
    low = None if low_ratio is None else np.concatenate(parts[low_ratio])
    return ExtractedCodes(np.concatenate(parts[1]), captions, low)


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


def _autocast(device: torch.device, enabled: bool) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
