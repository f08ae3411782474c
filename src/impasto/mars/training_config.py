"""What the training runs of MARS are: the language model of one's own, and the visual expert.

The image tokenizer's is in `vq_runs`. Tags say where a number comes from: "paper", "peer" (a published
comparable system), "ours" (chosen here), "guess".
"""

import math
from dataclasses import dataclass, field

from impasto.config import ConfigError
from impasto.data.options import DatasetOptions
from impasto.data.scene_source import SceneOptions
from impasto.mars.config import LanguageConfig, MarsConfig

MARKERS = 4  # more than a sequence has beside its caption and its picture


def _check_multiples(training: object, names: tuple[str, ...], step: int, of: str) -> None:
    for name in names:
        value = getattr(training, name)
        if value <= 0 or value % step:
            raise ConfigError(f"training.{name}={value} should be a multiple of {of} {step}")


def warm_cosine(done: float, warm_up: float, final: float) -> float:
    """Share of the peak rate when `done` of a run is over: a linear rise over `warm_up`, then half a cosine
    down to `final`; all three between 0 and 1."""
    if done < warm_up:
        return done / warm_up
    along = min((done - warm_up) / max(1 - warm_up, 1e-9), 1.0)
    return final + (1 - final) * (1 + math.cos(math.pi * along)) / 2


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """AdamW with a warm-up and half a cosine."""

    learning_rate: float = 1e-4  # paper
    warm_up: float = 0.01  # share of the run; paper
    final_rate: float = 0.1  # share of the rate that is left at the end (ours: 1e-5 of 1e-4)
    beta1: float = 0.9  # inferred from the paper's "beta 0.95"
    beta2: float = 0.95  # paper
    weight_decay: float = 0.1  # paper; here on weights of two axes alone (ours)
    clip: float = 1.0  # peer (LlamaGen, Janus-Pro): largest norm of the gradients
    max_bad_steps: int = 10  # consecutive steps with non-finite gradients before a run stops

    def __post_init__(self) -> None:
        if not self.learning_rate > 0 or not self.clip > 0:
            raise ConfigError("optimisation.learning_rate and optimisation.clip should be above 0")
        for name in ("warm_up", "final_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"optimisation.{name}={getattr(self, name)} should be between 0 and 1")

    def rate(self, done: float) -> float:
        """The learning rate of the step after which `done` of the run, in (0, 1], is over."""
        return self.learning_rate * warm_cosine(done, self.warm_up, self.final_rate)


@dataclass(frozen=True, kw_only=True)
class LanguageTraining:
    """A small language model on captions of scenes, or of another set's pictures. All lengths and intervals
    count scenes (pictures) whose captions are read. Sizes: ours."""

    scenes: int = 64_000
    batch: int = 32
    captions_per_scene: int = 2  # in one sequence, so that words earlier in it are worth looking up (ours)
    tokeniser_scenes: int = 8_000  # whose captions the pieces of the text tokeniser are fitted on
    seed: int = 0
    optimisation: Optimisation = Optimisation(learning_rate=2e-3)
    validation_scenes: int = 256
    log_every: int = 640
    checkpoint_every: int = 6_400
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        for name in ("scenes", "batch", "captions_per_scene", "tokeniser_scenes", "validation_scenes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"training.{name}={getattr(self, name)} should be at least 1")
        _check_multiples(self, ("log_every", "checkpoint_every"), self.batch, "batch")


@dataclass(frozen=True, kw_only=True)
class LanguageRun:
    """Everything that decides a language run; saved as the run's config.json."""

    model: LanguageConfig = field(default_factory=LanguageConfig)
    data: SceneOptions = field(default_factory=SceneOptions)  # --data scenes
    dataset: DatasetOptions = field(default_factory=DatasetOptions)  # any other --data
    training: LanguageTraining = LanguageTraining()


@dataclass(frozen=True, kw_only=True)
class StageTraining:
    """A stage of the visual expert. Lengths and intervals count image tokens, whichever side of the caption
    they stand on: a picture is `grid * grid` of them, in stage III those of the high resolution."""

    tokens: int = 51_200_000_000  # paper, stage I: 200 M pictures of 256
    batch: int = 40  # pictures a step (paper: 4,096 and 1,536)
    micro_batch: int | None = None  # gradient accumulation: pictures per pass on each rank; None: all
    seed: int = 0
    image_to_text: float = 0.2  # share of pictures that are described, not drawn (peer: LMFusion); 0: none
    caption_dropout: float = 0.1  # of those that are drawn, for guidance (peer: LlamaGen)
    image_to_text_image_weight: float = 0.0  # of the likelihood of a picture that has no caption yet (ours)
    end_token_loss: bool = True  # whether the end of a picture is predicted too (paper)
    low_corruption: float = 0.075  # stage III: share of low codes put at random (section 10: 5 to 10 %)
    z_loss_weight: float = 0.0  # on image logits; peer (Lumina-mGPT): 1e-5
    optimisation: Optimisation = Optimisation()
    pictures: int = 16_000  # at most, whose codes are extracted, once; seen in a new order every epoch
    captions_per_picture: int = 4  # of a scene, one of them drawn each time; other sets: all there are
    # Documents of so many sentences with a picture after each, in place of single pictures; 0: none. Their
    # caption_dropout leaves out the first sentence.
    pictures_per_story: int = 0
    text_weight: float = 1.0  # of the likelihood of a story's sentences, and of where pictures begin (ours)
    shard_pictures: int = 4_096  # in one file of codes
    prefix_cache_mebibytes: int = 256  # keys and values of captions that are kept; 0: none; never if sharded
    shard_model: bool = False  # FSDP2: share parameters, gradients and optimiser out among the ranks
    # Adapters on the visual expert's linear layers, which then stay as they start; 0: none.
    lora_rank: int = 0
    lora_alpha: float = 16.0  # alpha / rank scales an adapter (peft's custom)
    checkpoint_activations: bool = False  # compute the visual path's activations again in the backward pass
    bfloat16: bool = False  # autocast; weights, optimiser and losses stay in fp32
    validation_pictures: int = 256
    sample_prompts: int = 64  # drawn and scored at each sample, of each split
    guidance: float = 3.0  # of samples, and the default of the model that comes of it (guess)
    log_every: int = 102_400
    sample_every: int = 10_240_000
    checkpoint_every: int = 10_240_000
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        least_one = ("tokens", "batch", "pictures", "captions_per_picture", "shard_pictures")
        for name in (*least_one, "validation_pictures", "sample_prompts", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ConfigError(f"training.{name}={getattr(self, name)} should be at least 1")
        for name in ("image_to_text", "caption_dropout", "low_corruption"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"training.{name}={getattr(self, name)} should be in [0, 1)")
        if self.lora_alpha <= 0:
            raise ConfigError(f"training.lora_alpha={self.lora_alpha} should be above 0")
        if self.lora_rank and self.shard_model:
            raise ConfigError("training.lora_rank and training.shard_model do not go together; choose one")
        not_negative = ("lora_rank", "prefix_cache_mebibytes", "z_loss_weight", "image_to_text_image_weight")
        for name in (*not_negative, "pictures_per_story", "text_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(f"training.{name}={getattr(self, name)} should not be negative")
        size = self.micro_batch or self.batch
        if size < 1 or self.batch % size:
            raise ConfigError(f"training.micro_batch={size} should divide batch={self.batch}")
        if self.image_to_text and size < 2:
            raise ConfigError("training.micro_batch should be at least 2: each pass draws and describes")
        _check_multiples(self, ("sample_every",), self.checkpoint_every, "checkpoint_every")
        self._check_stories(size)

    def _check_stories(self, size: int) -> None:
        count = self.pictures_per_story
        if not count:
            return
        if self.image_to_text:
            raise ConfigError("training.image_to_text should be 0 with training.pictures_per_story")
        for name, value in (("pictures", self.pictures), ("batch", self.batch), ("micro_batch", size)):
            if value % count:
                raise ConfigError(
                    f"training.{name}={value} should be a multiple of pictures_per_story={count}"
                )

    def described(self, size: int) -> int:
        """How many of `size` pictures of one pass are described: both tasks are in each pass, since without
        a drawn picture the last layer would have no gradient (section 7 of the notes)."""
        if not self.image_to_text:
            return 0
        return min(max(round(self.image_to_text * size), 1), size - 1)


@dataclass(frozen=True, kw_only=True)
class StageRun:
    """Everything that decides a run of stage I or II, or of stage III, where the model has
    `super_resolution`; saved as the run's config.json."""

    model: MarsConfig = field(default_factory=MarsConfig)
    tokenizer: str = ""  # run or model directory of the image tokenizer
    language: str = ""  # the same of the language model, or a Hugging Face directory
    level: int = 0  # which of the model's grids
    data: SceneOptions = field(default_factory=SceneOptions)  # --data scenes
    dataset: DatasetOptions = field(default_factory=DatasetOptions)  # any other --data
    training: StageTraining = StageTraining()

    def __post_init__(self) -> None:
        training = self.training
        step = training.batch * self.model.image_length(self.level)
        _check_multiples(training, ("log_every", "sample_every", "checkpoint_every"), step, "a step's")
        count = training.pictures_per_story
        if count and self.sentence_length < 1:
            context = self.model.language.context
            raise ConfigError(
                f"training.pictures_per_story={count} pictures do not fit into {context} tokens"
            )
        if self.model.super_resolution is not None:
            if self.level != len(self.model.grids) - 1:
                last = len(self.model.grids) - 1
                raise ConfigError(f"level={self.level} should be {last}, the last of model.grids")
            if training.image_to_text or training.image_to_text_image_weight:
                raise ConfigError("training.image_to_text should be 0: stage III draws, it does not describe")
            if count:
                raise ConfigError("training.pictures_per_story should be 0: stage III draws single pictures")

    @property
    def image_length(self) -> int:
        return self.model.image_length(self.level)

    @property
    def sentence_length(self) -> int:
        """Tokens of a story's sentence that are read, so that all of them and the pictures fit."""
        each = self.model.language.context // max(self.training.pictures_per_story, 1)
        return each - self.image_length - MARKERS

    @property
    def caption_length(self) -> int:
        """Tokens of a caption that are read: what fits into the context beside a picture and its markers."""
        return max(self.model.language.context - self.model.picture_positions(self.level) - MARKERS, 1)
