"""The discriminator: multi-scale input, multi-scale output (GigaGAN section 3.4 and eqs. 6 and 7; Aurora's
paper takes it over without a description).

One trunk serves a pyramid of images. The image of side R enters at the stage of side R through a 1x1
from-RGB layer of its own, and from there on gives one prediction a stage: (64, 32), (64, 16), ... (64, 1),
(32, 16), ... (4, 1), a pair being (side of the input, side of the logit map); fifteen for five levels.
Levels never mix: they are stacked along the batch before each stage, which is exact but for rounding because
no statistic crosses the batch; `Discriminator.apart` gives each a pass of its own. The trunk never sees text,
so one set of features can be scored with many captions.

Everything has a second derivative, as the gradient penalty needs.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from impasto.aurora.config import PerLevel, at_level
from impasto.aurora.discriminator_blocks import Head, Pooling, Stage, TextBranch
from impasto.config import ConfigError
from impasto.nn.modules import module_list, run_part
from impasto.nn.precision import at_least_float32
from impasto.nn.style import Dense

Pair = tuple[int, int]  # side of the input image, side of the map of logits
Scores = dict[Pair, Tensor]  # logits [B, 1, side, side] of each pair


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """Defaults are GigaGAN's 64-pixel text-to-image discriminator as far as it is known. "recollection" is a
    memory of its Table A2 that we could not check; Aurora publishes nothing on its discriminator."""

    resolution: int = 64  # paper
    smallest_resolution: int = 4  # paper: inputs of side 64 to 4
    image_channels: int = 3
    channel_base: int = 16384  # recollection: channels = min(base / resolution, max)
    channel_max: int = 1536  # recollection
    # Convolution blocks of a stage; its last one halves the side, except at the smallest level.
    blocks: PerLevel = field(default_factory=lambda: {4: 2, 8: 2, 16: 2, 32: 2, 64: 1})  # recollection
    # GigaGAN Fig. 5: the three middle stages attend; their depths are a recollection.
    attention_depth: PerLevel = field(default_factory=lambda: {4: 0, 8: 2, 16: 2, 32: 1, 64: 0})
    heads: int = 8  # guess: as in the published generator
    residual_gain: float = 0.4  # recollection
    attention_gain: float = 0.3  # recollection
    head_layers: int = 4  # GigaGAN: four modulated 1x1 convolutions
    input_dim: int = 768  # width of the frozen text features (CLIP ViT-L/14)
    text_layers: int = 4  # recollection
    text_width: int = 1024  # recollection
    text_learning_rate_multiplier: float = 0.01  # published for the generator's text head
    # How many neighbouring samples the end of the trunk compares, so that pictures which are all alike can be
    # told (StyleGAN: 4). Neither GigaGAN nor Aurora mentions it: 0, off.
    deviation_group: int = 0
    # How blocks halve a map. A trunk of 0.5 M parameters that learned to name shape and colour of one
    # object at 32 px had 0.76 of the shapes right after 16,000 pictures with maxima, 0.3 with means
    # (measured, though not at the same learning rate: docs/training.md).
    pooling: Pooling = "mean"  # guess; neither paper says
    # Also embed the largest picture beside its caption (see `losses.contrastive_loss`); off in both papers.
    contrastive: bool = False
    equalized: bool = True

    def __post_init__(self) -> None:
        if self.deviation_group < 0 or self.deviation_group == 1:
            raise ConfigError(f"deviation_group={self.deviation_group} should be 0, or 2 and more")
        for name in ("resolution", "smallest_resolution"):
            value = getattr(self, name)
            if value < 2 or value & (value - 1):
                raise ConfigError(f"{name}={value} should be a power of two")
        if self.smallest_resolution > self.resolution:
            raise ConfigError("smallest_resolution is larger than resolution")
        if self.text_width % self.heads:
            raise ConfigError(f"text_width={self.text_width} does not divide by {self.heads} heads")
        for resolution in self.resolutions:
            if at_level(self.blocks, resolution, "blocks") < 1:
                raise ConfigError(f"blocks at {resolution} should be at least 1")
            depth, channels = (
                at_level(self.attention_depth, resolution, "attention_depth"),
                self.channels(resolution),
            )
            if depth and channels % self.heads:
                raise ConfigError(f"{channels} channels at {resolution} do not divide by {self.heads} heads")

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Sides of the input images, largest first."""
        count = self.resolution.bit_length() - self.smallest_resolution.bit_length() + 1
        return tuple(self.resolution >> i for i in range(count))

    def channels(self, resolution: int) -> int:
        """Width of the trunk at one side; at side 1 that of the smallest level."""
        return min(self.channel_base // max(resolution, self.smallest_resolution), self.channel_max)

    def output(self, resolution: int) -> int:
        """Side of the map that the stage of one side puts out."""
        return resolution // 2 if resolution > self.smallest_resolution else 1


@dataclass(frozen=True)
class Features:
    """What the trunk sees in a batch of pyramids.

    tokens {output side: [B, levels, side * side, C]}; inputs {output side: sides of the input images in the
    order of the second axis}. Samples are selected by `features[index]`, a slice or an index tensor.
    """

    tokens: dict[int, Tensor]
    inputs: dict[int, tuple[int, ...]]

    def __getitem__(self, index: slice | Tensor) -> "Features":
        return Features({output: tokens[index] for output, tokens in self.tokens.items()}, self.inputs)

    def __len__(self) -> int:
        """The number of samples."""
        return next(iter(self.tokens.values())).shape[0]

    @property
    def pairs(self) -> list[Pair]:
        """All predictions: by input side, then by output side, largest first."""
        return sorted(((i, j) for j, inputs in self.inputs.items() for i in inputs), reverse=True)

    def map(self, pair: Pair) -> Tensor:
        """Feature map [B, C, side, side] behind one prediction."""
        tokens = self.tokens[pair[1]][:, self.inputs[pair[1]].index(pair[0])]
        return tokens.transpose(1, 2).unflatten(2, (pair[1], pair[1]))


def beside(parts: list[Features]) -> Features:
    """Features of one batch seen at several levels, largest first, as if they had been stacked."""
    if len(parts) == 1:
        return parts[0]
    outputs = parts[0].tokens  # the largest level passes all stages there are for the others
    return Features(
        {j: torch.cat([part.tokens[j] for part in parts if j in part.tokens], dim=1) for j in outputs},
        {j: sum((part.inputs[j] for part in parts if j in part.inputs), ()) for j in outputs},
    )


def box_pyramid(image: Tensor, smallest: int) -> dict[int, Tensor]:
    """{side: [B, C, side, side]} from the image's own side down to `smallest`, by 2x2 means (our choice: the
    filter is not published; with it R1 at full resolution carries over to the levels, see `losses`)."""
    pyramid = {image.shape[-1]: image}
    while image.shape[-1] > smallest:
        image = F.avg_pool2d(image, 2)
        pyramid[image.shape[-1]] = image
    return pyramid


class Discriminator(nn.Module):
    """Logits for every pair of input and output side, each conditioned on a caption.

    At the default size 369.5 M parameters, and 51.2 M more for the text branch: 3.1 % below and 10.3 % above
    GigaGAN's 381.4 M, whose table does not say whether the text layers count. Ours assumes attention without
    a feed-forward part, a down-sampling block among the blocks of each stage, and heads as wide as the
    features they read. It runs in the type of its parameters unless the caller uses autocast.
    """

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        self.config = config
        self.recompute = False  # activations of stages, on the way back, instead of keeping them
        # Each level in a pass of its own: its predictions are then the same bits whatever other levels there
        # are, as growing promises, for 7 to 25 % more of the trunk's time (measured, 32 pictures on a CPU).
        self.apart = False
        self.text = TextBranch(
            config.input_dim,
            config.text_width,
            layers=config.text_layers,
            heads=config.heads,
            learning_rate_multiplier=config.text_learning_rate_multiplier,
            equalized=config.equalized,
        )
        self.stages = module_list(self._stage(resolution) for resolution in config.resolutions)
        self.score_heads = module_list(
            Head(
                config.channels(config.output(resolution)),
                config.text_width,
                layers=config.head_layers,
                equalized=config.equalized,
            )
            for resolution in config.resolutions
        )

        self.to_embedding: Dense | None = None
        if config.contrastive:
            self.to_embedding = Dense(config.channels(1), config.text_width, equalized=config.equalized)

    def _stage(self, resolution: int) -> Stage:
        config = self.config
        return Stage(
            config.image_channels,
            config.channels(resolution),
            config.channels(config.output(resolution)),
            collapse_side=resolution if config.output(resolution) == 1 else None,
            blocks=at_level(config.blocks, resolution),
            attention_depth=at_level(config.attention_depth, resolution),
            heads=config.heads,
            residual_gain=config.residual_gain,
            attention_gain=config.attention_gain,
            pooling=config.pooling,
            deviation_group=config.deviation_group,
            equalized=config.equalized,
        )

    def forward(
        self,
        images: Tensor | dict[int, Tensor],
        tokens: Tensor,
        eot_index: Tensor,
        mask: Tensor | None = None,
        resolution: int | None = None,
    ) -> Scores:
        """images: a pyramid {side: [B, 3, side, side]} or its largest image; the rest as `embed_text`."""
        pyramid = self.pyramid_of(images) if isinstance(images, Tensor) else images
        return self.score(self.features(pyramid, resolution), self.embed_text(tokens, eot_index, mask))

    def pyramid_of(self, image: Tensor) -> dict[int, Tensor]:
        """Box pyramid of an image [B, 3, side, side] whose side is one of the levels, differentiable."""
        self._check_level(image.shape[-1], image)
        return box_pyramid(image, self.config.smallest_resolution)

    def features(self, pyramid: dict[int, Tensor], resolution: int | None = None) -> Features:
        """pyramid {side: [B, 3, side, side]}, any of the levels; those above `resolution` are left out.

        A level's features do not depend on the other levels, so that training can begin with the small ones
        and add stages in front (progressive growing). Raises ValueError for images that do not fit.
        """
        levels = {r: x for r, x in pyramid.items() if resolution is None or r <= resolution}
        for side, image in levels.items():
            self._check_level(side, image)
        if not levels or len({image.shape[0] for image in levels.values()}) > 1:
            sizes = {side: image.shape[0] for side, image in levels.items()}
            raise ValueError(
                f"a pyramid needs one batch size at all its levels and at least one level: {sizes}"
            )
        batch = next(iter(levels.values())).shape[0]
        if self.config.deviation_group and batch % self.config.deviation_group:
            raise ValueError(
                f"{batch} pictures do not divide into groups of deviation_group={self.config.deviation_group}"
            )
        passes = [{side: levels[side]} for side in sorted(levels, reverse=True)] if self.apart else [levels]
        return beside([self._trunk(part, batch) for part in passes])

    def _trunk(self, levels: dict[int, Tensor], batch: int) -> Features:
        """Features of these levels, stacked."""
        dtype = next(self.parameters()).dtype
        x: Tensor | None = None
        inputs: tuple[int, ...] = ()
        seen = Features({}, {})
        for side, stage in zip(self.config.resolutions, self.stages, strict=True):
            if side in levels:
                entering = stage.from_image(levels[side].to(dtype))
                x = entering if x is None else torch.cat((x, entering))
                inputs = (*inputs, side)
            if x is None:
                continue
            x = run_part(stage, x, recompute=self.recompute)
            output = self.config.output(side)
            by_level = x.unflatten(0, (len(inputs), batch)).flatten(3)
            seen.tokens[output] = by_level.permute(1, 0, 3, 2).contiguous()
            seen.inputs[output] = inputs
        return seen

    def embed_text(self, tokens: Tensor, eot_index: Tensor, mask: Tensor | None = None) -> Tensor:
        """Frozen features tokens [B, T, C], eot_index [B] int64, mask [B, T] bool with True for tokens that
        count (None: all) -> text vector [B, text_width]. What stands behind the mask has no effect. Raises
        ValueError for tokens of another shape."""
        width = self.config.input_dim
        if tokens.ndim != 3 or tokens.shape[2] != width:
            raise ValueError(f"tokens have shape {tuple(tokens.shape)}; expected [B, T, {width}]")
        if mask is None:
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        return self.text(tokens.to(next(self.parameters()).dtype), eot_index, mask)

    def score(self, features: Features, text: Tensor) -> Scores:
        """Logits {(input side, output side): [B, 1, side, side]}, in fp32 at least; text [B, text_width].
        Raises ValueError for text of another shape."""
        if text.shape != (len(features), self.config.text_width):
            expected = (len(features), self.config.text_width)
            raise ValueError(f"text has shape {tuple(text.shape)}; expected {expected}")
        scores: Scores = {}
        for side, head in zip(self.config.resolutions, self.score_heads, strict=True):
            output = self.config.output(side)
            if output not in features.tokens:
                continue
            tokens = features.tokens[output]
            parts = [level.contiguous() for level in tokens.split(1, dim=1)] if self.apart else [tokens]
            logits = torch.cat([head(part, text) for part in parts], dim=1).unflatten(2, (output, output))
            logits = logits.to(at_least_float32(logits))
            for level, entry in enumerate(features.inputs[output]):
                scores[entry, output] = logits[:, level, None]
        return {pair: scores[pair] for pair in features.pairs}

    def embed_image(self, features: Features) -> Tensor:
        """[B, text_width], not normalised: where the largest picture lies among captions. With
        `config.contrastive` alone."""
        assert self.to_embedding is not None
        pooled = features.tokens[1][:, 0, 0]
        return self.to_embedding(pooled.to(at_least_float32(pooled)))

    def _check_level(self, side: int, image: Tensor) -> None:
        config = self.config
        if side not in config.resolutions:
            raise ValueError(f"no level of side {side}; the discriminator has {config.resolutions}")
        expected = (config.image_channels, side, side)
        if image.ndim != 4 or image.shape[1:] != expected:
            raise ValueError(
                f"image of shape {tuple(image.shape)} at level {side}; expected [B, *{expected}]"
            )
