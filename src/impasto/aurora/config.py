"""Configuration of the Aurora generator.

Defaults are the published network in its *repaired* form. Every difference between the paper's text and the
released code is one field here, with the source of both sides beside it: "published" means the authors'
inference code, "paper" the CVPR text.
"""

from dataclasses import dataclass, field
from typing import Literal

from impasto.config import ConfigError
from impasto.nn.attention import Distance
from impasto.nn.moe import BalanceScope, ExpertKind, RouterInput

PerLevel = dict[int, int] | int  # one number for all levels, or one per resolution


def at_level(table: PerLevel, resolution: int, name: str = "the table") -> int:
    """The entry of a per-level setting for one resolution. Raises ConfigError if there is none."""
    if isinstance(table, int):
        return table
    if resolution not in table:
        raise ConfigError(f"{name} has no entry for resolution {resolution}; add '{name}.{resolution}=...'")
    return table[resolution]


@dataclass(frozen=True, kw_only=True)
class TextHeadConfig:
    """Learned layers over frozen text features."""

    input_dim: int = 768  # width of the encoder's features (CLIP ViT-L/14)
    layers: int = 4  # published
    gain: float = 1.0  # published: residual gain
    learning_rate_multiplier: float = 0.01  # published
    # "tokens": each sample attends over its own tokens. "values_only": the published code's attention is
    # uniform over a batch of one, which leaves out(v(x)): a perceptron per token.
    attention: Literal["tokens", "values_only"] = "tokens"


@dataclass(frozen=True, kw_only=True)
class MappingConfig:
    """z and the global text vector to w."""

    layers: int = 4  # published
    width: int = 1024  # published
    learning_rate_multiplier: float = 0.01  # published
    normalize_inputs: bool = True  # published: pixel norm on z and text; paper eq. (2): none printed
    style_per_layer: bool = False  # True: the last layer gives every slot a w of its own


