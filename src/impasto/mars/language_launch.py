"""The language model's run from the command line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from impasto.config import ConfigError, to_dict
from impasto.mars.convert import language_state
from impasto.mars.directories import LANGUAGE_FAMILY, save_directory
from impasto.mars.language import ANY_SIDE, LanguageState, train_language, validate
from impasto.mars.run_folder import LaunchOptions, RunLog, checkpoint_to_resume, start_folder, start_of
from impasto.mars.sampling import generate_text
from impasto.mars.texts import TOKENISER, CaptionSource, fit_tokeniser, read_tokeniser
from impasto.mars.training_config import LanguageRun
from impasto.runtime.display import TrainingDisplay
from impasto.runtime.dist import Ranks
from impasto.runtime.files import atomic_write_text
from impasto.runtime.guards import Deadline, Graceful

CAPTION_TOKENS = 40  # of the example in the console


def launch(preset: str, run: LanguageRun, options: LaunchOptions) -> str:
    """Train; returns how it ended. Raises one-line errors for what cannot be."""
    if options.init_from is not None:
        raise ConfigError("a language model of one's own starts from nothing; leave --init-from out")
    ranks = Ranks.from_environment(options.device)
    if run.training.batch % ranks.world_size:
        raise ConfigError(f"training.batch={run.training.batch} should divide among {ranks.world_size} ranks")
    checkpoint = checkpoint_to_resume(run, options)
    ranks.barrier()  # all have looked before the main rank writes
    if ranks.is_main:
        start_folder(preset, run, options.out)
        _fit_once(run, options.out)
    ranks.barrier()
    state = LanguageState.fresh(run, ranks.device, read_tokeniser(options.out))
    start = start_of(checkpoint)
    with Graceful() as stop, TrainingDisplay(run.training.scenes, start) as display:
        log = RunLog(options, run, display, ranks, start)
        try:
            if checkpoint:
                state.restore(checkpoint)
            log.resume(state.scenes)
            recorder = LanguageRecorder(log, {"preset": preset})
            deadline = Deadline(options.time_limit)
            return train_language(state, recorder, ranks=ranks, deadline=deadline, stop=stop)
        finally:
            log.close()


class LanguageRecorder:
    """Metrics, checkpoints, the newest model with its text tokeniser."""

    def __init__(self, log: RunLog, provenance: Mapping[str, Any]):
        self.log, self.provenance = log, dict(provenance)

    def tick(self, images: int) -> None:
        self.log.display.tick(images)

    def metrics(self, state: LanguageState, values: dict[str, float], seconds: float) -> None:
        self.log.metrics(state.scenes, values, seconds)

    def checkpoint(self, state: LanguageState) -> None:
        """Measure, save, export."""
        if not self.log.ranks.is_main:
            return
        values = validate(state)
        self.log.scores(state.scenes, values, list(values))
        said = generate_text(state.model, [[state.run.model.end_of_text]], max_tokens=CAPTION_TOKENS)[0]
        self.log.display.message(f"the likeliest caption: {state.prompts.decode(said)!r}")
        self.log.sync()
        state.save(self.log.out)
        document = {
            "model": to_dict(state.run.model),
            "provenance": {
                **self.provenance,
                "data": {"scenes": to_dict(state.run.data)},
                "scenes_seen": state.scenes,
            },
        }
        card = (
            f"# {self.log.out.name}\n\nA language model of captions of scenes "
            f"({', '.join(sorted(set(state.run.data.languages)))}), for `impasto train .../stage1 --set "
            f"language=PATH`. It knows nothing else.\n"
        )
        tensors, tokeniser = language_state(state.model), state.prompts.tokeniser
        save_directory(self.log.out / "model", LANGUAGE_FAMILY, document, tensors, card, tokeniser)
        self.log.finish_checkpoint(state.run.training.keep_checkpoints)


def _fit_once(run: LanguageRun, out: Path) -> Tokenizer:
    """The run's text tokeniser, fitted when the run begins and kept in its folder."""
    if (out / TOKENISER).is_file():
        return read_tokeniser(out)
    source, training = CaptionSource(ANY_SIDE, run.data, seed=run.training.seed), run.training
    places = range(training.tokeniser_scenes)
    texts = (text for n in places for text in source.phrasings(n, training.captions_per_scene))
    tokeniser = fit_tokeniser(texts, run.model.vocabulary)
    atomic_write_text(out / TOKENISER, tokeniser.to_str())
    return tokeniser
