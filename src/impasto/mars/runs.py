"""Named training runs of MARS, stage by stage. A run is a function; sizes and rates of the small ones are
ours."""

from collections.abc import Callable
from dataclasses import replace

from impasto.data.scene_source import SceneOptions
from impasto.mars.config import LanguageConfig, MarsConfig, SuperResolutionConfig, VisualConfig
from impasto.mars.paper_runs import seven_billion_stage1, seven_billion_stage2, seven_billion_stage3
from impasto.mars.presets import mars_nano
from impasto.mars.training_config import LanguageRun, LanguageTraining, Optimisation, StageRun, StageTraining
from impasto.mars.vq import VQConfig
from impasto.mars.vq_losses import ObjectiveConfig, PatchDiscriminatorConfig
from impasto.mars.vq_runs import TokenizerRun, TokenizerTraining, vq_16_run, vq_nano_32_run

MarsRun = TokenizerRun | LanguageRun | StageRun

# A quarter Chinese: 20 to 30 % (section 12 of the notes).
NANO_SCENES = SceneOptions(max_objects=2, textures=False, languages=("en", "en", "en", "zh"))
DEBUG_SCENES = SceneOptions(max_objects=1, textures=False, languages=("en", "zh"))


def nano_language() -> LanguageRun:
    """A language model of about 1 M parameters on the captions' grammar."""
    training = LanguageTraining(scenes=32_000)
    return LanguageRun(model=mars_nano().language, data=NANO_SCENES, training=training)


def nano_stage1() -> StageRun:
    """Drawing and describing at 32 px, 64 tokens a picture, one object in each; rows of codes from the
    tokenizer's codebook (ours, measured in the ablation)."""
    model = mars_nano()
    return StageRun(
        model=replace(model, visual=replace(model.visual, initial_codebook=1.0)),
        data=replace(NANO_SCENES, max_objects=1),
        training=StageTraining(
            tokens=7_680_000,
            pictures=60_000,
            image_to_text=0.3,
            optimisation=Optimisation(learning_rate=4e-3),
            log_every=25_600,
            sample_every=768_000,
            checkpoint_every=768_000,
        ),
    )


def nano_stage2() -> StageRun:
    """Drawing alone, from stage I."""
    run = nano_stage1()
    training = replace(
        run.training,
        image_to_text=0.0,
        optimisation=Optimisation(learning_rate=2e-3),
        seed=1,
    )
    return replace(run, training=training)


def nano_stories() -> StageRun:
    """Documents of three sentences with a picture after each, from a model that draws already."""
    run = nano_stage2()
    training = replace(
        run.training,
        tokens=2_304_000,
        batch=36,
        pictures=12_000,
        optimisation=Optimisation(learning_rate=1e-3),
        pictures_per_story=3,
        seed=2,
        log_every=23_040,
        sample_every=1_152_000,
        checkpoint_every=576_000,
    )
    return replace(run, training=training)


def nano_stage3() -> StageRun:
    """From 32 to 64 px with the same tokenizer, from stage II."""
    run = nano_stage1()
    return replace(
        run,
        model=replace(mars_nano(), grids=(8, 16), super_resolution=SuperResolutionConfig()),
        level=1,
        training=replace(
            run.training,
            tokens=5_120_000,
            batch=8,
            image_to_text=0.0,
            optimisation=Optimisation(learning_rate=2e-3),
            guidance=1.0,
            log_every=102_400,
            sample_every=1_024_000,
            checkpoint_every=1_024_000,
            seed=2,
        ),
    )


def debug_tokenizer() -> TokenizerRun:
    """16 px to a grid of 4 x 4; for tests, as all debug runs."""
    return TokenizerRun(
        resolution=16,
        model=VQConfig(
            channels=(8,),
            patch=4,
            blocks=1,
            attention_levels=(),
            middle_attention=False,
            norm_groups=4,
            latent_channels=8,
            codes=32,
            code_dim=4,
        ),
        discriminator=PatchDiscriminatorConfig(channels=8, layers=1),
        data=DEBUG_SCENES,
        training=TokenizerTraining(
            images=32,
            batch=8,
            learning_rate=4e-3,
            objective=ObjectiveConfig(perceptual_weight=0.0, adversarial_weight=0.0),
            revive_every=8,
            revive_after=8,
            log_every=8,
            sample_every=16,
            checkpoint_every=16,
        ),
    )


def debug_language() -> LanguageRun:
    """A few steps of a model of two layers."""
    return LanguageRun(
        model=LanguageConfig(
            vocabulary=320,
            width=32,
            layers=2,
            heads=2,
            key_value_heads=1,
            head_dim=16,
            feed_forward=48,
            tied_head=True,
            context=256,
            end_of_text=0,
        ),
        data=DEBUG_SCENES,
        training=LanguageTraining(
            scenes=32,
            batch=8,
            tokeniser_scenes=64,
            validation_scenes=8,
            log_every=8,
            checkpoint_every=16,
        ),
    )


def debug_stage1() -> StageRun:
    """Four steps of eight pictures of 16 tokens."""
    return StageRun(
        model=MarsConfig(language=debug_language().model, visual=VisualConfig(codes=32), grids=(4,)),
        data=DEBUG_SCENES,
        training=StageTraining(
            tokens=512,
            batch=8,
            pictures=24,
            captions_per_picture=2,
            shard_pictures=16,
            validation_pictures=4,
            sample_prompts=2,
            log_every=128,
            sample_every=256,
            checkpoint_every=256,
        ),
    )


def debug_stage2() -> StageRun:
    """`debug_stage1` without captioning, from another seed."""
    run = debug_stage1()
    return replace(run, training=replace(run.training, image_to_text=0.0, seed=1))


def debug_stories() -> StageRun:
    """`debug_stage2` on stories of two pictures, from another seed."""
    run = debug_stage2()
    return replace(run, training=replace(run.training, pictures_per_story=2, seed=2))


def debug_stage3() -> StageRun:
    """From 16 to 32 px."""
    run = debug_stage1()
    return replace(
        run,
        model=replace(run.model, grids=(4, 8), super_resolution=SuperResolutionConfig()),
        level=1,
        training=replace(
            run.training,
            tokens=2_048,
            image_to_text=0.0,
            guidance=1.0,
            log_every=512,
            sample_every=1_024,
            checkpoint_every=1_024,
            seed=2,
        ),
    )


RUNS: dict[str, Callable[[], MarsRun]] = {
    "mars-7b/tokenizer": vq_16_run,
    "mars-7b/stage1": seven_billion_stage1,
    "mars-7b/stage2": seven_billion_stage2,
    "mars-7b/stage3": seven_billion_stage3,
    "mars-nano/tokenizer": vq_nano_32_run,
    "mars-nano/language": nano_language,
    "mars-nano/stage1": nano_stage1,
    "mars-nano/stage2": nano_stage2,
    "mars-nano/stories": nano_stories,
    "mars-nano/stage3": nano_stage3,
    "mars-debug/tokenizer": debug_tokenizer,
    "mars-debug/language": debug_language,
    "mars-debug/stage1": debug_stage1,
    "mars-debug/stage2": debug_stage2,
    "mars-debug/stories": debug_stories,
    "mars-debug/stage3": debug_stage3,
}
