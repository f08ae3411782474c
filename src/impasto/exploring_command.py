"""`impasto interpolate`, `routes` and `project`: a trained Aurora model looked at from inside. Heavy imports
live inside the verbs, so that --help answers at once."""

import argparse
from collections.abc import Callable
from typing import Any

from impasto.config import ConfigError
from impasto.exploring_model import aurora_pipeline
from impasto.exploring_report import add_analyse

SHOWN = 96  # px of a picture in a strip


def add_interpolate(verb: argparse.ArgumentParser) -> None:
    """The options of `impasto interpolate`, except those of the model."""
    verb.description = (
        "Pictures on the way between two prompts (--space text, or w), or between two noises (--space z; w "
        "without a second prompt): a strip as .png, or there and back again as .gif or .mp4."
    )
    verb.set_defaults(run=_interpolate)
    verb.add_argument("prompts", nargs="+", metavar="PROMPT", help="from, and to; one alone walks its noise")
    verb.add_argument(
        "--space", choices=("text", "z", "w"), default="text", help="what is walked through (default text)"
    )
    verb.add_argument(
        "--part",
        choices=("both", "tokens", "global"),
        help="text: what changes, the tokens that attention reads, the global vector in w, or both (default)",
    )
    verb.add_argument("--steps", type=int, default=9, metavar="N", help="pictures, both ends (default 9)")
    verb.add_argument("-n", "--rows", type=int, default=3, metavar="N", help="noises, one a row (default 3)")
    verb.add_argument("--seed", type=int, default=0, help="noise stream of the first row (default 0)")
    verb.add_argument("--truncation", type=float, metavar="PSI", help="pull w to its mean (default: not)")
    verb.add_argument(
        "--out", default="strip.png", metavar="FILE", help=".png, .gif or .mp4 (default strip.png)"
    )


def add_routes(verb: argparse.ArgumentParser) -> None:
    """The options of `impasto routes`, except those of the model."""
    verb.description = (
        "Which expert made which pixel: each picture, then its map in every mixture-of-experts layer, over a "
        "bar of the experts' shares. --knock-out shows the pictures without each expert."
    )
    verb.set_defaults(run=_routes)
    verb.add_argument("prompts", nargs="+", metavar="PROMPT", help="what to draw")
    verb.add_argument("--seed", type=int, default=0, help="noise stream (default 0)")
    verb.add_argument("--layer", type=int, metavar="L", help="with --knock-out: which layer (default 0)")
    verb.add_argument(
        "--knock-out",
        action="store_true",
        help="instead: each picture without every expert of a layer",
    )
    verb.add_argument("--out", default="routes.png", metavar="FILE", help="default routes.png")


def add_project(verb: argparse.ArgumentParser) -> None:
    """The options of `impasto project`, except those of the model."""
    verb.description = (
        "Search the latent that draws a picture again: writes reconstruction.png, sheet.png (the picture, "
        "what was found, and the way there), projection.gif and latent.safetensors (wp, local_text, mask)."
    )
    verb.set_defaults(run=_project)
    verb.add_argument("picture", metavar="PICTURE", help="image file; cropped to a square and resized")
    verb.add_argument("--prompt", default="", help="what it shows: the tokens that attention reads")
    verb.add_argument("--space", choices=("w", "w+"), default="w+", help="one w, or one a layer (default w+)")
    verb.add_argument("--steps", type=int, default=300, metavar="N", help="of the search (default 300)")
    verb.add_argument("--out", default="projection", metavar="DIR", help="folder (default projection)")


