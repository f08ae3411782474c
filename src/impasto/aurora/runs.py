"""Named training runs of Aurora: which network, which data, how long. A run is a function."""

from collections.abc import Callable
from dataclasses import replace

from impasto.aurora.discriminator import DiscriminatorConfig
from impasto.aurora.growing import GrowingConfig
from impasto.aurora.guidance import GuidanceConfig
from impasto.aurora.presets import (
    SENTENCE_WIDTH,
    aurora_64,
    aurora_debug,
    aurora_openglyphs_32,
    aurora_scenes_32,
)
from impasto.aurora.training_config import AuroraRun, TrainingConfig
from impasto.data.options import DatasetOptions
from impasto.data.scene_source import SceneOptions


def run_aurora_64() -> AuroraRun:
    """The published recipe as far as it is known, at the published size."""
    return AuroraRun(
        model=aurora_64(),
        guidance=GuidanceConfig(clip_model="clip:openai/clip-vit-base-patch32"),  # which CLIP: guess
    )


def run_aurora_64_256gpu() -> AuroraRun:
    """The paper's scale: 256 devices, growing from 4x4 to 64x64 by reference distance, every published loss.
    What the paper says is marked in the configurations; docs/paper-scale.md lists what it does not say, which
    is guessed here. Never run."""
    run = run_aurora_64()
    return replace(
        run,
        growing=GrowingConfig(
            schedule="reference",  # paper; all numbers are guesses
            check_every=1_024_000,
            ratio=1.0,
            min_images=10_240_000,
            max_images=204_800_000,
            patience=20,
            reference_images=5_000,
            real_images=50_000,
        ),
        training=replace(
            run.training,
            images=1_382_400_000,  # GigaGAN's 1.35 M steps of 1,024
            batch=1_024,  # GigaGAN: 512 to 1,024
            average_half_life=7_100_000.0,  # GigaGAN's 0.9999 a step, at this batch
        ),
    )


def run_aurora_scenes_32() -> AuroraRun:
    """32x32 scenes of one object, in the middle, on two CPU cores. Sizes and rates are ours.

    The first images are drawn again from latents alone, which teaches colours, sizes and backgrounds. Then a
    scorer's contrastive loss (`guidance.clip_model`; its weight stands ready) draws shapes, and adversarial
    losses make them crisp.
    """
    return AuroraRun(
        model=aurora_scenes_32(),
        discriminator=DiscriminatorConfig(
            resolution=32,
            channel_base=1024,
            channel_max=96,
            blocks=1,
            attention_depth=0,
            heads=4,
            head_layers=1,
            input_dim=SENTENCE_WIDTH,
            text_layers=1,
            text_width=192,
            text_learning_rate_multiplier=1.0,  # as in the generator
            pooling="max",  # means lose shapes
            residual_gain=1.0,
            contrastive=True,
            deviation_group=2,  # two pictures of one caption differ, and so should generated ones
        ),
        # Another sample's caption nearly always names another colour, which teaches nothing about shapes.
        data=SceneOptions(
            max_objects=1, textures=False, near_misses=0.5, pictures_per_caption=2, lone_spread=0.0
        ),
        guidance=GuidanceConfig(
            clip_weight=0.15, clip_from=48_000, clip_levels=(32,), vision_aided_weight=0.3
        ),
        training=TrainingConfig(
            images=320_000,
            batch=16,  # steps are what a short run lacks
            learning_rate=0.003,
            discriminator_learning_rate=0.0025,
            beta1=0.5,  # as pix2pix, which also combines both kinds of losses
            reconstruction_weight=5.0,
            adversarial_from=48_000,
            contrastive_weight=0.5,
            inner_head_weight=0.3,
            r1_gamma=0.4,  # 0.1 at 32 px, in GigaGAN's range
            bfloat16_generator=True,
            bfloat16_discriminator=True,
            average_half_life=6_000,
            w_avg_decay=0.995,
            log_every=640,
            sample_every=6_400,
            checkpoint_every=6_400,
        ),
    )


def run_aurora_scenes_32_growing() -> AuroraRun:
    """The same networks and scenes by adversarial losses alone, from 4x4 on: each stage until its pictures
    are as near to real ones as real ones are to each other, times 1.5 (paper section 3.4; the numbers are
    ours)."""
    run = run_aurora_scenes_32()
    return replace(
        run,
        guidance=GuidanceConfig(),
        growing=GrowingConfig(
            schedule="reference",
            check_every=1_600,
            ratio=1.5,
            max_images=64_000,
            patience=0,  # a short run's distances are noisy
            reference_images=200,
            real_images=2_000,
        ),
        training=replace(
            run.training,
            images=96_000,
            learning_rate=0.0015,
            discriminator_learning_rate=0.0015,
            reconstruction_weight=0.0,
            adversarial_from=0,
            log_every=1_600,
            sample_every=4_800,
            checkpoint_every=4_800,
        ),
    )


def run_aurora_openglyphs_32() -> AuroraRun:
    """32x32 Open Glyphs on a CPU core (`--data DIR/train`): things in one style, a thousand of them. Their
    names say nearly all there is to draw, so that drawing them again, with latents that say nothing, teaches
    most of it. Of each picture's captions "NAME, STYLE" alone is read."""
    run = run_aurora_scenes_32()
    styles = ("3d", "blob", "emojione", "firefox", "flat", "gradient", "twemoji")
    people = ("woman", " man ", " man,", "person", "family", " men", "women", "flag of", "skin tone")
    return replace(
        run,
        model=aurora_openglyphs_32(),
        discriminator=replace(run.discriminator, channel_max=128, deviation_group=4),  # StyleGAN2: 4
        data=SceneOptions(),
        dataset=DatasetOptions(
            languages={"en": 1.0}, phrasings=1, exclude=(*(f"{style} style" for style in styles), *people)
        ),
        guidance=replace(run.guidance, clip_weight=0.0, vision_aided_weight=0.0),
        training=replace(
            run.training,
            batch=8,
            learning_rate=0.004,
            beta1=0.9,
            reconstruction_weight=1.0,
            reconstruction_divergence=1.0,
            adversarial_from=320_000,
            bfloat16_generator=False,
            bfloat16_discriminator=False,
        ),
    )


def run_aurora_debug() -> AuroraRun:
    """A few hundred images at toy size; for tests."""
    return AuroraRun(
        model=aurora_debug(),
        discriminator=DiscriminatorConfig(
            resolution=16,
            channel_base=256,
            channel_max=32,
            blocks=1,
            attention_depth={4: 0, 8: 1, 16: 0},
            heads=2,
            head_layers=1,
            input_dim=SENTENCE_WIDTH,
            text_layers=1,
            text_width=32,
        ),
        data=SceneOptions(max_objects=1, textures=False),
        training=TrainingConfig(
            images=64,
            batch=8,
            average_half_life=100,
            log_every=16,
            sample_every=32,
            checkpoint_every=32,
            r1_interval=4,
        ),
    )


RUNS: dict[str, Callable[[], AuroraRun]] = {
    "aurora-64": run_aurora_64,
    "aurora-64-256gpu": run_aurora_64_256gpu,
    "aurora-scenes-32": run_aurora_scenes_32,
    "aurora-scenes-32-growing": run_aurora_scenes_32_growing,
    "aurora-openglyphs-32": run_aurora_openglyphs_32,
    "aurora-debug": run_aurora_debug,
}