@dataclass(frozen=True, kw_only=True)
class ConvolutionConfig:
    """Residual blocks of modulated convolutions."""

    blocks: PerLevel = field(default_factory=lambda: {4: 3, 8: 3, 16: 3, 32: 2, 64: 2})  # published
    kernels: PerLevel = field(default_factory=lambda: {4: 1, 8: 1, 16: 2, 32: 4, 64: 8})  # published
    # "convolutions": 3x3 and to-RGB only (published); "everywhere": routers and attention projections too
    # (paper: "all convolution operations").
    kernel_selection: Literal["convolutions", "everywhere"] = "convolutions"
    input: Literal["fourier", "constant"] = "fourier"  # published: Fourier
    # Which convolutions of a block sample deformably: published the second, paper eq. (3) both.
    deform: Literal["none", "second", "both"] = "second"
    deform_max_resolution: int = 16  # paper and published; the first level always
    residual_gain: float = 0.4  # published; paper eq. (3): a plain sum (1.0)
    demodulate: bool = True
    clamp: float | None = None


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Self-attention, cross-attention to the text tokens, feed-forward."""

    depth: PerLevel = field(default_factory=lambda: {4: 0, 8: 2, 16: 2, 32: 2, 64: 1})  # published
    heads: int = 8  # published; the text head has as many
    head_dim: int | None = 64  # published; None: channels / heads
    distance: Distance = "l2"  # published: plain Euclidean; paper: "l2-distance attention"
    tie_query_key: bool = False  # published: no (GigaGAN, which the paper cites, ties them)
    scale_query_and_key: bool = False  # scale both, not the logits: a smaller scale for "dot"
    # Where w modulates: the self-attention's output projection (published), or the projections into and out
    # of the block (paper eqs. (4) and (8)), which then have no group norm before them.
    modulate: Literal["self_attention", "projections"] = "self_attention"
    skip: bool = True  # published: (x + block(x)) * gain; paper eq. (8): block(x) alone
    gain: float = 0.3  # published; not in the paper
    zero_output: bool = True  # published: the output projection starts at zero (needs `skip`)
    pre_norm: bool = True  # published: layer norm before each part; paper eqs. (5)-(9) print none
    # Cross-attention reads the tokens without EOT (published), all of them, or none (ablation).
    text_tokens: Literal["without_eot", "all", "none"] = "without_eot"
    mask_padding: bool = True  # published: padding is attended to (False)
    style_token: bool = False  # w as one more text token (an option of the published code)
    feed_forward: bool = True


@dataclass(frozen=True, kw_only=True)
class MoEConfig:
    """Mixture-of-experts feed-forward layers; one expert is a dense layer."""

    experts: PerLevel = field(default_factory=lambda: {4: 1, 8: 4, 16: 8, 32: 16, 64: 16})  # published
    hidden_ratio: int = 4  # published
    kind: ExpertKind = "geglu"  # published: GEGLU; paper: "two-layer MLP" ("gelu")
    # Published: the expert's output times its router probability (as in Switch Transformer, which the paper
    # cites); "none" is equation (9) as printed, where only the balance loss trains the router.
    expert_scale: Literal["probability", "none"] = "probability"
    router_input: RouterInput = "feature_and_w"  # paper eq. (9) and published
    balance_scope: BalanceScope = "image"  # published: every image is pushed to use all experts
    balance_weight: float = 0.001  # published
    z_weight: float = 0.001  # published; the paper has no z-loss (0)
    capacity: int | None = None  # published: 262144 per expert and image, out of reach below 512x512


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """The whole generator. `trained_resolutions` are the levels that give an image; the network stops after
    the largest (progressive growing), later levels keep their parameters."""

    resolution: int = 64
    initial_resolution: int = 4
    trained_resolutions: tuple[int, ...] | None = None  # None: all
    image_channels: int = 3
    z_dim: int = 128  # published; paper: 512
    w_dim: int = 1024  # published
    context_dim: int = 1024  # published: width of the text head's output
    channel_base: int = 16384  # published: channels = min(base / resolution, max)
    channel_max: int = 1600  # published
    pyramid: bool = True  # published: images of all levels are summed; False: the last one alone
    final_tanh: bool = False
    equalized: bool = True
    text_head: TextHeadConfig = TextHeadConfig()
    mapping: MappingConfig = MappingConfig()
    convolution: ConvolutionConfig = ConvolutionConfig()
    attention: AttentionConfig = AttentionConfig()
    moe: MoEConfig = MoEConfig()

    def __post_init__(self) -> None:
        for name in ("resolution", "initial_resolution"):
            value = getattr(self, name)
            if value < 2 or value & (value - 1):
                raise ConfigError(f"{name}={value} should be a power of two")
        if self.initial_resolution > self.resolution:
            raise ConfigError("initial_resolution is larger than resolution")
        tables = (
            ("convolution.blocks", self.convolution.blocks, 1),
            ("convolution.kernels", self.convolution.kernels, 1),
            ("attention.depth", self.attention.depth, 0),
            ("moe.experts", self.moe.experts, 1),
        )
        for name, table, least in tables:
            for resolution in self.resolutions:
                if at_level(table, resolution, name) < least:
                    raise ConfigError(f"{name} at {resolution} should be at least {least}")
        self._check_attention()
        self._check_trained()

    def _check_attention(self) -> None:
        attention = self.attention
        if attention.zero_output and (not attention.skip or attention.modulate == "projections"):
            raise ConfigError(
                "attention.zero_output needs attention.skip and attention.modulate=self_attention: "
                "otherwise the block would output zeros or divide by them; set it to false"
            )
        if self.context_dim % attention.heads:
            raise ConfigError(f"context_dim={self.context_dim} does not divide by {attention.heads} heads")
        for resolution in self.resolutions:
            if at_level(attention.depth, resolution) == 0:
                continue
            channels = self.channels(resolution)
            if attention.modulate == "self_attention" and channels % 32:
                raise ConfigError(f"{channels} channels at {resolution} do not divide into 32 norm groups")
            if attention.head_dim is None and channels % attention.heads:
                raise ConfigError(f"{channels} channels at {resolution} do not divide into heads")

    def _check_trained(self) -> None:
        trained = self.active_resolutions
        unknown = [r for r in trained if r not in self.resolutions]
        if unknown or not trained:
            raise ConfigError(f"trained_resolutions={trained} should be among {self.resolutions}")
        if self.pyramid and trained != self.resolutions[: len(trained)]:
            first = self.initial_resolution
            raise ConfigError(f"with a pyramid, trained_resolutions={trained} should count up from {first}")

    @property
    def resolutions(self) -> tuple[int, ...]:
        """All levels, smallest first."""
        levels = self.resolution.bit_length() - self.initial_resolution.bit_length() + 1
        return tuple(self.initial_resolution << i for i in range(levels))

    @property
    def active_resolutions(self) -> tuple[int, ...]:
        """The levels that give an image, smallest first."""
        trained = self.resolutions if self.trained_resolutions is None else self.trained_resolutions
        return tuple(sorted(trained))

    @property
    def style_slots(self) -> int:
        """Number of w slots: one per convolution block and one per attention block (23 published)."""
        slots = 0
        for resolution in self.resolutions:
            per_block = 2 if at_level(self.attention.depth, resolution) else 1
            slots += at_level(self.convolution.blocks, resolution) * per_block
        return slots

    def channels(self, resolution: int) -> int:
        return min(self.channel_base // resolution, self.channel_max)


@dataclass(frozen=True, kw_only=True)
class AuroraConfig:
    """A generator and the frozen text encoder it was (or will be) trained with."""

    text_encoder: str = "clip:openai/clip-vit-large-patch14"  # paper: CLIP ViT-L/14
    generator: GeneratorConfig = GeneratorConfig()

    @property
    def resolution(self) -> int:
        """Side of its pictures, in pixels."""
        return self.generator.active_resolutions[-1]
