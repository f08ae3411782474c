"""What the thread of the models does, as values that say which rows may share a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from impasto.drawing import Drawn, draw
from impasto.serve.served import AS_DRAWN, SafetyFilter, Served, Size

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Finished:
    """A picture as it goes out; `refused` says why it does not."""

    png: bytes
    seed: int
    refused: str | None = None


@dataclass(frozen=True)
class Drawing:
    """Rows are (prompt, seed). `options`: the family's, as sorted pairs."""

    served: Served
    options: tuple[tuple[str, Any], ...] = ()
    size: Size = AS_DRAWN

    @property
    def batch_size(self) -> int:
        return self.served.batch_size

    def run(
        self, rows: Sequence[tuple[str, int]], on_row: Callable[[int, Any], None] | None = None
    ) -> list[Finished]:
        """on_row: as `MarsPipeline.generate`, of that family alone."""
        side = {} if self.size.side is None else {"size": self.size.side}
        drawn = draw(
            self.served.pipe,
            [prompt for prompt, _ in rows],
            [seed for _, seed in rows],
            {**dict(self.options), **side},
            batch_size=self.batch_size,
            upscaler=self.served.upscalers.get(self.size.scale),
            on_row=on_row,
        )
        return [finish(one, self.served.safety) for one in drawn]


def finish(drawn: Drawn, safety: SafetyFilter | None) -> Finished:
    """A file, if the filter lets it pass."""
    settings = drawn.settings
    refused = None if safety is None else safety.check_picture(drawn.picture, settings["prompt"])
    return Finished(b"" if refused else drawn.png(), settings["seed"], refused)


@dataclass(frozen=True)
class Describing:
    """Rows are pictures (PIL); results are sentences of at most `max_tokens` tokens."""

    served: Served
    language: str | None
    max_tokens: int

    @property
    def batch_size(self) -> int:
        return self.served.batch_size

    def run(self, rows: Sequence[Image.Image]) -> list[str]:
        return self.served.pipe.caption(
            list(rows), self.language, max_tokens=self.max_tokens, batch_size=self.batch_size
        )


@dataclass(frozen=True, eq=False)
class Alone:
    """Anything else: one function, by itself. Rows are its weight in the queue, the results are its own."""

    served: Served
    function: Callable[[], Any]
    weight: int = 1

    @property
    def batch_size(self) -> int:
        return self.weight

    def run(self, rows: Sequence[Any]) -> list[Any]:
        return [self.function()] + [None] * (len(rows) - 1)
