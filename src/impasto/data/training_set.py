"""What a training run reads: the set that --data names, in a part to train on and a part to validate on."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from impasto.config import ConfigError, to_dict
from impasto.data.opening import resolve
from impasto.data.options import DatasetOptions
from impasto.data.records import DataError, Faults, Part, Records
from impasto.data.scene_source import SceneOptions
from impasto.data.source import DataSource
from impasto.runtime.files import atomic_write_text

HELD_OUT_SHARE = 0.05
BAD_SAMPLES = "bad-samples.json"  # in a run's folder
# Where a set lies and how it is read may change when a run goes on; what is read may not.
FREE = tuple(f"dataset.{name}" for name in ("source", "workers", "cache", "max_bad", "text_features"))


class Run(Protocol):
    """A dataclass with scenes (`data`) and any other set (`dataset`)."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def data(self) -> SceneOptions: ...
    @property
    def dataset(self) -> DatasetOptions: ...


R = TypeVar("R", bound=Run)


def find_set(preset: str, run: R, data: str) -> tuple[Records | None, R]:
    """The set that --data names, None for scenes, and the run with what was found out about it. ConfigError
    or DataError, in one line, where it cannot be read or the run began with another."""
    if data != "scenes":
        records, found = resolve(data, run.dataset)
        return records, replace(run, dataset=found)
    if run.dataset.source:
        raise ConfigError(f"{preset} is a run on another set; add --data {run.dataset.source}")
    return None, run


def provenance(run: Run) -> dict[str, Any]:
    """What a model says of the data it was trained on."""
    if run.dataset.source:
        return {"dataset": to_dict(run.dataset)}
    return {"scenes": to_dict(run.data)}


def made_of(options: DatasetOptions) -> dict[str, Any]:
    """What of the options decides which pictures and captions are read."""
    return {name: value for name, value in to_dict(options).items() if f"dataset.{name}" not in FREE}


def split(records: Records, name: str) -> tuple[Part, Part]:
    """The samples to train on, and those held out: the ones whose key hashes into the lowest twentieth, at
    least one. So a sample stays on its side when others come or go. DataError for fewer than two samples."""
    if len(records) < 2:
        raise DataError(f"{name} holds one good sample; two are needed, since one is kept for validation")
    places = np.array([_hash_place(records.key(index)) for index in range(len(records))])
    held_out = places < HELD_OUT_SHARE
    if not held_out.any():
        held_out[places.argmin()] = True
    if held_out.all():
        held_out[places.argmax()] = False
    return Part(records, np.flatnonzero(~held_out)), Part(records, np.flatnonzero(held_out))


class TrainingSet:
    """Both parts of a set as endless orders of pictures with captions, `training` and `held_out`. Close it
    when a run ends."""

    def __init__(
        self, records: Records, resolution: int, options: DatasetOptions, *, seed: int, stride: int = 1
    ) -> None:
        self.format, self._left_out = records.format, records.faults
        training, held_out = split(records, options.source)
        self.training = DataSource(training, resolution, options, seed=seed, stride=stride)
        alone = replace(options, workers=0)  # few pictures, read once
        self.held_out = DataSource(held_out, resolution, alone, seed=seed + 1)

    def close(self) -> None:
        self.training.close()

    def write_bad_samples(self, out: Path, tell: Callable[[str], None]) -> None:
        """As `write_bad_samples`, of both parts."""
        write_bad_samples(out, self._left_out, [self.training, self.held_out], tell)


class Faulty(Protocol):
    """A source that counts what it passed over."""

    @property
    def faults(self) -> Faults: ...


def write_bad_samples(
    out: Path, left_out: Faults, sources: Sequence[Faulty], tell: Callable[[str], None]
) -> None:
    """Write what was left out and passed over into a run's folder, if anything was, and tell of it in a
    line."""
    passed = Faults()
    for reason, name in (fault for source in sources for fault in source.faults):
        passed.add(reason, name)
    if not (len(passed) or len(left_out)):
        return
    document: Mapping[str, Any] = {"left_out_on_opening": left_out.files(), "passed_over": passed.files()}
    atomic_write_text(out / BAD_SAMPLES, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    tell(
        f"bad samples: left out {left_out.summary()}; passed over {passed.summary()}; "
        f"all of them in {out / BAD_SAMPLES}"
    )


def _hash_place(key: str) -> float:
    """A number in [0, 1) that follows from the key alone."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
