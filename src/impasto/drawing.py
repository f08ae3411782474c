"""Pictures from orders: one batch at a time, or tens of thousands into a folder that is gone on with.

The command line, the server and the web page all draw through `draw`, so that a seed means the same to each.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from impasto.config import ConfigError
from impasto.pictures import encode_png, to_images
from impasto.runtime.dist import Ranks
from impasto.runtime.files import atomic_path, atomic_write_text
from impasto.upscaling.command import settings_of

if TYPE_CHECKING:
    from impasto.upscaling.protocol import Upscaler

RECORD, FORMAT = "drawing.json", 1
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Order:
    """One picture to draw; `options` are the family's, such as {"truncation": 0.7}."""

    prompt: str
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Drawn:
    """A picture with the settings that draw it again."""

    picture: Image.Image
    settings: dict[str, Any]

    def png(self) -> bytes:
        """The file, settings inside."""
        return encode_png(self.picture, self.settings)


def draw(
    pipe: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    options: Mapping[str, Any],
    *,
    batch_size: int,
    upscaler: Upscaler | None = None,
    on_row: Callable[[int, Any], None] | None = None,
) -> list[Drawn]:
    """One picture for each prompt and seed, of one sort of options. Equal batches give equal bytes.

    on_row: as `MarsPipeline.generate`, of that family alone. Raises ValueError as the pipeline does.
    """
    watching = {} if on_row is None else {"on_row": on_row}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is untrained")
        generation = pipe.generate(
            list(prompts), seed=list(seeds), batch_size=batch_size, **options, **watching
        )
    return told(pipe, generation, options, upscaler)


def told(
    pipe: Any, generation: Any, options: Mapping[str, Any], upscaler: Upscaler | None = None
) -> list[Drawn]:
    """The pictures of a generation (images [N,3,R,R] in about [-1,1]), enlarged where there is an upscaler,
    with their settings."""
    told_options = {**options, **settings_of(upscaler)}
    drawn = []
    for index in range(len(generation.seeds)):
        image = generation.images[index : index + 1]
        picture = to_images(image if upscaler is None else upscaler.upscale(image))[0]
        drawn.append(Drawn(picture, pipe.settings(generation, index, told_options)))
    return drawn


def draw_folder(
    load: Callable[[], Any],
    orders: Sequence[Order],
    folder: Path,
    *,
    ranks: Ranks,
    batch_size: int,
    upscaler: Upscaler | None = None,
    progress: Progress = lambda name, done, total: None,
) -> int:
    """Write 000000.png ... for the orders, in batches that are the same however often the work was cut short
    and on however many ranks; whole batches that are there stay. Returns how many pictures this rank drew;
    `load` gives the pipeline, and is not called where nothing is missing. `claim` the folder first. Raises as
    `draw` and `Ranks` do."""
    mine = batches(orders, batch_size)[ranks.rank :: ranks.world_size]
    missing = [part for part in mine if not all((folder / file_name(n)).is_file() for n in part)]
    if missing:
        pipe = load()
        for done, part in enumerate(missing):
            progress("drawing", done, len(missing))
            of_batch = [orders[number] for number in part]
            drawn = draw(
                pipe,
                [order.prompt for order in of_batch],
                [order.seed for order in of_batch],
                of_batch[0].options,
                batch_size=batch_size,
                upscaler=upscaler,
            )
            for number, one in zip(part, drawn, strict=True):
                with atomic_path(folder / file_name(number)) as temporary:
                    temporary.write_bytes(one.png())
    ranks.barrier()
    return sum(map(len, missing))


def batches(orders: Sequence[Order], batch_size: int) -> list[range]:
    """The numbers of the orders in runs of equal options, cut into batches."""
    found, start = [], 0
    for _, run in groupby(orders, key=lambda order: order.options):
        stop = start + sum(1 for _ in run)
        found += [range(n, min(n + batch_size, stop)) for n in range(start, stop, batch_size)]
        start = stop
    return found


def file_name(number: int) -> str:
    """Of a picture by its number."""
    return f"{number:06d}.png"


def claim(folder: Path, record: Path, document: Mapping[str, Any], ranks: Ranks) -> None:
    """The folder, for the drawing that a document describes and for no other. Raises ConfigError where it
    holds another, or anything without a record."""
    document = {"format": FORMAT, **document}
    begun = folder.is_dir() and any(folder.glob("*.png"))
    if record.is_file():
        if begun and json.loads(record.read_text(encoding="utf-8")) != document:
            raise ConfigError(f"{folder} holds pictures of another drawing ({RECORD}); choose another --out")
    elif folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty; choose another --out")
    ranks.barrier()
    if ranks.is_main:
        atomic_write_text(record, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    folder.mkdir(parents=True, exist_ok=True)
    ranks.barrier()


def orders_hash(orders: Sequence[Order]) -> str:
    """64 hexadecimal digits over everything that is asked for."""
    digest = hashlib.sha256()
    for order in orders:
        line = [order.prompt, order.seed, dict(sorted(order.options.items()))]
        digest.update(json.dumps(line, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()
