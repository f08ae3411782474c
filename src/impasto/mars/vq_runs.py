"""What decides a run of the image tokenizer, and two such runs. Images are the clock."""

import math
from dataclasses import dataclass, field

from impasto.config import ConfigError
from impasto.data.options import DatasetOptions
from impasto.data.scene_source import SceneOptions
from impasto.mars.vq import VQConfig, vq_16, vq_nano_32
from impasto.mars.vq_losses import ObjectiveConfig, PatchDiscriminatorConfig


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
