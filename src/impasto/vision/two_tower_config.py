"""What a training run of a two-tower scorer is: the networks, the data, and how they are trained."""

from dataclasses import dataclass, field

from impasto.config import ConfigError
from impasto.data.options import DatasetOptions
from impasto.data.scene_source import SceneOptions
from impasto.vision.two_tower import TwoTowerConfig


@dataclass(frozen=True, kw_only=True)
class TwoTowerTraining:
    """All lengths and intervals count new pictures. Values without a source are ours, found on scenes of 32
    px in a few minutes of one CPU thread, or guesses.

    Nearly all the time goes into the frozen networks, so every picture is used about batch / fresh times: a
    step looks at `fresh` new pictures, and at batch - fresh drawn from the newest `window` before them. (A
    resumed run computes those again.)
    """

    resolution: int = 32  # px that pictures are drawn at
    images: int = 65_536  # new pictures in all
    fresh: int = 32
    batch: int = 256
    window: int = 8192
    bfloat16: bool = True  # frozen networks, and heads by autocast: half the time with AMX
    hard_negatives: bool = True  # each scene also faces a caption that is wrong in one fact
    pair_weight: float = (
        0.1  # of naming the (colour, shape) pairs from either embedding; 0: contrastive alone
    )
    seed: int = 0
    learning_rate: float = 1e-3
    scale_learning_rate: float = 0.01  # of the logit scale, which has far to go in few steps
    warm_up: int = 1024  # linear; then half a cosine down to zero at `images`
    beta1: float = 0.9
    beta2: float = 0.98  # CLIP
    weight_decay: float = 0.05  # CLIP: 0.2; on matrices only, likewise
    log_every: int = 1024
    evaluate_every: int = 8192
    checkpoint_every: int = 4096
    evaluation_pictures: int = 256
    keep_checkpoints: int = 2
    max_bad_steps: int = 10  # consecutive steps with non-finite gradients before a run stops

    def __post_init__(self) -> None:
        if self.fresh < 2:
            raise ConfigError(f"training.fresh={self.fresh} should be at least 2")
        for name in ("images", "batch", "window", "log_every", "evaluate_every", "checkpoint_every"):
            value = getattr(self, name)
            if value < self.fresh or value % self.fresh:
                raise ConfigError(f"training.{name}={value} should be a multiple of fresh={self.fresh}")
        if self.evaluation_pictures < 2:
            raise ConfigError(f"training.evaluation_pictures={self.evaluation_pictures} should be at least 2")
        if self.resolution < 8:
            raise ConfigError(f"training.resolution={self.resolution} should be at least 8")


@dataclass(frozen=True, kw_only=True)
class TwoTowerRun:
    """Everything that decides a run; saved as the run's config.json."""

    model: TwoTowerConfig = field(default_factory=TwoTowerConfig)
    data: SceneOptions = field(default_factory=SceneOptions)  # --data scenes
    dataset: DatasetOptions = field(default_factory=DatasetOptions)  # any other --data
    training: TwoTowerTraining = field(default_factory=TwoTowerTraining)


RUNS = {"two-tower": TwoTowerRun}
