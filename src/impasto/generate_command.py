"""`impasto generate`: prompts on the command line, prompts in a file, or a picture's settings again. Heavy
imports live inside the verb, so that --help answers at once."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from impasto.command_options import (
    add_drawing_options,
    drawing_options,
    progress_bars,
    ranks_of,
    usable_device,
    usable_dtype,
)
from impasto.config import ConfigError
from impasto.upscaling import command as upscaling

DESCRIPTION = (
    "Make pictures: 000000.png ... with their settings inside the file. From PROMPTs also sheet.png; image k "
    "of every prompt uses noise stream SEED + k, whatever else is in the batch. From a file of prompts "
    "(--prompts), picture N uses SEED + N, and the same line goes on with a folder that was begun, also "
    "under torchrun. --like draws a picture again by the settings inside it."
)


def add_generate(verb: argparse.ArgumentParser, default_model: str) -> None:
    """The options of `impasto generate`, except those of the device and dtype."""
    verb.description = DESCRIPTION
    verb.set_defaults(run=run, default_model=default_model)
    verb.add_argument("words", nargs="*", metavar="PROMPT", help="what to draw; quote each prompt")
    verb.add_argument("--prompts", metavar="FILE", help="a prompt a line, or .jsonl with settings for each")
    verb.add_argument("--like", metavar="PICTURE", help="draw again by a picture's settings; options win")
    verb.add_argument("-n", "--num-images", type=int, default=1, metavar="N", help="pictures of each prompt")
    verb.add_argument("--seed", type=int, help="noise stream of the first picture (default 0)")
    verb.add_argument("--out", default="pictures", metavar="DIR", help="folder to write (default pictures)")
    verb.add_argument("--batch-size", type=int, metavar="N", help="pictures per pass (default 8, of MARS 32)")
    verb.add_argument("--model", help=f"shipped model, directory, hub id or preset (default {default_model})")
    upscaling.add_options(verb)
    aurora = add_drawing_options(verb)
    aurora.add_argument(
        "--pyramid", action="store_const", const=True, help="also write pyramid.png, every resolution"
    )


@dataclass
class Plan:
    """What the command line comes to."""

    model: str
    prompts: list[str]
    seed: int
    options: dict[str, Any]
    batch_size: int
    upscaler: Any
    with_pyramid: bool


def run(arguments: argparse.Namespace) -> int:
    """`impasto generate`. Raises ConfigError for options that do not go together or are not the family's, for
    --prompts or --like that cannot be read, and for a model that is not found; and as `usable_device` and
    `upscaling.command.wanted` do."""
    if (bool(arguments.words) + bool(arguments.prompts) + bool(arguments.like)) != 1:
        raise ConfigError("give one of: PROMPTs, --prompts FILE, --like PICTURE")
    if arguments.prompts:
        ranks = ranks_of(arguments)
        return _bulk(arguments, _plan(arguments), ranks)
    arguments.device = usable_device(arguments.device)
    return _at_once(arguments, _plan(arguments))


def _plan(arguments: argparse.Namespace) -> Plan:
    from impasto.families import check_options
    from impasto.loading import describe
    from impasto.orders import settings_inside

    options = drawing_options(arguments) | ({"pyramid": True} if arguments.pyramid else {})
    prompts, seed, model = arguments.words, arguments.seed or 0, arguments.model or arguments.default_model
    if arguments.like:
        inside = settings_inside(Path(arguments.like))
        options = {**inside.options, **options}
        prompts, model = [inside.prompt], arguments.model or inside.model
        seed = inside.seed if arguments.seed is None else arguments.seed
        if arguments.upscale is None and arguments.upscaler is None:
            arguments.upscale, arguments.upscaler = inside.upscale, inside.upscaler
    if not arguments.model and arguments.like:
        model = _findable(model, arguments.like)
    family = describe(model, arguments.settings).family
    check_options(family, options, model)
    if arguments.num_images < 1 or (arguments.batch_size is not None and arguments.batch_size < 1):
        raise ConfigError("-n and --batch-size should be at least 1")
    with_pyramid = options.pop("pyramid", False)
    if with_pyramid and arguments.prompts:
        raise ConfigError("--pyramid goes with PROMPTs, not with --prompts FILE")
    batch_size = arguments.batch_size or family.batch_size
    return Plan(model, prompts, seed, options, batch_size, upscaling.wanted(arguments), with_pyramid)


def _findable(model: str, picture: str) -> str:
    """A picture says its model's name, which is enough for one that ships and for a preset."""
    from impasto.loading import describe

    try:
        describe(model, [])
    except (ValueError, OSError):
        raise ConfigError(f"{picture} was made by '{model}'; say where that is with --model") from None
    return model


