"""What the page's buttons do: each a function from what was typed to files and sentences.

Everything goes through the engine, and so through the queue, the limits and the filter of the API.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from PIL import Image

from impasto.pictures import contact_sheet, from_images, open_picture, read_settings, to_images
from impasto.serve.engine import Engine
from impasto.serve.limits import MOST_PICTURES
from impasto.serve.page_queue import ANSWER_SECONDS, PageError, PageQueue
from impasto.serve.scratch import Scratch
from impasto.serve.served import Served, Size
from impasto.serve.work import Drawing, Finished
from impasto.upscaling.command import settings_of

STEPS = 13  # of a walk
MOST_SIDE = 1024  # px, of a picture to enlarge
SHOWN_SIDE = 256  # px, at least, of a single picture on the page

Labelled = tuple[str, str]  # (file, label)


@dataclass
class PageWork:
    """The functions, over one engine. Each raises PageError for what cannot be: no prompt, a seed or a count
    out of range, a size that is not served, a file that is no picture, a refusal, a full queue."""

    engine: Engine
    most_characters: int
    scratch: Scratch = field(default_factory=Scratch)

    @property
    def queue(self) -> PageQueue:
        """Of the engine."""
        return PageQueue(self.engine)

    def draw(
        self, name: str, prompt: str, count: int, seed: int, size: str, options: dict[str, Any]
    ) -> Iterator[list[Any]]:
        """Galleries: of MARS one after every row of codes, and at last the files."""
        served = self.queue.served(name)
        self._check(prompt, seed)
        if not 1 <= count <= MOST_PICTURES:
            raise PageError(f"1 to {MOST_PICTURES} pictures at a time")
        if size not in served.sizes:
            raise PageError(f"'{served.name}' draws {', '.join(served.sizes)}, not '{size}'")
        seeds = [seed + index for index in range(count)]
        own = {name: value for name, value in options.items() if name in served.options}
        if served.family == "mars":
            yield from self._draw_rows(served, prompt, seeds, served.sizes[size], own)
        else:
            chosen = served.sizes[size]
            found = self.queue.answer(lambda: self.engine.draw(served, prompt, seeds, own, chosen))
            yield self._files(served, found)

    def inside(self, name: str, prompt: str, seed: int, truncation: float) -> tuple[list[Labelled], str, str]:
        """Of an Aurora model: every level of the pyramid, the expert maps, their shares as a table."""
        from impasto.aurora.routing_maps import routes_sheet, shares_table

        served = self.queue.served(name)
        self._check(prompt, seed)
        pipe = served.pipe

        def work() -> tuple[Any, Any, str]:
            generation = pipe.generate(prompt, seed=seed, **_truncated(truncation))
            self.queue.screen([to_images(generation.images)[0]], prompt)
            return generation, routes_sheet(pipe, generation), shares_table(pipe, generation)

        generation, sheet, table = self.queue.alone(served, work)
        levels = []
        for side, batch in generation.pyramid.items():
            picture = _enlarged(to_images(batch)[0])
            levels.append((self.scratch.save(f"level-{side}.png", picture), f"{side} x {side}"))
        return levels, self.scratch.save("experts.png", sheet), table

    def walk(
        self, name: str, first: str, second: str, seed: int, truncation: float, through: str
    ) -> tuple[list[str], str, str]:
        """Frames from one prompt to another ("text"), or from one noise to the next ("z"), a GIF that goes
        there and back, and the frames in a row."""
        from impasto.animation import save_animation
        from impasto.aurora.latents import latents_of, walk_text, walk_z

        served, told = self.queue.served(name), _truncated(truncation).get("truncation")
        for prompt in (first, second) if through == "text" else (first,):
            self._check(prompt, seed)
        pipe = served.pipe

        def work() -> list[Image.Image]:
            if through == "text":
                one, two = (latents_of(pipe, [prompt], [seed], told) for prompt in (first, second))
                steps = walk_text(pipe, one, two, STEPS, "both", told)
            else:
                one, two = (latents_of(pipe, [first], [of], told) for of in (seed, seed + 1))
                steps = walk_z(pipe, one, two, STEPS, told)
            pictures = [step.pictures()[0] for step in steps]
            self.queue.screen(pictures, first)
            return pictures

        pictures = self.queue.alone(served, work, STEPS)
        settings = {"prompts": [first, second], "space": through, "seed": seed, "model": served.name}
        frames = [
            self.scratch.save(f"step-{number:02d}.png", _enlarged(picture), {**settings, "step": number})
            for number, picture in enumerate(pictures)
        ]
        moving = Path(self.scratch.write("walk.gif", b""))
        save_animation([_enlarged(picture) for picture in pictures], moving)
        strip = self.scratch.save("strip.png", contact_sheet([pictures], cell=96), settings)
        return frames, str(moving), strip

    def enlarge(self, file: str | None, scale: int) -> str:
        """A picture, larger; the settings inside it stay."""
        picture = self._opened(file)
        upscaler = self.engine.upscalers.get(scale)
        if upscaler is None:
            raise PageError("this size is not served")
        if max(picture.size) > MOST_SIDE:
            raise PageError(f"pictures of at most {MOST_SIDE} px a side")
        served = self.engine.default
        large = self.queue.alone(served, lambda: to_images(upscaler.upscale(from_images([picture])))[0])
        settings = {**_settings_of(str(file)), **settings_of(upscaler)}
        return self.scratch.save("enlarged.png", large, settings)

    def describe(self, file: str | None, language: str) -> str:
        """A sentence about a picture."""
        picture, served = self._opened(file), self.engine.describer()
        if served is None:
            raise PageError("no model of MARS is served")
        return self.queue.answer(lambda: self.engine.describe(served, picture, language))[0]

    def _draw_rows(
        self, served: Served, prompt: str, seeds: list[int], size: Size, options: dict[str, Any]
    ) -> Iterator[list[Any]]:
        """As the engine draws, with a look at every row of the base's codes."""
        self.queue.screen_prompt(prompt)
        seen: SimpleQueue[list[Image.Image]] = SimpleQueue()
        rows_of_one_batch = len(seeds) <= served.batch_size

        def work() -> list[Finished]:
            drawing = Drawing(served, tuple(sorted(options.items())), size)
            return drawing.run([(prompt, seed) for seed in seeds], look if show else None)

        def look(row: int, codes: Any) -> None:
            seen.put(served.pipe.preview(codes))

        show = rows_of_one_batch and self.engine.safety is None  # a filter sees whole pictures alone
        future = self.queue.submitted(lambda: self.engine.alone(served, work, len(seeds)))
        until = time.monotonic() + ANSWER_SECONDS
        while not future.done() and time.monotonic() < until:
            try:
                latest = seen.get(timeout=0.2)
            except Empty:
                continue
            yield [(_enlarged(picture), "") for picture in latest]
        yield self._files(served, self.queue.result(future)[0])

    def _files(self, served: Served, found: list[Finished]) -> list[Labelled]:
        refused = next((one.refused for one in found if one.refused), None)
        if refused:
            raise PageError(refused)
        return [
            (self.scratch.write(f"{served.name}-{one.seed}.png", one.png), f"seed {one.seed}")
            for one in found
        ]

    def _check(self, prompt: str, seed: int) -> None:
        if not prompt:
            raise PageError("write a prompt first")
        if len(prompt) > self.most_characters:
            raise PageError(f"a prompt has at most {self.most_characters:,} characters")
        if not 0 <= seed < 2**32:
            raise PageError("a seed is a whole number from 0 to 4294967295")
        self.queue.screen_prompt(prompt)

    def _opened(self, file: str | None) -> Image.Image:
        if not file:
            raise PageError("choose a picture first")
        try:
            return open_picture(file)
        except ValueError:
            raise PageError("this is no picture that can be read") from None


def _truncated(truncation: float) -> dict[str, float]:
    """1 is none: then the settings say nothing of it, as on the command line."""
    return {} if truncation == 1 else {"truncation": truncation}


def _enlarged(picture: Image.Image) -> Image.Image:
    """Small pictures with every pixel repeated, so that browsers do not smooth what was made."""
    times = max(1, SHOWN_SIDE // picture.width)
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)


def _settings_of(file: str) -> dict[str, Any]:
    try:
        return read_settings(Path(file))
    except (OSError, ValueError):
        return {}
