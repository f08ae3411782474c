"""Configuration of MARS: the frozen language model, the visual expert beside it, the pictures' grids.

Every open question of the paper is one field of `VisualConfig` with the source of each choice beside it:
"paper" and "figure" are the authors' text and framework figure, "peer" a published comparable system, "ours"
a choice of this project.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from impasto.config import ConfigError
from impasto.nn.rotary import RotaryConfig

LEVELS = 3  # begin and end tokens come in pairs, one per resolution (paper: six tokens; three pairs: ours)
ROW_MULTIPLE = 8  # the vocabulary is padded to a multiple of 8: 160,136 in the paper


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """A decoder of the Qwen2 and Llama families. Defaults are Qwen-7B's, the paper's base."""

    vocabulary: int = 151936
    width: int = 4096
    layers: int = 32
    heads: int = 32
    key_value_heads: int = 32
    head_dim: int = 128
    feed_forward: int = 11008
    norm_epsilon: float = 1e-6
    query_key_value_bias: bool = True  # Qwen: yes; Llama: no
    output_bias: bool = False
    feed_forward_bias: bool = False
    tied_head: bool = False
    context: int = 8192  # positions it was trained on
    end_of_text: int = 151643  # token id that ends a text
    rotary: RotaryConfig = field(default_factory=RotaryConfig)

    def __post_init__(self) -> None:
        sizes = ("vocabulary", "width", "layers", "heads", "key_value_heads", "head_dim", "feed_forward")
        for name in sizes:
            if getattr(self, name) < 1:
                raise ConfigError(f"language.{name}={getattr(self, name)} should be at least 1")
        if self.heads % self.key_value_heads:
            raise ConfigError(
                f"language.heads={self.heads} do not divide into {self.key_value_heads} key_value_heads"
            )
        if self.head_dim % 2:
            raise ConfigError(f"language.head_dim={self.head_dim} should be even for rotary positions")
        if not 0 <= self.end_of_text < self.vocabulary:
            raise ConfigError(f"language.end_of_text={self.end_of_text} is not in the vocabulary")


@dataclass(frozen=True, kw_only=True)
class VisualConfig:
    """The trained side: which weights exist twice and how the new vocabulary rows start and compete."""

    codes: int = 8192  # paper
    # "split": frozen language weights and trained visual ones (paper). "shared": one trained set for both
    # modalities, the paper's ablation (table 3, figure 5).
    experts: Literal["split", "shared"] = "split"
    # Figure leaves W_O open; per modality gives the paper's 7 B trained, and every peer splits it.
    output_projection: Literal["per_modality", "shared"] = "per_modality"
    norms: Literal["shared_frozen", "per_modality"] = "shared_frozen"  # figure; per modality: peers
    softmax: Literal["separate", "joint"] = "separate"  # joint: paper; separate: peer (QLIP)
    query_key_norm: bool = False  # peer (QLIP): on visual queries and keys; changes the function at step 0
    initial_noise: float = 0.1  # standard deviations around the mean row (ours; the paper: 0)
    initial_codebook: float = 0.0  # likewise, of the tokenizer's own vectors (ours: `carry_codebook`)

    @property
    def started(self) -> "VisualConfig":
        """Without what decides first values alone: of a trained expert, how it began does not matter."""
        return replace(self, initial_noise=0.0, initial_codebook=0.0)

    def __post_init__(self) -> None:
        if self.codes < 2:
            raise ConfigError(f"visual.codes={self.codes} should be at least 2")
        for name in ("initial_noise", "initial_codebook"):
            if getattr(self, name) < 0:
                raise ConfigError(f"visual.{name}={getattr(self, name)} should not be negative")
        if self.experts == "shared" and self.output_projection == "shared":
            raise ConfigError(
                "visual.experts=shared has one output projection already; leave that at per_modality"
            )


@dataclass(frozen=True, kw_only=True)
class SuperResolutionConfig:
    """Stage III: next-K-token prediction of a picture whose low-resolution codes are known (`blocks`). That
    there is such a stage is the paper's; everything here is a proposal of section 10 of the notes."""

    tokens_per_step: int = 4  # K: a square block of codes at once
    # "block": a small causal network that emits the K codes in order. "independent": K linear heads, the
    # plain reading of "next K tokens", which draws neighbours that know nothing of each other.
    head: Literal["block", "independent"] = "block"
    anchor: bool = True  # add the embedding of a block's own low-resolution code to its step
    head_width: int | None = None  # of the block head; None: a quarter of the model's
    head_layers: int = 1

    def __post_init__(self) -> None:
        if self.tokens_per_step not in (1, 4, 16):
            raise ConfigError(f"super_resolution.tokens_per_step={self.tokens_per_step} should be 1, 4 or 16")
        for name in ("head_width", "head_layers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"super_resolution.{name}={value} should be at least 1")

    @property
    def block_side(self) -> int:
        return math.isqrt(self.tokens_per_step)


@dataclass(frozen=True, kw_only=True)
class MarsConfig:
    """A language model, its visual expert, and the side of the square code grid at each resolution. With
    `super_resolution` it draws the last grid from the one before."""

    language: LanguageConfig = LanguageConfig()
    visual: VisualConfig = VisualConfig()
    grids: tuple[int, ...] = (16, 32, 64)  # 256, 512 and 1024 px at 16 px a code
    super_resolution: SuperResolutionConfig | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.grids) <= LEVELS or min(self.grids) < 1:
            raise ConfigError(f"grids={self.grids} should be one to {LEVELS} sides of at least 1 code")
        if self.super_resolution is not None:
            self._check_super_resolution(self.super_resolution.block_side)

    def _check_super_resolution(self, block_side: int) -> None:
        if len(self.grids) < 2 or self.grids[-1] % (self.grids[-2] * block_side):
            raise ConfigError(
                f"grids={self.grids} should end with a low side and a multiple of {block_side} of it: "
                f"super_resolution draws blocks of {block_side} x {block_side} codes inside each low one"
            )
        if self.visual.experts != "split" or self.visual.softmax != "separate":
            raise ConfigError("super_resolution needs visual.experts=split and visual.softmax=separate")

    @property
    def tokens(self) -> "Vocabulary":
        return Vocabulary(self.language.vocabulary, self.visual.codes)

    def grid(self, level: int) -> int:
        """Codes along one side at a resolution level. Raises ConfigError for a level that is not there."""
        if not 0 <= level < len(self.grids):
            raise ConfigError(f"level={level} is not among the {len(self.grids)} resolutions of this model")
        return self.grids[level]

    def image_length(self, level: int) -> int:
        return self.grid(level) ** 2

    def picture_positions(self, level: int) -> int:
        """Places in the sequence that the codes of a picture take: one each, but with `super_resolution` one
        for each code of the low picture and one for each block of the high one."""
        count = self.image_length(level)
        if self.super_resolution is None:
            return count
        return self.image_length(level - 1) + count // self.super_resolution.tokens_per_step


