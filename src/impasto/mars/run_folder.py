"""The folder of a training run of MARS, whatever the stage: its configuration, metrics, sheets and report."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from impasto.config import ConfigError, diff, from_dict, nearest, to_dict
from impasto.data.training_set import FREE as DATA_FREE
from impasto.mars.runs import RUNS, MarsRun
from impasto.pictures import save_png
from impasto.runtime.checkpoint import (
    clean_leftovers,
    images_of,
    latest_checkpoint,
    prune,
    remove_after,
)
from impasto.runtime.display import TrainingDisplay, memory_bytes
from impasto.runtime.dist import Ranks
from impasto.runtime.files import atomic_write_text
from impasto.runtime.log import MetricsWriter
from impasto.runtime.loop import LaunchOptions
from impasto.runtime.report import write_report
from impasto.runtime.sinks import make_sinks

CONFIG = "config.json"
# How a run is watched, and shared out among ranks, may change when it goes on; what it computes may not.
FREE = (
    *(
        f"training.{name}"
        for name in ("keep_checkpoints", "log_every", "sample_every", "checkpoint_every", "shard_model")
    ),
    *DATA_FREE,
)


def preset_of(preset: str) -> str:
    """The name of a training preset: itself, or what a saved config.json names. Raises ConfigError if there
    is no such preset."""
    if preset in RUNS:
        return preset
    document = _read(Path(preset)) if Path(preset).is_file() else {}
    saved = document.get("preset")
    if saved in RUNS:
        return saved
    raise ConfigError(f"no training preset or config.json '{preset}'; {nearest(preset, RUNS)}")


def read_run(path: Path) -> MarsRun:
    """The run that a config.json holds."""
    document = _read(path)
    kind = type(RUNS[preset_of(str(path))]())
    document.pop("preset")
    return from_dict(kind, document)


def checkpoint_to_resume(run: MarsRun, options: LaunchOptions) -> Path | None:
    """The newest checkpoint of the folder, if it is of the same run; ConfigError if it is of another."""
    out = options.out
    if not (out / CONFIG).is_file():
        return None
    if options.resume == "never":
        raise ConfigError(f"{out} holds a run; choose another --out, or --resume auto to go on with it")
    changed = [line for line in _changes(read_run(out / CONFIG), run) if not line.startswith(FREE)]
    if changed:
        raise ConfigError(f"{out} holds a run with other settings ({changed[0]}); choose another --out")
    return latest_checkpoint(out)


def start_folder(preset: str, run: MarsRun, out: Path) -> None:
    """Make the folder and write its config.json."""
    out.mkdir(parents=True, exist_ok=True)
    clean_leftovers(out)
    document = {"preset": preset_of(preset), **to_dict(run)}
    atomic_write_text(out / CONFIG, json.dumps(document, indent=2) + "\n")


class RunLog:
    """metrics.jsonl, console, sinks, sheets, report. Only the main rank writes; the others keep quiet."""

    def __init__(
        self, options: LaunchOptions, run: MarsRun, display: TrainingDisplay, ranks: Ranks, start: int
    ):
        self.out, self.run, self.display, self.ranks = options.out, run, display, ranks
        self.writer = MetricsWriter(self.out / "metrics.jsonl") if ranks.is_main else None
        names = options.log_to if ranks.is_main else ()
        self.sinks = make_sinks(names, self.out, to_dict(run), start)
        self._interval = (time.perf_counter(), -1)

    def resume(self, images: int) -> None:
        """Take up at `images`; what was written later, by a past that was lost, goes."""
        if self.writer is not None:
            self.writer.truncate_to(images)
            remove_after(self.out, images)

    def metrics(self, images: int, values: Mapping[str, float], seconds: float) -> None:
        """One line of metrics.jsonl; what depends on the clock is under "time"."""
        if self.writer is None:
            return
        now, (before, images_before) = time.perf_counter(), self._interval
        self._interval = (now, images)
        clock = {"step_seconds": seconds, **{name: float(v) for name, v in memory_bytes().items()}}
        if images_before >= 0:
            clock["images_per_second"] = (images - images_before) / (now - before)
        self.writer.write(images, values, clock)
        self.display.log(images, {k: v for k, v in values.items() if k.startswith("loss/")})
        self._tell(images, values)

    def scores(self, images: int, values: Mapping[str, float], shown: Sequence[str] = ()) -> None:
        """A line of what was measured apart from the training loop; `shown` go to the console."""
        if self.writer is None:
            return
        self.writer.write(images, values)
        self._tell(images, values)
        text = ", ".join(f"{name} {values[name]:.3f}" for name in shown if name in values)
        if text:
            self.display.message(f"{images:,} images: {text}")

    def sheet(self, images: int, kind: str, picture: Image.Image) -> None:
        if self.writer is None:
            return
        save_png(picture, self.out / "samples" / f"{images:012d}-{kind}.png")
        for sink in self.sinks:
            sink.picture(images, kind, picture)

    def sync(self) -> None:
        """Before a checkpoint."""
        if self.writer is not None:
            self.writer.sync()

    def finish_checkpoint(self, keep: int) -> None:
        """After a checkpoint: delete what is older than needed, renew the report."""
        prune(self.out, keep)
        write_report(self.out, self.out.name, json.dumps(to_dict(self.run), indent=2))

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        for sink in self.sinks:
            sink.close()

    def _tell(self, images: int, values: Mapping[str, float]) -> None:
        for sink in self.sinks:
            sink.write(images, values)


def start_of(checkpoint: Path | None) -> int:
    """Images seen at a checkpoint; 0 without one."""
    return images_of(checkpoint) if checkpoint else 0


def _changes(saved: MarsRun, run: MarsRun) -> list[str]:
    if type(saved) is not type(run):
        return [f"another stage: {type(saved).__name__} -> {type(run).__name__}"]
    return diff(saved, run)


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path} holds no configuration")
    return document
