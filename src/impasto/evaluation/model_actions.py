"""What `impasto evaluate` does with models alone: protocols that ask one, models side by side, blind pages
of two."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from impasto.command_options import drawing_options, progress_bars, usable_device, usable_dtype
from impasto.config import ConfigError
from impasto.evaluation.blind import blind_models, write_blind
from impasto.evaluation.contenders import Sweep, contenders, model_of
from impasto.evaluation.languages import evaluate_languages
from impasto.evaluation.pictures import holds_pictures
from impasto.evaluation.protocols import is_model
from impasto.evaluation.side_by_side import evaluate_side_by_side
from impasto.evaluation.stories import evaluate_stories

# {protocol: (what evaluates a model, how many scenes or stories where --count does not say)}
OF_MODELS: dict[str, tuple[Any, int]] = {
    "languages": (evaluate_languages, 500),
    "stories": (evaluate_stories, 200),
}


def ask_model(arguments: argparse.Namespace, drawing: Mapping[str, Any]) -> None:
    """A protocol that asks a model, and takes neither pictures nor a reference. ConfigError without a
    model or for options it has not."""
    name = arguments.protocol
    if arguments.target is None or not is_model(arguments.target):
        raise ConfigError(f"--protocol {name} takes a MODEL")
    for option in ("reference", "scorer"):
        if getattr(arguments, option) is not None:
            raise ConfigError(f"--protocol {name} has no --{option}")
    evaluate, count = OF_MODELS[name]
    out, device = Path(arguments.out), usable_device(arguments.device)
    table = evaluate(
        arguments.target,
        out,
        count=count if arguments.count is None else arguments.count,
        seed=arguments.seed,
        device=device,
        dtype=usable_dtype(arguments.dtype, device),
        settings=arguments.settings,
        drawing=drawing,
    )
    print(f"{table}\nwrote {out / 'report.html'}, report.md, report.json and sheets")


def put_side_by_side(arguments: argparse.Namespace) -> None:
    """Models on the same prompts. ConfigError for options that do not go with --models."""
    if arguments.protocol not in (None, "scenes") or arguments.reference is not None:
        raise ConfigError("--models is about scenes, and takes neither another --protocol nor a --reference")
    if arguments.count is not None and arguments.count < 2:
        raise ConfigError(f"--count {arguments.count} should be at least 2")
    out, device = Path(arguments.out), usable_device(arguments.device)
    sweep = None if arguments.sweep is None else Sweep.parsed(arguments.sweep)
    found = contenders(arguments.models, drawing_options(arguments), sweep)
    with progress_bars() as progress:
        table = evaluate_side_by_side(
            found,
            out,
            count=50 if arguments.count is None else arguments.count,
            seed=arguments.seed,
            device=device,
            dtype=usable_dtype(arguments.dtype, device),
            settings=arguments.settings,
            sweep=sweep,
            progress=progress,
        )
    print(f"{table}\nwrote {out / 'report.html'}, report.md, report.json, sheet.png and plots")


def make_blind(arguments: argparse.Namespace, check: Callable[[], object]) -> str:
    """The page of two folders, or of two models that draw for it first; `check` refuses options of drawing
    for folders. ConfigError for a model and a folder."""
    out, (first, second) = Path(arguments.out), arguments.blind
    models = [is_model(model_of(name)) and not holds_pictures(Path(name)) for name in (first, second)]
    if any(models) and not all(models):
        raise ConfigError(f"--blind takes two models or two folders of pictures, not {first} and {second}")
    if all(models):
        with progress_bars() as progress:
            return blind_models(
                first,
                second,
                out,
                pairs=50 if arguments.pairs is None else arguments.pairs,
                captions=Path(arguments.captions) if arguments.captions else None,
                seed=arguments.seed,
                device=usable_device(arguments.device),
                drawing=drawing_options(arguments),
                settings=arguments.settings,
                progress=progress,
            )
    check()
    return write_blind(first, second, out, seed=arguments.seed, most=arguments.pairs)
