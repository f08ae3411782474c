"""Training runs of MARS at the paper's size, for clusters. Nothing here was ever run."""

from dataclasses import replace

from impasto.mars.config import SuperResolutionConfig
from impasto.mars.presets import mars_7b
from impasto.mars.training_config import StageRun, StageTraining

HOUR = 100  # steps between checkpoints: about an hour on 64 A100 (guess)


def seven_billion_stage1() -> StageRun:
    """200 M pictures of 256 px, one epoch of batches of 4,096 (paper), drawn and described."""
    step = 4_096 * 256
    return StageRun(
        model=mars_7b(),
        training=StageTraining(
            tokens=200_000_000 * 256,
            batch=4_096,
            pictures=200_000_000,
            shard_model=True,
            checkpoint_activations=True,
            bfloat16=True,
            prefix_cache_mebibytes=0,
            log_every=step,
            checkpoint_every=HOUR * step,
            sample_every=10 * HOUR * step,
        ),
    )


def seven_billion_stage2() -> StageRun:
    """50 M pictures of 512 px, two epochs of batches of 1,536 (paper), drawn alone."""
    run, step = seven_billion_stage1(), 1_536 * 1_024
    training = replace(
        run.training,
        tokens=2 * 50_000_000 * 1_024,
        batch=1_536,
        pictures=50_000_000,
        image_to_text=0.0,
        seed=1,
        log_every=step,
        checkpoint_every=HOUR * step,
        sample_every=10 * HOUR * step,
    )
    return replace(run, level=1, training=training)


def seven_billion_stage3() -> StageRun:
    """10 M pictures from 512 to 1,024 px, one epoch (paper); four codes a step, 1,024 steps behind the 1,024
    codes of the low picture (ours). No batch is published: 512 is a guess."""
    run, step = seven_billion_stage2(), 512 * 4_096
    training = replace(
        run.training,
        tokens=10_000_000 * 4_096,
        batch=512,
        pictures=10_000_000,
        guidance=1.0,
        seed=2,
        log_every=step,
        checkpoint_every=HOUR * step,
        sample_every=10 * HOUR * step,
    )
    return replace(
        run, model=replace(run.model, super_resolution=SuperResolutionConfig()), level=2, training=training
    )
