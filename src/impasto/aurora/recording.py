"""What a run leaves behind: metrics.jsonl, a console, sample sheets, checkpoints, the newest model."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from impasto.aurora.generator import Generator
from impasto.aurora.growing import at_side
from impasto.aurora.pipeline import AuroraPipeline, Generation
from impasto.aurora.training_config import AuroraRun
from impasto.aurora.training_state import TrainingState
from impasto.config import ConfigError, from_dict, to_dict
from impasto.pictures import contact_sheet, routing_pictures, save_png, to_images
from impasto.runtime.checkpoint import checkpoint_path, prune
from impasto.runtime.display import TrainingDisplay, memory_bytes
from impasto.runtime.dist import Ranks
from impasto.runtime.files import atomic_write_text
from impasto.runtime.log import MetricsWriter
from impasto.runtime.report import write_report
from impasto.runtime.sinks import Sink
from impasto.text import TextEncoder

Evaluate = Callable[[AuroraPipeline], dict[str, float]]


class RunRecorder:
    """Writes a run's folder. Only the main rank writes; the others keep quiet.

    provenance: what a model's config.json says of its training, beside the images seen.
    evaluate: scores of the averaged generator, at every sample; `best_by` names the one whose largest value
    marks the best checkpoint, which is kept.
    """

    def __init__(
        self,
        out: Path,
        prompts: Sequence[str],
        encoder: TextEncoder,
        display: TrainingDisplay,
        *,
        ranks: Ranks,
        sinks: Sequence[Sink] = (),
        evaluate: Evaluate | None = None,
        best_by: str = "",
        provenance: Mapping[str, object] | None = None,
    ):
        self.out, self.prompts, self.encoder, self.display = out, list(prompts), encoder, display
        self.ranks, self.sinks, self.evaluate, self.best_by = ranks, list(sinks), evaluate, best_by
        self.provenance = dict(provenance or {})
        self.writer = MetricsWriter(out / "metrics.jsonl") if ranks.is_main else None
        self.best: dict[str, float] = {}  # {"images": ..., "value": ...}
        self._shadow: Generator | None = None
        self._interval = (time.perf_counter(), -1)

    def resume(self, state: Mapping[str, object], images: int) -> None:
        """Take up at `images`, zero for a new start; metrics written later, by a past that was lost, go."""
        best = state.get("best")
        self.best = dict(best) if isinstance(best, Mapping) else {}
        if self.writer is not None:
            self.writer.truncate_to(images)

    def tick(self, images: int) -> None:
        self.display.tick(images)

    def metrics(self, state: TrainingState, values: dict[str, float], seconds: float) -> None:
        """One line of metrics.jsonl; what depends on the clock is under "time"."""
        if self.writer is None:
            return
        now, (before, images_before) = time.perf_counter(), self._interval
        self._interval = (now, state.images)
        clock = {"step_seconds": seconds, **{name: float(v) for name, v in memory_bytes().items()}}
        if images_before >= 0:
            clock["images_per_second"] = (state.images - images_before) / (now - before)
        self.writer.write(state.images, values, clock)
        shown = {name: value for name, value in values.items() if name.startswith(("loss/", "logit/"))}
        self.display.log(state.images, shown, expert_shares(values))
        for sink in self.sinks:
            sink.write(state.images, values)

    def samples(self, state: TrainingState) -> None:
        """The main rank draws the sheets; all of them draw what is scored."""
        pipe = self.pipeline(state)
        if self.ranks.is_main:
            self._sheets(state, pipe)
        if self.evaluate is None or state.images == 0 or not state.grown:
            return
        scores = self.evaluate(pipe)
        if self.writer is not None:
            self.writer.write(state.images, scores)
            self.display.message(
                f"{state.images:,} images: " + ", ".join(f"{k} {v:.3f}" for k, v in scores.items())
            )
        if self.best_by and scores[self.best_by] > self.best.get("value", float("-inf")):
            self.best = {"images": state.images, "value": scores[self.best_by]}

    def _sheets(self, state: TrainingState, pipe: AuroraPipeline) -> None:
        """Sheets of the fixed prompts: several noises, every level, and who made which pixel."""
        generation = pipe.generate(self.prompts, 4, seed=0)
        folder, name = self.out / "samples", f"{state.images:012d}"
        pictures = generation.pictures()
        rows = [pictures[start : start + 4] for start in range(0, len(pictures), 4)]
        sheets = {"sheet": contact_sheet(rows, self.prompts, cell=96)}
        sheets["pyramid"], sheets["routes"] = _details(generation, self.prompts)
        for kind, sheet in sheets.items():
            save_png(sheet, folder / f"{name}-{kind}.png")
            for sink in self.sinks:
                sink.picture(state.images, kind, sheet)

    def checkpoint(self, state: TrainingState) -> None:
        """Save, delete what is older than needed, export the averaged generator as a model."""
        if not self.ranks.is_main:
            return
        if self.writer is not None:
            self.writer.sync()
        state.save(self.out, {"best": self.best})
        keep = [checkpoint_path(self.out, int(self.best["images"]))] if self.best else []
        prune(self.out, state.run.training.keep_checkpoints, keep)
        self.pipeline(state).save_pretrained(self.out / "model")
        write_report(self.out, self.out.name, json.dumps(to_dict(state.run), indent=2))

    def pipeline(self, state: TrainingState) -> AuroraPipeline:
        """The averaged generator, ready to draw."""
        if self._shadow is None:
            with torch.random.fork_rng(devices=[]):
                self._shadow = Generator(state.run.model.generator).to(self.ranks.device)
        state.average.copy_to(self._shadow)
        model = at_side(state.run.model, state.side)
        self._shadow.config = model.generator
        return AuroraPipeline(
            self._shadow,
            model,
            name=self.out.name,
            encoder=self.encoder,
            provenance={**self.provenance, "images_seen": state.images},
        )

    def growing(self, state: TrainingState, line: str, values: Mapping[str, float]) -> None:
        """A measurement or a switch of a growing run, for the console and the metrics."""
        if self.writer is not None:
            if values:
                self.writer.write(state.images, values)
            self.display.message(f"{state.images:,} images: {line}")

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        for sink in self.sinks:
            sink.close()


def write_run_config(out: Path, name: str, state: TrainingState) -> None:
    """The run's config.json: the preset's name, and everything that decides the run."""
    document = {"preset": name, **to_dict(state.run)}
    atomic_write_text(out / "config.json", json.dumps(document, indent=2) + "\n")


def read_run_config(path: Path) -> AuroraRun:
    """A run's config.json back; ConfigError in one line if it is none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None
    document.pop("preset", None)
    return from_dict(AuroraRun, document)


def expert_shares(values: Mapping[str, float]) -> dict[str, list[float]]:
    """{layer: share of tokens of each expert} from metrics named 'experts/LAYER/NUMBER'."""
    shares: dict[str, list[float]] = {}
    for name, value in values.items():
        if name.startswith("experts/"):
            shares.setdefault(name.rsplit("/", 1)[0], []).append(value)
    return shares


def _details(generation: Generation, prompts: Sequence[str]):
    """For the first picture of each prompt: a sheet of its levels, and one of its routing."""
    first = range(0, len(generation.prompts), len(generation.prompts) // len(prompts))
    levels = {side: to_images(images) for side, images in generation.pyramid.items()}
    pyramid = contact_sheet([[levels[side][index] for side in levels] for index in first], prompts, cell=96)
    pictures = generation.pictures()
    rows = [
        [pictures[index], *routing_pictures([layer.expert_index[index] for layer in generation.routing])]
        for index in first
    ]
    return pyramid, contact_sheet(rows, prompts, cell=96)
