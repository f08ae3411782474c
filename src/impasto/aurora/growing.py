"""Progressive growing (paper section 3.4): when training goes on to the next resolution, and why.

A stage trains the levels up to its side; those above wait with the weights they were made with. Nothing old
changes at a switch: the generator adds the new level's RGB, whose weights begin at zero, to its last picture
doubled, and the discriminator judges the new side in a stage in front of the others (late entry). So there is
no fading (ours; the paper says only that outputs accumulate).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from torch import Tensor, nn

from impasto.aurora.config import AuroraConfig
from impasto.aurora.discriminator import box_pyramid
from impasto.aurora.generator import Generator
from impasto.config import ConfigError

Schedule = Literal["none", "images", "reference"]


@dataclass(frozen=True, kw_only=True)
class GrowingConfig:
    """How a run grows. "none": all levels from the start. "images": every stage but the last lasts
    `stage_images`. "reference": a stage ends when the distance of generated pictures to real ones, measured
    every `check_every` images, surpasses `ratio` times the distance between two disjoint real sets of
    `reference_images` each (paper). Generated pictures are as many as one of those sets, and are held against
    `real_images` (the two sets among them): a Frechet distance is biased by the number of pictures, and with
    equal numbers a perfect generator would only tie. Paper gives none of the numbers: all are ours.
    """

    schedule: Schedule = "none"
    first: int = 4  # side of the first stage
    stage_images: int = 1_000_000
    check_every: int = 100_000
    ratio: float = 1.0
    min_images: int = 0  # of a stage, whatever the distance
    max_images: int = 10_000_000  # of a stage: then it ends, whatever the distance
    patience: int = 10  # a stage ends after so many measurements without a smaller distance; 0: never
    reference_images: int = 5_000
    real_images: int = 50_000
    extractor: str = "efficientnet-lite0"  # as `impasto evaluate --extractor`

    def __post_init__(self) -> None:
        for name in ("stage_images", "check_every", "max_images", "reference_images"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"growing.{name}={getattr(self, name)} should be above 0")
        if self.reference_images < 2:
            raise ConfigError("growing.reference_images should be at least 2: a covariance needs two")
        if self.real_images < 2 * self.reference_images:
            raise ConfigError(
                f"growing.real_images={self.real_images} should be at least twice reference_images="
                f"{self.reference_images}: the two reference sets are among them"
            )
        if self.min_images > self.max_images:
            raise ConfigError(
                f"growing.min_images={self.min_images} is above growing.max_images={self.max_images}"
            )
        if self.ratio <= 0 or self.min_images < 0 or self.patience < 0:
            raise ConfigError("growing.ratio should be above 0, min_images and patience not below")


@dataclass
class Growth:
    """Where a growing run is; part of its checkpoints. `distances` are of the present stage."""

    side: int
    entered: int = 0  # images seen when the stage began
    distances: list[float] = field(default_factory=list)
    reference: float | None = None  # between real sets at this side, once measured
    decisions: list[dict[str, Any]] = field(default_factory=list)  # one for each switch

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Growth":
        return cls(**state)

    def enter(self, side: int, images: int, reason: str) -> None:
        """Begin the next stage."""
        self.decisions.append(
            {
                "images": images,
                "from": self.side,
                "to": side,
                "reason": reason,
                "distance": self.distances[-1] if self.distances else None,
                "reference": self.reference,
            }
        )
        self.side, self.entered, self.distances, self.reference = side, images, [], None


def why_grow(growth: Growth, images: int, config: GrowingConfig) -> str | None:
    """The reason to end the stage after so many images of the run, or None to stay."""
    seen = images - growth.entered
    if config.schedule == "images":
        return f"{seen:,} images of the stage" if seen >= config.stage_images else None
    if seen < config.min_images:
        return None
    if growth.distances and growth.reference is not None:
        distance, threshold = growth.distances[-1], config.ratio * growth.reference
        if distance <= threshold:
            return (
                f"surpassed reference: {distance:.4g} <= {config.ratio:g} x {growth.reference:.4g} "
                f"= {threshold:.4g}"
            )
    if seen >= config.max_images:
        return f"maximum of {config.max_images:,} images of the stage"
    best = growth.distances.index(min(growth.distances)) if growth.distances else 0
    if config.patience and len(growth.distances) - 1 - best >= config.patience:
        return f"plateau: none of {config.patience} measurements below {growth.distances[best]:.4g}"
    return None


def measurement_due(growth: Growth, images: int, config: GrowingConfig) -> bool:
    """Whether a distance is wanted now."""
    seen = images - growth.entered
    return config.schedule == "reference" and (seen % config.check_every == 0 or seen >= config.max_images)


def at_side(model: AuroraConfig, side: int) -> AuroraConfig:
    """The same model with pictures of a stage's side. At the largest side it is the model itself."""
    generator = model.generator
    if side == generator.resolution:
        return model
    stage = tuple(r for r in generator.resolutions if r <= side)
    return replace(model, generator=replace(generator, trained_resolutions=stage))


def begin_at_zero(generator: Generator, above: int) -> None:
    """Levels above a side add nothing to the picture below them until they are trained."""
    for level in generator.levels:
        if level.resolution > above:
            nn.init.zeros_(level.to_rgb.bank.weight)
            nn.init.zeros_(level.to_rgb.bias)


def down_to(images: Tensor, side: int) -> Tensor:
    """Pictures [B, 3, R, R] as a stage sees them: 2x2 means down to [B, 3, side, side], what the
    discriminator's pyramid of them has at that level."""
    return box_pyramid(images, side)[side]