def _loaded(arguments: argparse.Namespace, plan: Plan) -> Any:
    import impasto

    dtype = usable_dtype(arguments.dtype, arguments.device)
    return impasto.load(plan.model, arguments.settings).to(arguments.device, dtype)


def _say_untrained(pipe: Any) -> None:
    if not pipe.trained:
        print(f"'{pipe.name}' is untrained: its pictures show no prompt.", file=sys.stderr)


def _at_once(arguments: argparse.Namespace, plan: Plan) -> int:
    import warnings

    from impasto.drawing import file_name, told
    from impasto.pictures import contact_sheet, save_png, to_images

    pipe = _loaded(arguments, plan)
    count, out = arguments.num_images, Path(arguments.out)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        generation = pipe.generate(
            plan.prompts, count, seed=plan.seed, batch_size=plan.batch_size, **plan.options
        )
    _say_untrained(pipe)
    drawn = told(pipe, generation, plan.options, plan.upscaler)
    for index, one in enumerate(drawn):
        save_png(one.picture, out / file_name(index), one.settings)
    pictures = [one.picture for one in drawn]
    rows = [pictures[start : start + count] for start in range(0, len(pictures), count)]
    save_png(upscaling.sheet(rows, plan.prompts, plan.upscaler), out / "sheet.png")
    written = f"{len(pictures)} pictures and sheet.png"
    if plan.with_pyramid:
        levels = {r: to_images(batch) for r, batch in generation.pyramid.items()}
        rows = [[level[index] for level in levels.values()] for index in range(len(pictures))]
        labels = [f"{prompt} ({' '.join(map(str, levels))} px)" for prompt in generation.prompts]
        save_png(contact_sheet(rows, labels), out / "pyramid.png")
        written += " and pyramid.png"
    print(f"wrote {written} to {out}")
    return 0


def _bulk(arguments: argparse.Namespace, plan: Plan, ranks: Any) -> int:
    from impasto.drawing import RECORD, claim, draw_folder, orders_hash
    from impasto.families import check_options
    from impasto.loading import describe, identity
    from impasto.orders import read_orders

    source, out = Path(arguments.prompts), Path(arguments.out)
    orders = read_orders(source, num_images=arguments.num_images, seed=plan.seed, options=plan.options)
    family = describe(plan.model, arguments.settings).family
    for names in {tuple(order.options) for order in orders}:
        check_options(family, dict.fromkeys(names), plan.model)
    document = {
        "model": identity(plan.model),
        "model_settings": arguments.settings,
        "count": len(orders),
        "orders_sha256": orders_hash(orders),
        "batch": plan.batch_size,
        "dtype": arguments.dtype,
        **upscaling.settings_of(plan.upscaler),
    }
    claim(out, out / RECORD, document, ranks)
    with progress_bars(ranks.is_main) as progress:
        drawn = draw_folder(
            lambda: _loaded(arguments, plan),
            orders,
            out,
            ranks=ranks,
            batch_size=plan.batch_size,
            upscaler=plan.upscaler,
            progress=progress,
        )
    drawn = ranks.total(drawn)
    if ranks.is_main:
        print(f"wrote {drawn:,} of {len(orders):,} pictures to {out}; {len(orders) - drawn:,} were there")
    ranks.close()
    return 0
