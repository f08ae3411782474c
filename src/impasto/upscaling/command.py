"""What the command does with upscalers: two options of `generate`, and the verb `upscale`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from impasto.upscaling.protocol import Upscaler

DEFAULT_UPSCALER, DEFAULT_SCALE = "realesrgan", 4
CELL, LARGEST_CELL = 128, 256  # px, of sheet.png


def add_options(verb: argparse.ArgumentParser, scale: int | None = None) -> None:
    """--upscale N and --upscaler SPEC."""
    group = verb.add_argument_group("super-resolution")
    told = "default: not at all" if scale is None else f"default {scale}"
    group.add_argument("--upscale", type=int, default=scale, metavar="N", help=f"N times as large ({told})")
    group.add_argument(
        "--upscaler",
        metavar="SPEC",
        help="realesrgan (default), realesrgan-anime, realesrgan-photo, lanczos, spandrel:FILE or "
        "diffusers:DIRECTORY",
    )


def add_verb(verb: argparse.ArgumentParser) -> None:
    """The options of `impasto upscale`."""
    verb.description = (
        "Enlarge pictures: DIR/NAME.png for each, with the settings that were inside the file and how it was "
        "enlarged."
    )
    verb.add_argument("pictures", nargs="+", metavar="PICTURE", help="image file")
    verb.add_argument("--out", default="upscaled", metavar="DIR", help="folder to write (default upscaled)")
    verb.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ... (default cpu)")
    add_options(verb, DEFAULT_SCALE)
    verb.set_defaults(run=run)


def wanted(arguments: argparse.Namespace) -> Upscaler | None:
    """The upscaler that the options ask for, on their device; None where they ask for none. Raises ValueError
    for --upscaler without --upscale, and as `load_upscaler` does."""
    from impasto.command_options import usable_device

    if arguments.upscale is None:
        if arguments.upscaler is not None:
            raise ValueError("--upscaler needs --upscale N, such as --upscale 4")
        return None
    from impasto.upscaling.loading import load_upscaler

    upscaler = load_upscaler(arguments.upscaler or DEFAULT_UPSCALER, arguments.upscale)
    return upscaler.to(usable_device(arguments.device))


def settings_of(upscaler: Upscaler | None) -> dict[str, Any]:
    """What a picture's settings say of it."""
    return {} if upscaler is None else {"upscale": upscaler.scale, "upscaler": upscaler.name}


def upscaled(images: Tensor, upscaler: Upscaler | None) -> list[Image.Image]:
    """[N,3,H,W] in [-1,1] as pictures, enlarged one by one where there is an upscaler."""
    from impasto.pictures import to_images

    if upscaler is None:
        return to_images(images)
    return [to_images(upscaler.upscale(image[None]))[0] for image in images]


def sheet(
    rows: Sequence[Sequence[Image.Image]], labels: Sequence[str], upscaler: Upscaler | None
) -> Image.Image:
    """The contact sheet of square pictures. Enlarged ones are shown as they are up to 256 px, and reduced
    smoothly beyond."""
    from PIL import Image

    from impasto.pictures import contact_sheet

    if upscaler is None:
        return contact_sheet(rows, labels)
    cell = min(max(CELL, rows[0][0].width), LARGEST_CELL)
    small = [
        [p.resize((cell, cell), Image.Resampling.LANCZOS) if p.width > cell else p for p in row]
        for row in rows
    ]
    return contact_sheet(small, labels, cell)


def run(arguments: argparse.Namespace) -> int:
    """`impasto upscale`: everything that can be refused is, before anything is written. Raises ValueError for
    a picture that cannot be read, or where two files would be one; and as `wanted` does."""
    from impasto.pictures import from_images, open_picture, read_settings, save_png

    upscaler = wanted(arguments)
    assert upscaler is not None
    targets = _targets([Path(path) for path in arguments.pictures], Path(arguments.out))
    for source in targets.values():
        open_picture(source)
    for target, source in targets.items():
        enlarged = upscaled(from_images([open_picture(source)]), upscaler)[0]
        save_png(enlarged, target, {**read_settings(source), **settings_of(upscaler)})
    print(f"wrote {len(targets)} pictures to {arguments.out}")
    return 0


def _targets(sources: Sequence[Path], out: Path) -> dict[Path, Path]:
    """The file to write -> the picture it is made of. Raises ValueError where two would be written to one
    file, or one over its picture."""
    targets: dict[Path, Path] = {}
    for source in sources:
        target = out / f"{source.stem}.png"
        if target in targets:
            raise ValueError(f"{source} and {targets[target]} would both be written to {target}")
        targets[target] = source
    inputs = {source.resolve() for source in sources}
    for target, source in targets.items():
        if target.resolve() in inputs:
            raise ValueError(f"{source} would be written over a picture, {target}; name another --out")
    return targets