@dataclass(frozen=True)
class Vocabulary:
    """Where each kind of token lies among all ids: text rows first, then the added block of codes, end
    tokens, begin tokens and padding rows. The order inside the block is ours (section 2.3 of the notes); it
    makes codes and the first end token one run of rows."""

    text: int
    codes: int

    @property
    def used_rows(self) -> int:
        """Codes and the six markers."""
        return self.codes + 2 * LEVELS

    @property
    def rows(self) -> int:
        """Of the added block, padding included."""
        return self.total - self.text

    @property
    def total(self) -> int:
        used = self.text + self.used_rows
        return used + -used % ROW_MULTIPLE

    def end(self, level: int) -> int:
        """Id of `</img>`, `</img_m>` or `</img_h>`."""
        return self.text + self.codes + level

    def begin(self, level: int) -> int:
        """Id of `<img>`, `<img_m>` or `<img_h>`."""
        return self.text + self.codes + LEVELS + level

    def level_of_begin(self, token: int) -> int | None:
        level = token - self.begin(0)
        return level if 0 <= level < LEVELS else None

    def is_code(self, token: int) -> bool:
        return self.text <= token < self.text + self.codes

    def is_visual(self, token: int) -> bool:
        """Whether the visual expert handles it: codes and begin tokens do, text and end tokens do not (the
        begin token predicts the first code, the end token the first word; peer: CogVLM)."""
        return self.is_code(token) or self.level_of_begin(token) is not None
