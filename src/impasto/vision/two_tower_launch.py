"""From the preset `two-tower` to a trained scorer: what `impasto train two-tower` calls."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from impasto.config import ConfigError, diff, from_dict, nearest, override, to_dict
from impasto.data.scene_source import SceneSource
from impasto.data.texts import texts_reader
from impasto.data.training_set import FREE as DATA_FREE
from impasto.data.training_set import TrainingSet, find_set, provenance
from impasto.runtime.checkpoint import clean_leftovers, images_of, latest_checkpoint, prune, remove_after
from impasto.runtime.display import TrainingDisplay, memory_bytes
from impasto.runtime.dist import Ranks
from impasto.runtime.files import atomic_write_text
from impasto.runtime.guards import Deadline, Graceful
from impasto.runtime.log import MetricsWriter
from impasto.runtime.loop import LaunchOptions
from impasto.runtime.report import write_report
from impasto.runtime.sinks import Sink, make_sinks
from impasto.vision.evaluation import Retrieval, SceneRetrieval
from impasto.vision.examples import ExampleStream
from impasto.vision.two_tower_config import RUNS, TwoTowerRun
from impasto.vision.two_tower_training import TwoTowerState, train

EVALUATION_SPLITS = {"": "train", "_heldout": "heldout"}  # suffix of the metric: split of the scenes


def find_run(preset: str, settings: Sequence[str]) -> TwoTowerRun:
    """The preset, or a saved config.json, with overrides applied; ConfigError for what is neither, or an
    override that does not fit."""
    if preset in RUNS:
        return override(RUNS[preset](), settings)
    if Path(preset).is_file():
        return override(read_run_config(Path(preset)), settings)
    raise ConfigError(f"no training preset or config.json '{preset}'; {nearest(preset, RUNS)}")


def launch(preset: str, run: TwoTowerRun, options: LaunchOptions) -> str:
    """Train; returns how it ended. Raises ConfigError for --init-from, several processes, or a folder that
    holds another run; and, in one line, what its parts raise: CheckpointError, MetricsError, NonFiniteError,
    impasto.assets.MissingAssetError."""
    if options.init_from is not None:
        raise ConfigError("two-tower starts from its frozen networks; leave --init-from out")
    ranks = Ranks.from_environment(options.device)
    if ranks.world_size > 1:
        raise ConfigError("two-tower trains in one process; start it without torchrun")
    records, run = find_set(preset, run, options.data)
    out, training = options.out, run.training
    checkpoint = _checkpoint_to_resume(out, run, options)
    state = TwoTowerState.fresh(run, ranks.device)
    out.mkdir(parents=True, exist_ok=True)
    clean_leftovers(out)
    document = {"preset": "two-tower", **to_dict(run)}
    atomic_write_text(out / "config.json", json.dumps(document, indent=2) + "\n")
    start = images_of(checkpoint) if checkpoint else 0
    sinks = make_sinks(options.log_to, out, document, start)
    found, reader = None, state.model.encoder
    if records is not None:
        dtype = torch.bfloat16 if training.bfloat16 else torch.float32
        reader = texts_reader(reader, records, run.dataset, dtype)
        found = TrainingSet(records, training.resolution, run.dataset, seed=training.seed)
    stream = ExampleStream(
        state.model,
        found.training if found else SceneSource(training.resolution, run.data, seed=training.seed),
        training.fresh,
        training.window // training.fresh + 1,
        seed=training.seed,
        hard_negatives=training.hard_negatives and (found is None or found.format == "scenes"),
        reader=reader,
    )
    with Graceful() as stop, TrainingDisplay(training.images, start) as display:
        recorder = TwoTowerRecorder(out, run, display, sinks, found)
        try:
            if checkpoint:
                state.restore(checkpoint)
            recorder.writer.truncate_to(state.images)
            remove_after(out, state.images)
            return train(state, stream, recorder, deadline=Deadline(options.time_limit), stop=stop)
        finally:
            recorder.close()
            if found is not None:
                found.close()
                found.write_bad_samples(out, display.message)


class TwoTowerRecorder:
    """Writes a run's folder: metrics.jsonl, a console, checkpoints, the newest model, a page."""

    def __init__(
        self,
        out: Path,
        run: TwoTowerRun,
        display: TrainingDisplay,
        sinks: Sequence[Sink] = (),
        pictures: TrainingSet | None = None,
    ) -> None:
        """pictures: the set that is trained on, where it is not the endless scenes."""
        self.pictures = pictures
        self.out, self.run, self.display, self.sinks = out, run, display, list(sinks)
        self.writer = MetricsWriter(out / "metrics.jsonl")
        self.scores: dict[str, float] = {}  # the newest
        self._retrievals: dict[str, Retrieval] = {}
        self._interval = (time.perf_counter(), -1)

    def tick(self, images: int) -> None:
        self.display.tick(images)

    def metrics(self, state: TwoTowerState, values: Mapping[str, float], seconds: float) -> None:
        """One line of metrics.jsonl; what depends on the clock is under "time"."""
        now, (before, images_before) = time.perf_counter(), self._interval
        self._interval = (now, state.images)
        clock = {"step_seconds": seconds, **{name: float(v) for name, v in memory_bytes().items()}}
        if images_before >= 0:
            clock["images_per_second"] = (state.images - images_before) / (now - before)
        self._write(state.images, values, clock)
        self.display.log(state.images, {k: v for k, v in values.items() if k.startswith(("loss/", "scale"))})

    def evaluate(self, state: TwoTowerState) -> None:
        """Retrieval on pictures never trained on: scenes of seen and of held-out combinations, these with
        hard negatives, or what is held out of another set."""
        self.scores = {}
        for suffix, split in EVALUATION_SPLITS.items() if self.pictures is None else [("", "train")]:
            found = self._retrieval(split)(state.model)
            self.scores |= {f"retrieval{suffix}/{name}": value for name, value in found.items()}
        self._write(state.images, self.scores)
        shown = (f"{name.removeprefix('retrieval')} {value:.3f}" for name, value in self.scores.items())
        self.display.message(f"{state.images:,} images: " + ", ".join(shown))

    def checkpoint(self, state: TwoTowerState) -> None:
        """Save, delete what is older than needed, export the model."""
        self.writer.sync()
        state.save(self.out)
        prune(self.out, self.run.training.keep_checkpoints)
        state.model.provenance = self._provenance(state)
        state.model.save(self.out / "model", model_card(state, self.scores))
        write_report(self.out, self.out.name, json.dumps(to_dict(self.run), indent=2))

    def close(self) -> None:
        self.writer.close()
        for sink in self.sinks:
            sink.close()

    def _provenance(self, state: TwoTowerState) -> dict[str, Any]:
        told = {"data": provenance(self.run), "images_seen": state.images}
        if self.pictures is None or not self.scores:
            return told
        count = min(self.run.training.evaluation_pictures, len(self.pictures.held_out))
        found = {name.partition("/")[2]: {"1": value} for name, value in self.scores.items()}
        return {**told, "retrieval": {"held out of the training set": {"pictures": count, **found}}}

    def _write(
        self, images: int, values: Mapping[str, float], clock: Mapping[str, float] | None = None
    ) -> None:
        self.writer.write(images, values, clock)
        for sink in self.sinks:
            sink.write(images, values)

    def _retrieval(self, split: str) -> Retrieval:
        """Made when first needed: of another seed than the training scenes."""
        if split not in self._retrievals:
            training, count = self.run.training, self.run.training.evaluation_pictures
            if self.pictures is None:
                source = SceneSource(training.resolution, self.run.data, seed=training.seed + 1, split=split)
                self._retrievals[split] = SceneRetrieval(source, count)
            else:
                held_out = self.pictures.held_out
                self._retrievals[split] = Retrieval(held_out, min(count, len(held_out)))
        return self._retrievals[split]


