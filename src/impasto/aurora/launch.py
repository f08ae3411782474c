"""From a preset's name to a trained run: what `impasto train` calls."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from impasto.aurora.growing_measure import Grower, check_disjoint
from impasto.aurora.guidance import Guides
from impasto.aurora.official import RELEASED_CONSTRUCTOR, from_official, read_official
from impasto.aurora.pipeline import AuroraPipeline
from impasto.aurora.recording import RunRecorder, read_run_config, write_run_config
from impasto.aurora.runs import RUNS
from impasto.aurora.trainer import train
from impasto.aurora.training_config import AuroraRun
from impasto.aurora.training_state import TrainingState
from impasto.config import ConfigError, diff, nearest, override, to_dict
from impasto.data.records import Records
from impasto.data.scene_source import SceneSource
from impasto.data.scenes import score_images
from impasto.data.source import DataSource
from impasto.data.stream import StreamSource
from impasto.data.stream_files import Stream, is_stream
from impasto.data.texts import texts_reader
from impasto.data.training_set import FREE as DATA_FREE
from impasto.data.training_set import find_set, write_bad_samples
from impasto.data.training_set import provenance as data_provenance
from impasto.metrics.extractors import load_extractor
from impasto.runtime.checkpoint import (
    clean_leftovers,
    images_of,
    latest_checkpoint,
    load_checkpoint,
    remove_after,
)
from impasto.runtime.display import TrainingDisplay
from impasto.runtime.dist import Ranks
from impasto.runtime.guards import Deadline, Graceful
from impasto.runtime.lineage import remember, with_lineage
from impasto.runtime.loop import LaunchOptions
from impasto.runtime.model_directory import is_model_directory
from impasto.runtime.sinks import make_sinks
from impasto.text import load_encoder

EVALUATION_PROMPTS = 64
FIXED_PROMPTS = 6
# How long a run is, where it writes and where its data lie may change; what it computes may not.
FREE = (
    "training.images",
    "training.recompute_activations",
    "training.keep_checkpoints",
    "training.log_every",
    *DATA_FREE,
)


def find_run(preset: str, settings: Sequence[str]) -> AuroraRun:
    """A preset, or a saved config.json, with overrides applied. Raises ConfigError if there is no such
    preset."""
    if preset in RUNS:
        return override(RUNS[preset](), settings)
    if Path(preset).is_file():
        return override(read_run_config(Path(preset)), settings)
    raise ConfigError(f"no training preset or config.json '{preset}'; {nearest(preset, RUNS)}")


def launch(preset: str, run: AuroraRun, options: LaunchOptions) -> str:
    """Train; returns how it ended. Raises one-line errors for what cannot be."""
    out, ranks = options.out, Ranks.from_environment(options.device)
    records, run = _find_data(preset, run, options.data)
    checkpoint = _checkpoint_to_resume(out, run, options)
    start = images_of(checkpoint) if checkpoint else 0
    initial = None if checkpoint else _initial_weights(options.init_from)
    bfloat16 = run.training.bfloat16_generator
    guides = Guides.load(run.guidance, ranks.device, bfloat16=bfloat16)
    state = TrainingState.fresh(run, ranks.device, initial, guides)
    source = _source(records, run, ranks, start)
    encoder = load_encoder(run.model.text_encoder)
    networks = {"text_encoder": encoder.fingerprint, **guides.fingerprints}
    encoder.to(ranks.device)
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    encoder.to(dtype)
    reader = encoder
    if records is not None and not isinstance(records, Stream):
        reader = texts_reader(encoder, records, run.dataset, dtype)
    if ranks.is_main:
        out.mkdir(parents=True, exist_ok=True)
        clean_leftovers(out)
        write_run_config(out, preset, state)
        if checkpoint is None:
            remember(out, options.init_from)
    told = {"preset": preset, "data": data_provenance(run), "training_networks": networks}
    sinks = make_sinks(options.log_to, out, to_dict(run)) if ranks.is_main else []
    with (
        Graceful() as stop,
        TrainingDisplay(run.training.images, start) as display,
    ):
        recorder = RunRecorder(
            out,
            fixed_prompts(run) if records is None else source.captions(FIXED_PROMPTS),
            encoder,
            display,
            ranks=ranks,
            sinks=sinks,
            evaluate=evaluation(run, ranks) if records is None else None,
            best_by="score/overall" if records is None else "",
            provenance=with_lineage(told, out),
        )
        if isinstance(records, Stream) and ranks.is_main:
            display.message(records.promise)
        grower = _grower(run, records, source, recorder, ranks)
        try:
            saved = state.restore(checkpoint) if checkpoint else {}
            recorder.resume(saved, state.images)
            if ranks.is_main:
                remove_after(out, state.images)
            return train(
                state, source, reader, recorder, grower,
                ranks=ranks, deadline=Deadline(options.time_limit), stop=stop,
            )  # fmt: skip
        finally:
            recorder.close()
            if records is not None and not isinstance(source, SceneSource):
                source.close()
                if ranks.is_main:
                    write_bad_samples(out, records.faults, [source], display.message)


def _find_data(preset: str, run: AuroraRun, data: str) -> tuple[Records | Stream | None, AuroraRun]:
    """As `find_set`, and streams."""
    if not is_stream(data):
        return find_set(preset, run, data)
    stream = Stream.named(data)
    return stream, replace(run, dataset=stream.found(run.dataset))


def _source(
    records: Records | Stream | None, run: AuroraRun, ranks: Ranks, start: int
) -> SceneSource | DataSource | StreamSource:
    resolution, seed = run.model.generator.resolution, run.training.seed
    if records is None:
        return SceneSource(resolution, run.data, seed=seed)
    if isinstance(records, Stream):
        place = {"rank": ranks.rank, "world_size": ranks.world_size}
        return StreamSource(records, resolution, run.dataset, seed=seed, start=start, **place)
    return DataSource(records, resolution, run.dataset, seed=seed, stride=ranks.world_size)


def _grower(
    run: AuroraRun,
    records: Records | Stream | None,
    source: SceneSource | DataSource | StreamSource,
    recorder: RunRecorder,
    ranks: Ranks,
) -> Grower | None:
    """What decides when a growing run goes on. Raises ConfigError where the data cannot be measured."""
    growing = run.growing
    if growing.schedule == "none":
        return None
    extractor, real = None, None
    data = {"resolution": run.model.generator.resolution, "seed": run.training.seed, **data_provenance(run)}
    if growing.schedule == "reference":
        if isinstance(source, StreamSource) or isinstance(records, Stream):
            raise ConfigError(
                "growing.schedule=reference measures pictures of the data again and again, which a stream "
                "cannot give; download it, or use growing.schedule=images"
            )
        if records is not None:
            check_disjoint(growing, len(records))
            data["fingerprint"] = records.fingerprint
        extractor, real = load_extractor(growing.extractor, ranks.device), source
    return Grower(real, extractor, recorder.pipeline, recorder.growing, ranks=ranks, data=data)


def fixed_prompts(run: AuroraRun, count: int = FIXED_PROMPTS) -> list[str]:
    """Captions of scenes never trained on: half of combinations that are seen, half of unseen ones."""
    resolution, half = run.model.generator.resolution, count // 2
    seen = SceneSource(resolution, run.data, seed=run.training.seed + 1)
    unseen = SceneSource(resolution, run.data, seed=run.training.seed + 1, split="heldout")
    return seen.captions(half) + unseen.captions(count - half)


def evaluation(run: AuroraRun, ranks: Ranks):
    """The oracle's scores of the averaged generator on fixed captions, seen and unseen combinations; all
    ranks draw."""
    sets = {
        split: SceneSource(
            run.model.generator.resolution, run.data, seed=run.training.seed + 2, split=split
        ).captions(EVALUATION_PROMPTS)
        for split in ("train", "heldout")
    }

    def evaluate(pipe: AuroraPipeline) -> dict[str, float]:
        scores = {}
        for split, prompts in sets.items():

            def some(chosen: list[int], prompts: list[str] = prompts) -> list[Image.Image]:
                if not chosen:
                    return []
                return pipe.generate([prompts[index] for index in chosen], seed=1, batch_size=32).pictures()

            judged = score_images(ranks.in_shares(len(prompts), some), prompts)
            prefix = "score/" if split == "train" else "score_heldout/"
            scores[f"{prefix}overall"] = judged.overall
            scores[f"{prefix}unreadable"] = judged.unreadable / judged.total
        return scores

    return evaluate


def _checkpoint_to_resume(out: Path, run: AuroraRun, options: LaunchOptions) -> Path | None:
    """The newest checkpoint of the folder, if it is of the same run."""
    used = out.is_dir() and (out / "config.json").is_file()
    if not used:
        return None
    if options.resume == "never":
        raise ConfigError(f"{out} holds a run; choose another --out, or --resume auto to go on with it")
    saved = read_run_config(out / "config.json")
    changed = [line for line in diff(saved, run) if not line.startswith(FREE)]
    if changed:
        raise ConfigError(f"{out} holds a run with other settings ({changed[0]}); choose another --out")
    return latest_checkpoint(out)


def _initial_weights(init_from: str | None) -> dict[str, dict[str, Tensor]] | None:
    """Weights to start from: a model directory, a checkpoint of a run (all networks), an official .pth."""
    if init_from is None:
        return None
    path = Path(init_from)
    if is_model_directory(path):
        return {"generator": dict(AuroraPipeline.from_pretrained(path).generator.state_dict())}
    if path.suffix in (".pth", ".safetensors"):
        return {"generator": dict(from_official(read_official(path), RELEASED_CONSTRUCTOR).state_dict())}
    newest = latest_checkpoint(path) if path.is_dir() else None
    if newest is None:
        raise ConfigError(f"--init-from {init_from}: neither a model directory, a run, nor an official .pth")
    tensors, _ = load_checkpoint(newest)
    weights = {"generator": dict(tensors["average"])}
    for name in ("discriminator", "vision_aided", "latent_encoder"):
        if name in tensors:
            weights[name] = dict(tensors[name])
    return weights
