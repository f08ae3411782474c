"""What a training run of Aurora is: the networks, the data, and how they are trained."""

from dataclasses import dataclass, field

from impasto.aurora.augment import AugmentationPolicy
from impasto.aurora.config import AuroraConfig
from impasto.aurora.discriminator import DiscriminatorConfig
from impasto.aurora.growing import GrowingConfig
from impasto.aurora.guidance import GuidanceConfig
from impasto.config import ConfigError
from impasto.data.options import DatasetOptions
from impasto.data.scene_source import SceneOptions


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Defaults are the published recipe where it is known. All lengths and intervals count images."""

    images: int = 50_000_000
    batch: int = 512  # GigaGAN: 512 to 1024; Aurora does not say
    micro_batch: int | None = None  # gradient accumulation: images per pass, on each rank; None: all at once
    seed: int = 0
    learning_rate: float = 0.0025  # paper, for both networks
    discriminator_learning_rate: float | None = None  # and of the vision-aided heads; None: learning_rate
    beta1: float = 0.0  # paper
    beta2: float = 0.99  # paper
    weight_decay: float = 1e-5  # paper
    discriminator_attention_weight_decay: float = 0.01  # GigaGAN
    r1_gamma: float = 0.2048  # GigaGAN at 64 px, where it ends at 2.048; other sides: losses.gamma_at
    r1_interval: int = 16  # steps; GigaGAN
    matching_weight: float = 1.0  # recollection of GigaGAN's table
    inner_head_weight: float = 1.0
    # Of the discriminator's contrastive loss on real pictures and the generator's through it (LAFITE; not in
    # Aurora's recipe); needs discriminator.contrastive.
    contrastive_weight: float = 0.0
    # Of drawing real pictures again from latents that an encoder finds (BicycleGAN; not in Aurora's recipe),
    # and of the latents' divergence from noise, per nat, beside the mean squared error.
    reconstruction_weight: float = 0.0
    reconstruction_divergence: float = 0.01  # ours; at 0.001 pictures of noise stay grey
    adversarial_from: int = 0  # images; before that only `reconstruction_weight` trains
    path_length_weight: float = 0.0  # off as in GigaGAN; StyleGAN2: 2
    path_length_interval: int = 4  # steps; StyleGAN2
    average_half_life: float = 5_000_000.0  # images; guess between StyleGAN's and GigaGAN's
    average_ramp_up: float = 0.05  # StyleGAN2
    w_avg_decay: float = 0.998  # per step; StyleGAN
    bfloat16_generator: bool = False  # autocast; the frozen text encoder in bf16 too
    bfloat16_discriminator: bool = False  # autocast (ours); its losses and R1 stay in fp32
    # Compute activations of both networks again on the way back instead of keeping them: the same numbers in
    # less memory and about a third more time.
    recompute_activations: bool = False
    augmentation: AugmentationPolicy | None = None  # GigaGAN and Aurora: none
    log_every: int = 10_240
    sample_every: int = 1_024_000
    checkpoint_every: int = 1_024_000
    keep_checkpoints: int = 2
    max_bad_steps: int = 10  # consecutive steps with non-finite gradients before a run stops

    def __post_init__(self) -> None:
        for name in ("log_every", "sample_every", "checkpoint_every"):
            value = getattr(self, name)
            if value <= 0 or value % self.batch:
                raise ConfigError(f"training.{name}={value} should be a multiple of batch={self.batch}")
        if self.sample_every % self.checkpoint_every:
            raise ConfigError(
                f"training.sample_every={self.sample_every} should be a multiple of "
                f"checkpoint_every={self.checkpoint_every}: the best sample's checkpoint is kept"
            )
        if self.micro_batch is not None and (self.micro_batch < 1 or self.batch % self.micro_batch):
            raise ConfigError(f"training.micro_batch={self.micro_batch} should divide batch={self.batch}")
        if self.batch < 2 or self.micro_batch == 1:
            raise ConfigError("training.batch and micro_batch should be at least 2: captions are mismatched")
        if self.adversarial_from and not self.reconstruction_weight:
            raise ConfigError("training.adversarial_from needs training.reconstruction_weight")
        for name in ("r1_interval", "path_length_interval", "images"):
            if getattr(self, name) < 1:
                raise ConfigError(f"training.{name} should be at least 1")


@dataclass(frozen=True, kw_only=True)
class AuroraRun:
    """Everything that decides a run; saved as the run's config.json."""

    model: AuroraConfig = field(default_factory=AuroraConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    data: SceneOptions = field(default_factory=SceneOptions)  # --data scenes
    dataset: DatasetOptions = field(default_factory=DatasetOptions)  # any other --data
    training: TrainingConfig = field(default_factory=TrainingConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    growing: GrowingConfig = field(default_factory=GrowingConfig)

    def __post_init__(self) -> None:
        generator, discriminator = self.model.generator, self.discriminator
        if not generator.pyramid:
            raise ConfigError("training needs model.generator.pyramid: the discriminator judges every level")
        if generator.resolutions != discriminator.resolutions[::-1]:
            raise ConfigError(
                f"the generator makes levels {generator.resolutions}, "
                f"the discriminator sees {discriminator.resolutions[::-1]}"
            )
        unknown = set(self.guidance.clip_levels or ()) - set(generator.resolutions)
        if unknown:
            raise ConfigError(
                f"guidance.clip_levels: no level {min(unknown)}; there are {generator.resolutions}"
            )
        if self.training.contrastive_weight and not discriminator.contrastive:
            raise ConfigError("training.contrastive_weight needs discriminator.contrastive=true")
        if generator.text_head.input_dim != discriminator.input_dim:
            raise ConfigError("generator.text_head.input_dim and discriminator.input_dim should be equal")
        group, micro = max(discriminator.deviation_group, 1), self.training.micro_batch
        if micro is not None and (micro < group or micro % group):
            raise ConfigError(
                f"training.micro_batch={micro} should be a multiple of discriminator.deviation_group={group}"
            )
        self._check_growing()

    def _check_growing(self) -> None:
        growing, resolutions = self.growing, self.model.generator.resolutions
        if growing.schedule == "none":
            return
        if self.model.generator.trained_resolutions is not None:
            raise ConfigError(
                "growing chooses the levels itself; leave model.generator.trained_resolutions=null"
            )
        if growing.first not in resolutions:
            raise ConfigError(f"growing.first={growing.first} should be one of the levels {resolutions}")
        batch, name = (
            self.training.batch,
            "check_every" if growing.schedule == "reference" else "stage_images",
        )
        if getattr(growing, name) % batch:
            raise ConfigError(
                f"growing.{name}={getattr(growing, name)} should be a multiple of batch={batch}"
            )
        if self.training.reconstruction_weight:
            raise ConfigError(
                "a run that grows has no whole pictures for training.reconstruction_weight; leave it out, or "
                "growing.schedule=none"
            )