def model_card(state: TwoTowerState, scores: Mapping[str, float]) -> str:
    """README.md of a model directory."""
    run, count = state.run, sum(p.numel() for p in state.model.heads.parameters())
    rows = "\n".join(f"| {name} | {value:.3f} |" for name, value in scores.items())
    table = f"| measure | value |\n|---|---|\n{rows}\n" if rows else "Not evaluated yet.\n"
    return (
        f"# Two-tower image-text scorer\n\n"
        f"Heads ({count:,} parameters) on a frozen {run.model.backbone} and a frozen all-MiniLM-L6-v2, which "
        f"are not in this folder: they come from the packages that `impasto assets` lists, and config.json "
        f"names them by fingerprint. Trained on {state.images:,} {_described_data(run)} It knows nothing "
        f"else.\n\n{_described_scores(run)}\n\n{table}"
    )


def _described_data(run: TwoTowerRun) -> str:
    side = run.training.resolution
    if run.dataset.source:
        return f"pictures of {side} px from {run.dataset.source} ({run.dataset.samples:,} samples)."
    return (
        f"scenes of {side} px (at most {run.data.max_objects} objects, "
        f"{'with' if run.data.textures else 'no'} textures, languages: {', '.join(run.data.languages)})."
    )


def _described_scores(run: TwoTowerRun) -> str:
    count = run.training.evaluation_pictures
    if run.dataset.source:
        return f"R@1 among at most {count} pictures that were held out (`image_to_text`, `text_to_image`):"
    return (
        f"R@1 among {count} scenes never trained on (`image_to_text`, `text_to_image`), and how often a "
        f"picture is nearer to a true caption than to one that is wrong in one fact; `retrieval_heldout` is "
        f"of combinations of colour and shape that training never shows:"
    )


def read_run_config(path: Path) -> TwoTowerRun:
    """A run's config.json back; ConfigError in one line if it is none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None
    document.pop("preset", None)
    return from_dict(TwoTowerRun, document)


def _checkpoint_to_resume(out: Path, run: TwoTowerRun, options: LaunchOptions) -> Path | None:
    """The newest checkpoint of the folder, if it is of the same run."""
    if not (out / "config.json").is_file():
        return None
    if options.resume == "never":
        raise ConfigError(f"{out} holds a run; choose another --out, or --resume auto to go on with it")
    # Where it writes may change; what it computes may not, and the rate follows training.images.
    free = ("training.keep_checkpoints", "training.log_every", "training.checkpoint_every", *DATA_FREE)
    changed = [line for line in diff(read_run_config(out / "config.json"), run) if not line.startswith(free)]
    if changed:
        raise ConfigError(f"{out} holds a run with other settings ({changed[0]}); choose another --out")
    return latest_checkpoint(out)
