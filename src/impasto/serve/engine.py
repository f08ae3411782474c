"""The models by name, loaded and tried before anything is answered, and the ways to ask them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import impasto
from impasto.assets import MissingAssetError
from impasto.config import ConfigError, first_line
from impasto.loading import describe
from impasto.serve.batching import Batcher, Observer, Work
from impasto.serve.served import AS_DRAWN, SafetyFilter, Served, Size
from impasto.serve.work import Alone, Describing, Drawing, Finished

log = logging.getLogger("impasto.serve")
SCALES = (2, 4)
WARM_UP = "a red circle"


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """models: names as `impasto.load` takes them, the first one where a request names none. queue: pictures
    that may wait. batch_size: pictures per pass, the family's own by default. upscaler: for larger sizes,
    None for none."""

    models: tuple[str, ...]
    device: str = "cpu"
    dtype: str = "float32"
    queue: int = 128
    batch_size: int | None = None
    upscaler: str | None = "realesrgan"


class RefusedError(Exception):
    """The safety filter does not let something pass; the message is its reason."""


class Engine:
    """Owns the models. `start` loads them in the engine's own thread; `ready` once each has drawn.

    Raises ConfigError or ValueError, in one line, for names that mean no model or no upscaler.
    """

    def __init__(
        self,
        config: EngineConfig,
        safety: SafetyFilter | None = None,
        observe: Observer = lambda work, rows, seconds: None,
    ):
        self.config, self.safety = config, safety
        self.models: dict[str, Served] = {}
        self.upscalers = _upscalers(config)
        for name in config.models:
            found = describe(name, [])
            if found.name in self.models:
                raise ConfigError(f"two models are called '{found.name}'; rename a directory")
            self.models[found.name] = Served(
                name=found.name,
                family=found.family.name,
                options=tuple(option for option in found.family.options if option not in ("pyramid", "size")),
                sides=found.config.sizes if "size" in found.family.options else (found.config.resolution,),
                batch_size=config.batch_size or found.family.batch_size,
                safety=safety,
                created=int(time.time()),
                upscalers=self.upscalers,
            )
        self.batcher = Batcher(config.queue, observe)
        self.ready = threading.Event()
        self.failure: str | None = None

    def start(self) -> None:
        self.batcher.start(self._load)

    @property
    def default(self) -> Served:
        return next(iter(self.models.values()))

    def draw(
        self,
        served: Served,
        prompt: str,
        seeds: Sequence[int],
        options: Mapping[str, Any],
        size: Size = AS_DRAWN,
    ) -> Future[list[Finished]]:
        """Pictures of one prompt. Raises RefusedError for the prompt, and as `Batcher.submit` does."""
        self.check_prompt(prompt)
        work = Drawing(served, tuple(sorted(options.items())), size)
        return self.batcher.submit(work, [(prompt, seed) for seed in seeds])

    def describe(
        self, served: Served, picture: Any, language: str | None, max_tokens: int = 64
    ) -> Future[list[str]]:
        """A sentence about a picture (PIL), by a model of MARS, in at most `max_tokens` tokens. Raises as
        `Batcher.submit` does."""
        return self.batcher.submit(Describing(served, language, max_tokens), [picture])

    def alone(self, served: Served, function: Callable[[], Any], weight: int = 1) -> Future[list[Any]]:
        """Anything in the models' thread; its result comes first in the list. `weight`: pictures it makes.
        Raises as `Batcher.submit` does."""
        work: Work = Alone(served, function, weight)
        return self.batcher.submit(work, [None] * weight)

    def check_prompt(self, prompt: str) -> None:
        """Raises RefusedError, with the filter's reason, for a prompt that it does not let pass."""
        reason = None if self.safety is None else self.safety.check_prompt(prompt)
        if reason is not None:
            raise RefusedError(reason)

    def refusal(self, picture: Any, prompt: str) -> str | None:
        """Why the filter does not let a picture pass; texts and pictures without a filter pass."""
        if self.safety is None or isinstance(picture, str):
            return None
        return self.safety.check_picture(picture, prompt)

    def describer(self) -> Served | None:
        """The first model that describes pictures."""
        return next((served for served in self.models.values() if served.family == "mars"), None)

    def _load(self) -> None:
        try:
            for name, served in zip(self.config.models, self.models.values(), strict=True):
                self._load_one(name, served)
        except Exception as error:
            self.failure = first_line(error)
            raise
        self.ready.set()
        log.info("ready: %s", ", ".join(self.models))

    def _load_one(self, name: str, served: Served) -> None:
        import torch

        device = self.config.device
        pipe = impasto.load(name).to(device, getattr(torch, self.config.dtype))
        served.pipe = pipe
        # The answer itself: text encoder, generator, file.
        for size in served.sizes.values():
            Drawing(served, size=size).run([(WARM_UP, 0)])
        if not pipe.trained:
            log.warning("'%s' is untrained: its pictures show no prompt", served.name)


def _upscalers(config: EngineConfig) -> dict[int, Any]:
    """{scale: upscaler}; none where the weights of the default one are absent."""
    from impasto.upscaling.loading import load_upscaler

    found: dict[int, Any] = {}
    for scale in SCALES if config.upscaler else ():
        try:
            found[scale] = load_upscaler(str(config.upscaler), scale).to(config.device)
        except MissingAssetError as error:
            log.warning("no larger sizes: %s", first_line(error))
            return {}
        except ValueError:
            if scale == SCALES[-1] and not found:
                raise
    return found
