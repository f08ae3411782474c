"""Named configurations of Aurora. A preset is a function; `PRESETS` lists them with one line each."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from impasto.aurora.config import (
    AttentionConfig,
    AuroraConfig,
    ConvolutionConfig,
    GeneratorConfig,
    MappingConfig,
    MoEConfig,
    TextHeadConfig,
)

SENTENCE_WIDTH = 384  # all-MiniLM-L6-v2


def aurora_64() -> AuroraConfig:
    """The published size, with the text head's attention working as meant."""
    return AuroraConfig()


def aurora_64_release() -> AuroraConfig:
    """The published network as its code computes it for one sample at a time."""
    generator = GeneratorConfig()
    return AuroraConfig(
        generator=replace(
            generator,
            text_head=replace(generator.text_head, attention="values_only"),
            attention=replace(generator.attention, mask_padding=False),
        )
    )


def aurora_64_paper() -> AuroraConfig:
    """Equations (2) to (9) of the paper at the published widths.

    Where the paper prints a sum we sum, and where it prints a projection we modulate it. It says nothing of
    layer norms inside a transformer layer, which we therefore keep (`attention.pre_norm=false` drops them),
    nor how many experts or kernels a level has: those at 4x4 are guesses, the others published.
    """
    return AuroraConfig(
        generator=GeneratorConfig(
            z_dim=512,  # section 3
            mapping=MappingConfig(normalize_inputs=False),  # eq. (2)
            convolution=ConvolutionConfig(
                kernel_selection="everywhere",  # section 3.2
                deform="both",  # eq. (3)
                residual_gain=1.0,  # eq. (3)
            ),
            attention=AttentionConfig(
                depth=1,  # a unit is one convolution and one attention block, at every level
                modulate="projections",  # eqs. (4) and (8)
                skip=False,  # eq. (8)
                gain=1.0,
                zero_output=False,
                text_tokens="all",  # eq. (1)
            ),
            moe=MoEConfig(
                experts={4: 4, 8: 4, 16: 8, 32: 16, 64: 16},
                kind="gelu",  # "two-layer MLP"
                z_weight=0.0,  # section 3.3 names the balance loss alone
            ),
        )
    )


def aurora_openglyphs_64() -> AuroraConfig:
    """About 10 M parameters for 64x64 pictures of things, trained on one GPU. Sizes are ours."""
    return AuroraConfig(
        text_encoder="sentence",
        generator=GeneratorConfig(
            resolution=64,
            z_dim=64,
            w_dim=256,
            context_dim=256,
            channel_base=4096,
            channel_max=192,
            text_head=TextHeadConfig(input_dim=SENTENCE_WIDTH, layers=2),
            mapping=MappingConfig(layers=4, width=256),
            convolution=ConvolutionConfig(blocks=1, kernels={4: 1, 8: 1, 16: 2, 32: 2, 64: 2}),
            attention=AttentionConfig(depth={4: 0, 8: 1, 16: 1, 32: 1, 64: 0}, heads=4, head_dim=32),
            moe=MoEConfig(experts={4: 1, 8: 4, 16: 8, 32: 8, 64: 1}),
        ),
    )


def aurora_scenes_32() -> AuroraConfig:
    """About 3.7 M parameters for 32x32 scenes of shapes, trained on two CPU cores. Sizes and rates are ours:
    a run of some ten thousand steps needs text layers and a mapping that learn as fast as the rest, where the
    published multiplier of 0.01 would leave them as they were initialised."""
    return AuroraConfig(
        text_encoder="sentence",
        generator=GeneratorConfig(
            resolution=32,
            z_dim=64,
            w_dim=192,
            context_dim=192,
            channel_base=1024,
            channel_max=160,
            text_head=TextHeadConfig(input_dim=SENTENCE_WIDTH, layers=1, learning_rate_multiplier=1.0),
            mapping=MappingConfig(layers=2, width=192, learning_rate_multiplier=1.0),
            convolution=ConvolutionConfig(blocks=1, kernels=1, deform_max_resolution=4),
            attention=AttentionConfig(depth={4: 0, 8: 2, 16: 0, 32: 0}, heads=4, head_dim=32),
            moe=MoEConfig(experts={4: 1, 8: 4, 16: 4, 32: 1}),
        ),
    )


def aurora_openglyphs_32() -> AuroraConfig:
    """About 4 M parameters for 32x32 pictures of things, trained on a CPU core: the networks of the scenes on
    standardised sentences, because a thousand names are harder to tell apart than a few colours."""
    return replace(aurora_scenes_32(), text_encoder="sentence:standardized")


def aurora_debug() -> AuroraConfig:
    """Every kind of layer at toy size; for tests and for trying things out."""
    return AuroraConfig(
        text_encoder="sentence",
        generator=GeneratorConfig(
            resolution=16,
            z_dim=8,
            w_dim=32,
            context_dim=32,
            channel_base=512,
            channel_max=32,
            text_head=TextHeadConfig(input_dim=SENTENCE_WIDTH, layers=1),
            mapping=MappingConfig(layers=2, width=32),
            convolution=ConvolutionConfig(blocks=1, kernels={4: 1, 8: 1, 16: 2}),
            attention=AttentionConfig(depth={4: 0, 8: 1, 16: 1}, heads=2, head_dim=16),
            moe=MoEConfig(experts={4: 1, 8: 2, 16: 4}),
        ),
    )


@dataclass(frozen=True)
class Preset:
    """A named configuration and what it is, in one line."""

    build: Callable[[], AuroraConfig]
    summary: str


PRESETS: dict[str, Preset] = {
    "aurora-64": Preset(aurora_64, "published size, repaired text head; for new training"),
    "aurora-64-release": Preset(aurora_64_release, "the published network exactly; loads its checkpoint"),
    "aurora-64-paper": Preset(aurora_64_paper, "equations (2) to (9) of the paper at published widths"),
    "aurora-openglyphs-64": Preset(aurora_openglyphs_64, "about 10 M parameters, 64x64, one GPU"),
    "aurora-scenes-32": Preset(aurora_scenes_32, "a few M parameters, 32x32 scenes, two CPU cores"),
    "aurora-openglyphs-32": Preset(aurora_openglyphs_32, "about 4 M parameters, 32x32 glyphs, one CPU core"),
    "aurora-debug": Preset(aurora_debug, "every kind of layer at toy size"),
}
