"""From a preset's name to a trained stage of MARS: what `impasto train mars-...` calls."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from impasto.config import ConfigError, override
from impasto.data.records import Records
from impasto.data.training_set import TrainingSet, find_set
from impasto.mars import language_launch, tokenizer_launch
from impasto.mars.codes import CODES, prepare_codes, read_codes, resolution_of
from impasto.mars.directories import (
    LanguagePart,
    MarsParts,
    MarsPipelineConfig,
    TokenizerPart,
    find_directory,
    load_language,
    load_tokenizer,
    load_whole,
    tokenizer_fingerprint,
)
from impasto.mars.recording import StageRecorder
from impasto.mars.run_folder import (
    LaunchOptions,
    RunLog,
    checkpoint_to_resume,
    preset_of,
    read_run,
    start_folder,
    start_of,
)
from impasto.mars.runs import RUNS, MarsRun
from impasto.mars.semvie import MarsModel
from impasto.mars.superres_recording import SuperResolutionRecorder, cascade_config
from impasto.mars.trainer import calibrate_norms, train
from impasto.mars.training_config import LanguageRun, StageRun
from impasto.mars.training_state import StageState
from impasto.mars.vq_runs import TokenizerRun
from impasto.runtime.display import TrainingDisplay
from impasto.runtime.dist import Ranks
from impasto.runtime.guards import Deadline, Graceful
from impasto.runtime.lineage import remember, with_lineage
from impasto.runtime.model_directory import is_model_directory

__all__ = ["LaunchOptions", "find_run", "launch"]


def find_run(preset: str, settings: Sequence[str]) -> MarsRun:
    """A preset, or a saved config.json, with overrides applied."""
    name = preset_of(preset)
    run = RUNS[name]() if preset in RUNS else read_run(Path(preset))
    return override(run, settings)


def launch(preset: str, run: MarsRun, options: LaunchOptions) -> str:
    """Train; returns how it ended. ConfigError for settings that do not go together; other one-line errors as
    they come."""
    records, run = find_set(preset, run, options.data)
    if run.dataset.text_features:
        raise ConfigError("dataset.text_features is not for MARS, which reads captions itself; leave it out")
    if isinstance(run, TokenizerRun):
        return tokenizer_launch.launch(preset, run, options, records)
    if isinstance(run, LanguageRun):
        return language_launch.launch(preset, run, options, records)
    return launch_stage(preset, run, options, records)


@dataclass(frozen=True)
class Parts:
    """What a stage starts from: two frozen networks and, maybe, the visual expert of an earlier stage. base:
    the whole model that stage III enlarges for."""

    tokenizer: TokenizerPart
    language: LanguagePart
    initial: MarsModel | None
    base: tuple[MarsParts, MarsPipelineConfig] | None = None


def launch_stage(preset: str, run: StageRun, options: LaunchOptions, records: Records | None = None) -> str:
    """A stage, on scenes if no records are given. ConfigError for settings that do not go together."""
    out, training = options.out, run.training
    if training.pictures_per_story and records is not None:
        raise ConfigError(f"{preset} makes its stories of scenes; leave --data {options.data} out")
    ranks = Ranks.from_environment(options.device)
    if training.batch % ((training.micro_batch or 1) * ranks.world_size):
        raise ConfigError(
            f"training.batch={training.batch} should divide among {ranks.world_size} ranks and micro-batches"
        )
    checkpoint = checkpoint_to_resume(run, options)
    ranks.barrier()  # all have looked before the main rank writes
    parts = _parts(preset, run, options, resuming=checkpoint is not None)
    parts.tokenizer.tokenizer.to(ranks.device)
    base = parts.base[0].model.to(ranks.device) if parts.base else None
    state = StageState.fresh(run, ranks.device, parts.language, parts.tokenizer, parts.initial, ranks, base)
    start, found, extracts = start_of(checkpoint), None, not (out / CODES).is_dir()
    if records is not None:
        found = TrainingSet(records, resolution_of(run, parts.tokenizer), run.dataset, seed=training.seed)
    with (
        Graceful() as stop,
        TrainingDisplay(training.tokens // run.image_length, start) as display,
    ):
        if ranks.is_main:
            start_folder(preset, run, out)
            if checkpoint is None:
                remember(out, options.init_from)
            prepare_codes(out, run, parts.tokenizer, display.message, found.training if found else None)
        ranks.barrier()
        pictures = read_codes(out, run, parts.tokenizer)
        if checkpoint:
            state.restore(checkpoint)
        elif parts.initial is None:
            calibrate_norms(state, pictures)
        log = RunLog(options, run, display, ranks, start)
        try:
            log.resume(state.images)
            provenance = with_lineage(_provenance(preset, parts), out)
            recorder = _recorder(log, parts, state, provenance, found)
            return train(
                state, pictures, recorder,
                ranks=ranks, deadline=Deadline(options.time_limit), stop=stop,
            )  # fmt: skip
        finally:
            log.close()
            if found is not None:
                found.close()
                if extracts and ranks.is_main:
                    found.write_bad_samples(out, display.message)


def _recorder(
    log: RunLog, parts: Parts, state: StageState, provenance: dict[str, object], found: TrainingSet | None
) -> StageRecorder:
    if parts.base is None:
        return StageRecorder(log, parts.tokenizer, state, provenance, found)
    return SuperResolutionRecorder(log, parts.tokenizer, state, provenance, parts.base, found)


def _parts(preset: str, run: StageRun, options: LaunchOptions, *, resuming: bool) -> Parts:
    """From the settings, else from --init-from, else from the model that the run itself has written."""
    earlier = options.init_from
    own = options.out / "model"
    fallback = earlier or (own if resuming and is_model_directory(own) else None)
    family = preset_of(preset).partition("/")[0]
    enlarges = run.model.super_resolution is not None
    base = None
    if enlarges or earlier is not None:
        if fallback is None:
            raise ConfigError(
                f"{preset_of(preset)} enlarges the pictures of a model; name one with --init-from RUN, a run "
                f"of {family}/stage2"
            )
        base = load_whole(find_directory(fallback, "--init-from"))
        initial = _initial(run, *base)
        if enlarges:
            cascade_config(run, base[1])  # complains before anything is written
    tokenizer = load_tokenizer(_place(run.tokenizer, "tokenizer", fallback, family))
    language = load_language(_place(run.language, "language", fallback, family))
    takes = earlier is not None and (not resuming or run.training.lora_rank)
    if base is not None and (enlarges or not resuming):
        _check_same_tokenizer(tokenizer, base[0], str(fallback))
    return Parts(tokenizer, language, initial if takes else None, base if enlarges else None)


def _initial(run: StageRun, parts: MarsParts, config: MarsPipelineConfig) -> MarsModel:
    """Whose visual expert a run goes on from: stage III from another run of it if that draws in the same way,
    else from the base."""
    same = config.enlarging is not None and config.enlarging.model == run.model
    return parts.enlarging if same and parts.enlarging is not None else parts.model


def _place(setting: str, name: str, fallback: str | Path | None, family: str) -> str | Path:
    if setting:
        return setting
    if fallback is None:
        raise ConfigError(
            f"no {name} is named: train one with `impasto train {family}/{name} --out RUN`, "
            f"then add --set {name}=RUN; or go on from an earlier stage with --init-from RUN"
        )
    return fallback


def _check_same_tokenizer(part: TokenizerPart, earlier: MarsParts, place: str) -> None:
    """Codes mean nothing under another tokenizer."""
    if tokenizer_fingerprint(earlier.tokenizer) != part.fingerprint:
        raise ConfigError(f"--init-from {place} was trained on the codes of another tokenizer")


def _provenance(preset: str, parts: Parts) -> dict[str, object]:
    known = parts.tokenizer.provenance
    return {
        "preset": preset_of(preset),
        "tokenizer": parts.tokenizer.fingerprint,
        "language": parts.language.provenance,
        "training_networks": known.get("training_networks", {}),
    }
