"""How far generated pictures are from real ones at a stage's side, against how far real ones are from each
other, on all ranks together."""

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from impasto.aurora.growing import GrowingConfig, Growth, down_to, measurement_due, why_grow
from impasto.aurora.pipeline import AuroraPipeline
from impasto.aurora.trainer import Source
from impasto.aurora.training_state import TrainingState
from impasto.config import ConfigError
from impasto.metrics.extractors import Extractor
from impasto.metrics.feature_cache import default_cache
from impasto.metrics.frechet import FrechetStats, frechet_distance
from impasto.pictures import from_images, to_images
from impasto.runtime.dist import Ranks
from impasto.runtime.files import atomic_path

BATCH = 64
RESIZE = "2x2 means from the run's resolution"


class RealSource(Source, Protocol):
    """Real pictures at any position, and captions without their pictures."""

    def captions(self, count: int, start: int = 0) -> list[str]: ...


class Grower:
    """Ends stages. `source` and `extractor` are for schedules that measure; `pipeline` gives the averaged
    generator of a state at its stage; `tell` takes a line for the console and values for the metrics at every
    measurement and switch; `data` is what decides which pictures the source has."""

    def __init__(
        self,
        source: RealSource | None,
        extractor: Extractor | None,
        pipeline: Callable[[TrainingState], AuroraPipeline],
        tell: Callable[[TrainingState, str, Mapping[str, float]], None],
        *,
        ranks: Ranks,
        data: Mapping[str, Any],
        cache: Path | None = None,
    ):
        self.source, self.extractor, self.pipeline, self.tell = source, extractor, pipeline, tell
        self.ranks, self.data = ranks, dict(data)
        self.cache = cache or default_cache().parent / "growing"
        self._real: dict[int, tuple[FrechetStats, float]] = {}

    def consider(self, state: TrainingState) -> None:
        """After a step: measure where that is due, and go on to the next side where there is reason to."""
        growth, config = state.growth, state.run.growing
        if growth is None or state.grown:
            return
        if measurement_due(growth, state.images, config):
            self._measure(state, growth, config)
        reason = why_grow(growth, state.images, config)
        if reason is not None:
            before = growth.side
            state.grow(reason)
            self.tell(state, f"{before}x{before} -> {growth.side}x{growth.side}: {reason}", {})

    def _measure(self, state: TrainingState, growth: Growth, config: GrowingConfig) -> None:
        assert self.extractor is not None
        real, reference = self.real(growth.side, config)
        distance = frechet_distance(self.generated(state, config), real)
        # All ranks take the main one's numbers: machines may differ in the last bit, decisions may not.
        distance, growth.reference = self.ranks.gather_objects((distance, reference))[0]
        growth.distances.append(distance)
        threshold = config.ratio * growth.reference
        self.tell(
            state,
            f"{growth.side}x{growth.side}: {self.extractor.distance} {growth.distances[-1]:.4g}, "
            f"reference {growth.reference:.4g}, goes on at {threshold:.4g}",
            {
                "growing/side": float(growth.side),
                "growing/distance": growth.distances[-1],
                "growing/reference": growth.reference,
            },
        )

    def generated(self, state: TrainingState, config: GrowingConfig) -> FrechetStats:
        """Statistics of one picture of each of the first captions, by the averaged generator."""
        assert self.source is not None and self.extractor is not None
        captions = self.source.captions(config.reference_images)
        pipe, mine = self.pipeline(state), range(self.ranks.rank, len(captions), self.ranks.world_size)
        stats = FrechetStats()
        for start in range(0, len(mine), BATCH):
            chosen = mine[start : start + BATCH]
            made = pipe.generate([captions[i] for i in chosen], seed=list(chosen), batch_size=BATCH)
            stats.update(self.extractor.features(from_images(made.pictures())))
        return self._together(stats)

    def real(self, side: int, config: GrowingConfig) -> tuple[FrechetStats, float]:
        """Statistics of `real_images` real pictures, and the distance between the first two
        `reference_images` of them. Remembered, and kept in the user's cache by everything they depend on."""
        if side not in self._real:
            path = self._cache_file(side, config)
            found = self._read(path) if path.is_file() else None
            if self.ranks.any(found is None):  # one that has not got it whole cannot measure alone
                found = self._measure_real(side, config)
                if self.ranks.is_main:
                    _write(path, *found)
            assert found is not None
            self._real = {side: found}
        return self._real[side]

    def _measure_real(self, side: int, config: GrowingConfig) -> tuple[FrechetStats, float]:
        count = config.reference_images
        first, second = self._real_part(0, count, side), self._real_part(count, 2 * count, side)
        distance = frechet_distance(first, second)
        first.merge(second)
        first.merge(self._real_part(2 * count, config.real_images, side))
        return first, distance

    def _real_part(self, start: int, end: int, side: int) -> FrechetStats:
        """Of the real pictures at positions start to end, each rank its share."""
        assert self.source is not None and self.extractor is not None
        mine = range(start + self.ranks.rank, end, self.ranks.world_size)
        stats = FrechetStats()
        for at in range(0, len(mine), BATCH):
            images, _ = self.source.batch(mine[at : at + BATCH])
            pictures = to_images(down_to(images, side))  # rounded to 8 bits, as generated ones are
            stats.update(self.extractor.features(from_images(pictures)))
        return self._together(stats)

    def _together(self, own: FrechetStats) -> FrechetStats:
        """What all ranks saw, the same on each."""
        whole = FrechetStats()
        for stats in self.ranks.gather_objects(own):
            whole.merge(stats)
        return whole

    def _cache_file(self, side: int, config: GrowingConfig) -> Path:
        assert self.extractor is not None
        key = {
            "data": self.data,
            "side": side,
            "resize": RESIZE,
            "counts": [config.reference_images, config.real_images],
            "extractor": self.extractor.fingerprint,
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()
        return self.cache / f"{digest[:32]}.safetensors"

    def _read(self, path: Path) -> tuple[FrechetStats, float] | None:
        try:
            with safe_open(path, "pt") as opened:
                tensors = {name: opened.get_tensor(name) for name in ("mean", "covariance", "numbers")}
        except Exception as error:  # a damaged file of a cache is measured again
            warnings.warn(f"{path} cannot be read ({type(error).__name__}); it is made again", stacklevel=2)
            return None
        count, distance = tensors["numbers"].tolist()
        return FrechetStats.known(int(count), tensors["mean"], tensors["covariance"]), distance


def _write(path: Path, stats: FrechetStats, distance: float) -> None:
    numbers = torch.tensor([stats.count, distance], dtype=torch.float64)
    tensors = {"mean": stats.mean, "covariance": stats.covariance, "numbers": numbers}
    try:
        with atomic_path(path) as temporary:
            save_file(tensors, temporary)
    except OSError as error:
        warnings.warn(f"{path} cannot be written ({error}); other runs measure again", stacklevel=2)


def check_disjoint(config: GrowingConfig, pictures: int | None) -> None:
    """Raise ConfigError where there are too few pictures for two disjoint sets (None: no end of them)."""
    if config.schedule == "reference" and pictures is not None and pictures < config.real_images:
        raise ConfigError(
            f"growing.real_images={config.real_images}, of {pictures:,} pictures; set it and "
            f"growing.reference_images (at most half of it) to what there is"
        )
