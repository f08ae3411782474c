"""The language model's run from the command line."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from impasto.config import ConfigError, to_dict
from impasto.data.records import Records
from impasto.data.scene_source import SceneSource
from impasto.data.source import DataSource
from impasto.data.training_set import TrainingSet
from impasto.data.training_set import provenance as data_provenance
from impasto.mars.convert import language_state
from impasto.mars.directories import LANGUAGE_FAMILY, save_directory
from impasto.mars.language import (
    ANY_SIDE,
    VALIDATION_SHIFT,
    LanguageState,
    Texts,
    train_language,
    validate,
)
from impasto.mars.run_folder import LaunchOptions, RunLog, checkpoint_to_resume, start_folder, start_of
from impasto.mars.sampling import generate_text
from impasto.mars.texts import TOKENISER, fit_tokeniser, read_tokeniser
from impasto.mars.training_config import LanguageRun
from impasto.runtime.display import TrainingDisplay
from impasto.runtime.dist import Ranks
from impasto.runtime.files import atomic_write_text
from impasto.runtime.guards import Deadline, Graceful

CAPTION_TOKENS = 40  # of the example in the console


def launch(preset: str, run: LanguageRun, options: LaunchOptions, records: Records | None = None) -> str:
    """Train, on captions of scenes if no records are given; returns how it ended. Raises one-line errors for
    what cannot be. ConfigError with --init-from, or for a batch that does not divide among the ranks."""
    if options.init_from is not None:
        raise ConfigError("a language model of one's own starts from nothing; leave --init-from out")
    ranks = Ranks.from_environment(options.device)
    if run.training.batch % ranks.world_size:
        raise ConfigError(f"training.batch={run.training.batch} should divide among {ranks.world_size} ranks")
    checkpoint = checkpoint_to_resume(run, options)
    ranks.barrier()  # all have looked before the main rank writes
    texts = _scene_texts(run) if records is None else _set_texts(run, records)
    if ranks.is_main:
        start_folder(preset, run, options.out)
        _fit_once(run, options.out, texts)
    ranks.barrier()
    state = LanguageState.fresh(run, ranks.device, read_tokeniser(options.out))
    start = start_of(checkpoint)
    with Graceful() as stop, TrainingDisplay(run.training.scenes, start) as display:
        log = RunLog(options, run, display, ranks, start)
        try:
            if checkpoint:
                state.restore(checkpoint)
            log.resume(state.scenes)
            recorder = LanguageRecorder(log, {"preset": preset}, texts.validation)
            deadline = Deadline(options.time_limit)
            return train_language(state, texts.training, recorder, ranks=ranks, deadline=deadline, stop=stop)
        finally:
            log.close()
            if texts.pictures is not None and ranks.is_main:
                texts.pictures.write_bad_samples(options.out, display.message)


class LanguageRecorder:
    """Metrics, checkpoints, the newest model with its text tokeniser."""

    def __init__(self, log: RunLog, provenance: Mapping[str, Any], validation: Mapping[str, Texts]):
        self.log, self.provenance, self.validation = log, dict(provenance), validation

    def tick(self, images: int) -> None:
        self.log.display.tick(images)

    def metrics(self, state: LanguageState, values: dict[str, float], seconds: float) -> None:
        self.log.metrics(state.scenes, values, seconds)

    def checkpoint(self, state: LanguageState) -> None:
        """Measure, save, export."""
        if not self.log.ranks.is_main:
            return
        values = validate(state, self.validation)
        self.log.scores(state.scenes, values, list(values))
        said = generate_text(state.model, [[state.run.model.end_of_text]], max_tokens=CAPTION_TOKENS)[0]
        self.log.display.message(f"the likeliest caption: {state.prompts.decode(said)!r}")
        self.log.sync()
        state.save(self.log.out)
        document = {
            "model": to_dict(state.run.model),
            "provenance": {
                **self.provenance,
                "data": data_provenance(state.run),
                "scenes_seen": state.scenes,
            },
        }
        run = state.run
        scenes = f"scenes ({', '.join(sorted(set(run.data.languages)))})"
        card = (
            f"# {self.log.out.name}\n\nA language model of captions of {run.dataset.source or scenes}, for "
            f"`impasto train .../stage1 --set language=PATH`. It knows nothing else.\n"
        )
        tensors, tokeniser = language_state(state.model), state.prompts.tokeniser
        save_directory(self.log.out / "model", LANGUAGE_FAMILY, document, tensors, card, tokeniser)
        self.log.finish_checkpoint(state.run.training.keep_checkpoints)


@dataclass(frozen=True)
class RunTexts:
    """What a run reads: captions to fit the text tokeniser on, to train on, and of each validation by the
    suffix of its metric."""

    tokeniser: Texts
    training: SceneSource | DataSource
    validation: Mapping[str, Texts]
    pictures: TrainingSet | None = None


def _scene_texts(run: LanguageRun) -> RunTexts:
    training = run.training
    shifted, count = training.seed + VALIDATION_SHIFT, training.validation_scenes
    splits = {"": "train", "_heldout": "heldout"}
    return RunTexts(
        Texts(SceneSource(ANY_SIDE, run.data, seed=training.seed), training.tokeniser_scenes),
        SceneSource(ANY_SIDE, run.data, seed=training.seed, split="any"),
        {
            suffix: Texts(SceneSource(ANY_SIDE, run.data, seed=shifted, split=split), count)
            for suffix, split in splits.items()
        },
    )


def _set_texts(run: LanguageRun, records: Records) -> RunTexts:
    training = run.training
    options = replace(run.dataset, workers=0)  # no picture is decoded, so there is nothing to read ahead
    found = TrainingSet(records, ANY_SIDE, options, seed=training.seed)
    fitted = Texts(found.training, min(training.tokeniser_scenes, len(found.training)))
    held_out = Texts(found.held_out, min(training.validation_scenes, len(found.held_out)))
    return RunTexts(fitted, found.training, {"": held_out}, found)


def _fit_once(run: LanguageRun, out: Path, texts: RunTexts) -> Tokenizer:
    """The run's text tokeniser, fitted when the run begins and kept in its folder."""
    if (out / TOKENISER).is_file():
        return read_tokeniser(out)
    places, count = range(texts.tokeniser.pictures), run.training.captions_per_scene
    captions = (text for n in places for text in texts.tokeniser.source.phrasings(n, count))
    tokeniser = fit_tokeniser(captions, run.model.vocabulary)
    atomic_write_text(out / TOKENISER, tokeniser.to_str())
    return tokeniser