def _interpolate(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from impasto.animation import MOVING, check_animation, save_animation
    from impasto.aurora.latents import shares_of
    from impasto.pictures import contact_sheet, save_png

    out, prompts, space = Path(arguments.out), arguments.prompts, arguments.space
    if out.suffix not in (".png", *MOVING):
        raise ConfigError(f"--out {out} should end in .png, .gif or .mp4")
    if len(prompts) > 2:
        raise ConfigError(f"{len(prompts)} prompts: give one or two, each in quotes")
    if space == "text" and len(prompts) < 2:
        raise ConfigError("--space text needs two prompts; with one, walk --space z or w")
    if arguments.part is not None and space != "text":
        raise ConfigError(f"--part means nothing with --space {space}")
    if arguments.rows < 1:
        raise ConfigError(f"--rows {arguments.rows} should be at least 1")
    shares_of(arguments.steps)
    if out.suffix in MOVING:
        check_animation(out)
    pipe = aurora_pipeline(arguments)
    strips, labels = _walk(pipe, arguments)
    columns = [generation.pictures() for generation in strips]
    rows = [list(row) for row in zip(*columns, strict=True)]
    cell = max(SHOWN, pipe.config.resolution)
    if out.suffix == ".png":
        settings = {"prompts": prompts, "space": space, "seed": arguments.seed, "model": pipe.name}
        save_png(contact_sheet(rows, labels, cell=cell), out, settings)
    else:
        frames = [contact_sheet([column], [], cell=2 * cell) for column in columns]
        save_animation(frames, out)
    print(f"wrote {out}: {len(rows)} rows of {arguments.steps} steps")
    return 0


def _walk(pipe: Any, arguments: argparse.Namespace) -> tuple[list[Any], list[str]]:
    """A generation for every step, and a label for every row."""
    from impasto.aurora.latents import latents_of, walk_text, walk_w, walk_z

    prompts, steps, space = arguments.prompts, arguments.steps, arguments.space
    seeds = [arguments.seed + row for row in range(arguments.rows)]

    def of(prompt: str, noise: list[int]) -> Any:
        return latents_of(pipe, [prompt] * len(noise), noise, arguments.truncation)

    if space == "text":
        ends = of(prompts[0], seeds), of(prompts[1], seeds)
        part: Any = arguments.part or "both"
        walk = walk_text(pipe, *ends, steps, part, arguments.truncation)
        return walk, [f"{prompts[0]} -> {prompts[1]}   (noise {seed})" for seed in seeds]
    if space == "w" and len(prompts) == 2:
        walk = walk_w(pipe, of(prompts[0], seeds), of(prompts[1], seeds), steps)
        return walk, [f"w of {prompts[0]} -> {prompts[1]}   (noise {seed})" for seed in seeds]
    # Every prompt walks from one noise to the next.
    starts = [seed for _ in prompts for seed in seeds]
    named = [prompt for prompt in prompts for _ in seeds]
    first = latents_of(pipe, named, starts, arguments.truncation)
    second = latents_of(pipe, named, [seed + len(seeds) for seed in starts], arguments.truncation)
    if space == "z":
        walk = walk_z(pipe, first, second, steps, arguments.truncation)
    else:
        walk = walk_w(pipe, first, second, steps)
    labels = [f"{p}   (noise {s} -> {s + len(seeds)})" for p, s in zip(named, starts, strict=True)]
    return walk, labels


def _routes(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from impasto.aurora.latents import draw, latents_of
    from impasto.aurora.routing_maps import knock_out_sheet, layers_of_experts, routes_sheet, shares_table
    from impasto.pictures import save_png

    out = Path(arguments.out)
    if out.suffix != ".png":
        raise ConfigError(f"--out {out} should end in .png")
    if arguments.layer is not None and not arguments.knock_out:
        raise ConfigError("--layer means something only with --knock-out")
    pipe = aurora_pipeline(arguments)
    layers, prompts = layers_of_experts(pipe), arguments.prompts
    if not arguments.knock_out:
        generation = draw(pipe, latents_of(pipe, prompts, [arguments.seed] * len(prompts)))
        save_png(routes_sheet(pipe, generation), out)
        print(shares_table(pipe, generation), end="")
        print(f"wrote {out}")
        return 0
    number = arguments.layer or 0
    if not 0 <= number < len(layers):
        raise ConfigError(f"--layer {number}: '{pipe.name}' has layers 0 to {len(layers) - 1}")
    sheet, changes = knock_out_sheet(pipe, prompts, layers[number], arguments.seed)
    save_png(sheet, out)
    print(f"{layers[number].name}; as it is, then without expert 0, 1, ...: pictures change on average by")
    print("  ".join(f"{expert}: {change:.1f}" for expert, change in enumerate(changes)) + "  levels of 255")
    print(f"wrote {out}")
    return 0


def _project(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from safetensors.torch import save_file

    from impasto.animation import save_animation
    from impasto.aurora.inversion import InversionConfig, project
    from impasto.aurora.latents import draw
    from impasto.pictures import contact_sheet, from_images, open_picture, save_png, to_images
    from impasto.runtime.files import atomic_path
    from impasto.vision.efficientnet import ImageFeatures

    config = InversionConfig(space=arguments.space, steps=arguments.steps)
    picture = open_picture(arguments.picture)
    pipe = aurora_pipeline(arguments)
    side, out = pipe.config.resolution, Path(arguments.out)
    square = _square(picture, side)
    features = ImageFeatures("efficientnet-lite0", max(64, side)).to(pipe.device)
    with _progress() as told:
        found = project(
            pipe, from_images([square]), arguments.prompt, config, features=features.maps, progress=told
        )
    drawn = draw(pipe, found.latents).pictures()
    settings = {"prompt": arguments.prompt, "space": config.space, "steps": config.steps, "model": pipe.name}
    save_png(drawn[0], out / "reconstruction.png", settings)
    way = to_images(found.pictures)
    chosen = [way[round(n * (len(way) - 1) / 5)] for n in range(6)]
    save_png(
        contact_sheet([[square, drawn[0], *chosen]], ["the picture, what was found, and the way"]),
        out / "sheet.png",
    )
    save_animation([contact_sheet([[square, frame]], cell=192) for frame in way], out / "projection.gif")
    kept = {name: getattr(found.latents, name).detach().cpu() for name in ("wp", "local_text", "mask")}
    with atomic_path(out / "latent.safetensors") as temporary:
        save_file({name: value.contiguous() for name, value in kept.items()}, temporary)
    print(f"mean squared error {found.first_error:.4f} -> {found.error:.4f} (pixels in -1 to 1)")
    print(f"wrote {out}: reconstruction.png, sheet.png, projection.gif, latent.safetensors")
    return 0


def _square(picture: Any, side: int) -> Any:
    """The middle of a picture at a side."""
    from PIL import Image

    edge = min(picture.size)
    left, top = (picture.width - edge) // 2, (picture.height - edge) // 2
    return picture.crop((left, top, left + edge, top + edge)).resize((side, side), Image.Resampling.BOX)


def _progress() -> Any:
    """A bar on stderr, if that is a terminal."""
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import Progress

    @contextmanager
    def shown():
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("searching")

            def told(step: int, steps: int, error: float) -> None:
                bar.update(task, completed=step, total=steps, description=f"error {error:.4f}")

            yield told

    return shown()


VERBS: tuple[tuple[str, str, Callable[[argparse.ArgumentParser], None]], ...] = (
    ("interpolate", "Pictures on the way between two prompts or noises.", add_interpolate),
    ("routes", "Which expert made which pixel.", add_routes),
    ("project", "Search the latent that draws a picture again.", add_project),
    ("analyse", "Look at a model from inside: every sheet and number into a folder.", add_analyse),
)
