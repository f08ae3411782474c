"""Named configurations of MARS. A preset is a function; `PRESETS` lists them with one line each."""

from collections.abc import Callable
from dataclasses import dataclass

from impasto.mars.config import LanguageConfig, MarsConfig, VisualConfig
from impasto.mars.directories import MarsPipelineConfig
from impasto.mars.vq import VQConfig, vq_nano_32
from impasto.nn.rotary import RotaryConfig


def mars_nano() -> MarsConfig:
    """About 2 M parameters for 32x32 scenes of shapes on two CPU cores. Sizes are ours."""
    return MarsConfig(
        language=LanguageConfig(
            vocabulary=512,
            width=128,
            layers=4,
            heads=4,
            key_value_heads=2,
            head_dim=32,
            feed_forward=352,
            tied_head=True,
            context=512,
            end_of_text=0,
        ),
        visual=VisualConfig(codes=512),
        grids=(8,),  # 32 px at 4 px a code
    )


def mars_tiny() -> MarsConfig:
    """About 35 M parameters per expert, for ablations on one GPU. Sizes are ours."""
    return MarsConfig(
        language=LanguageConfig(
            vocabulary=16384,
            width=512,
            layers=10,
            heads=8,
            key_value_heads=4,
            head_dim=64,
            feed_forward=1536,
            tied_head=True,
            context=2048,
            end_of_text=0,
        ),
        visual=VisualConfig(codes=8192),
        grids=(8, 16),
    )


def mars_smollm2_135m() -> MarsConfig:
    """SmolLM2-135M's shape (its published config.json): a pretrained English base that is easy to get."""
    return MarsConfig(
        language=LanguageConfig(
            vocabulary=49152,
            width=576,
            layers=30,
            heads=9,
            key_value_heads=3,
            head_dim=64,
            feed_forward=1536,
            norm_epsilon=1e-5,
            query_key_value_bias=False,
            tied_head=True,
            context=8192,
            end_of_text=2,  # <|im_end|> of the instruct version; the base's is 0
            rotary=RotaryConfig(theta=100000.0),
        ),
        visual=VisualConfig(codes=8192),
        grids=(8, 16),
    )


def mars_0_5b() -> MarsConfig:
    """Qwen2.5-0.5B's shape (its published config.json): bilingual, fine-tuned on one GPU."""
    return MarsConfig(
        language=LanguageConfig(
            vocabulary=151936,
            width=896,
            layers=24,
            heads=14,
            key_value_heads=2,
            head_dim=64,
            feed_forward=4864,
            tied_head=True,
            context=32768,
            rotary=RotaryConfig(theta=1000000.0),
        ),
    )


def mars_7b() -> MarsConfig:
    """The paper's size: Qwen-7B's shape, 6.54 B trained of 14.26 B."""
    return MarsConfig()


@dataclass(frozen=True)
class Preset:
    """A named configuration, what it is in one line, and the image tokenizer that goes with it."""

    build: Callable[[], MarsConfig]
    summary: str
    tokenizer: Callable[[], VQConfig] = VQConfig


PRESETS: dict[str, Preset] = {
    "mars-nano": Preset(mars_nano, "about 2 M parameters, 32x32 scenes, two CPU cores", vq_nano_32),
    "mars-tiny": Preset(mars_tiny, "about 35 M parameters per expert, ablations on one GPU"),
    "mars-smollm2-135m": Preset(mars_smollm2_135m, "over SmolLM2-135M, a pretrained English base"),
    "mars-0.5b": Preset(mars_0_5b, "over Qwen2.5-0.5B, English and Chinese, one GPU"),
    "mars-7b": Preset(mars_7b, "the paper's size, over Qwen-7B: 6.54 B trained of 14.26 B"),
}


def pipeline_config(preset: Preset) -> MarsPipelineConfig:
    """A preset with its image tokenizer: what `impasto.load` makes of its name."""
    return MarsPipelineConfig(model=preset.build(), tokenizer=preset.tokenizer())
