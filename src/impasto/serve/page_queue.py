"""How the page asks the engine: by the queue, limits and filter of the API, its refusals as sentences."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from PIL import Image

from impasto.serve.batching import ClosedError, QueueFullError
from impasto.serve.engine import Engine, RefusedError
from impasto.serve.served import Served

ANSWER_SECONDS = 600.0
LOADING_SECONDS = 120.0  # that the first visitor waits


class PageError(Exception):
    """What the page tells in a sentence."""


@dataclass(frozen=True)
class PageQueue:
    """Every method raises PageError where the page has to say why not."""

    engine: Engine

    def alone(self, served: Served, work: Callable[[], Any], weight: int = 1) -> Any:
        """What `work` gives while nothing else draws with the model; `weight`: pictures' worth of it."""
        return self.answer(lambda: self.engine.alone(served, work, weight))[0]

    def answer(self, submit: Callable[[], Future]) -> Any:
        """What the engine answers to `submit`."""
        return self.result(self.submitted(submit))

    def submitted(self, submit: Callable[[], Future]) -> Future:
        """`submit` itself, once the models are loaded and where there is room in the queue."""
        if not self.engine.ready.wait(LOADING_SECONDS):
            raise PageError("the models are still being loaded; try again in a moment")
        try:
            return submit()
        except QueueFullError as error:
            raise PageError(f"too many wait; try again in {error.retry_after} s") from None
        except ClosedError:
            raise PageError("the server is shutting down") from None
        except RefusedError as error:
            raise PageError(str(error)) from None

    def result(self, future: Future) -> Any:
        """What was submitted, in time."""
        try:
            return future.result(ANSWER_SECONDS)
        except (RefusedError, ValueError) as error:
            raise PageError(str(error)) from None
        except TimeoutError:
            future.cancel()
            raise PageError("this took too long") from None

    def served(self, name: str) -> Served:
        """The model of a name."""
        if name not in self.engine.models:
            raise PageError("this model is not served")
        return self.engine.models[name]

    def screen_prompt(self, prompt: str) -> None:
        """The filter's word on a prompt."""
        try:
            self.engine.check_prompt(prompt)
        except RefusedError as error:
            raise PageError(str(error)) from None

    def screen(self, pictures: list[Image.Image], prompt: str) -> None:
        """The filter's word on pictures, within work: raises RefusedError."""
        for picture in pictures:
            reason = self.engine.refusal(picture, prompt)
            if reason is not None:
                raise RefusedError(reason)
