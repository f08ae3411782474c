"""`impasto evaluate`: its options and what they call. Heavy imports live inside, so that --help answers at
once."""

import argparse

from impasto.command_options import DTYPES, usable_device


def add_options(verb: argparse.ArgumentParser) -> None:
    """The options of `impasto evaluate`."""
    verb.set_defaults(run=_evaluate)
    verb.description = (
        "Score a model with the oracle of scenes: ten fixed prompts and sampled ones, of combinations that "
        "training contains and that it does not, with 95 % intervals, beside real renders, the untrained "
        "network and chance. A folder of pictures written by `impasto generate` is scored on its own prompts."
    )
    verb.add_argument("target", metavar="MODEL_OR_IMAGE_DIR", help="model, or a folder of pictures")
    verb.add_argument("--protocol", choices=("scenes",), default="scenes", help="what to measure (scenes)")
    verb.add_argument("--count", type=int, default=500, help="sampled prompts of each kind (default 500)")
    verb.add_argument("--seed", type=int, default=0, help="noise stream of the first picture (default 0)")
    verb.add_argument("--out", default="report", metavar="DIR", help="folder to write (default report)")
    verb.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ... (default cpu)")
    verb.add_argument("--dtype", choices=DTYPES, default="float32", help="type of the weights")
    verb.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="PATH=VALUE",
        help="which scenes, e.g. max_objects=1 (default: as the model was trained); may be repeated",
    )


def _evaluate(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    import torch

    from impasto.evaluation import evaluate_model, evaluate_pictures, holds_pictures

    out, target = Path(arguments.out), Path(arguments.target)
    if holds_pictures(target):
        print(evaluate_pictures(target, out))
    else:
        print(
            evaluate_model(
                arguments.target,
                out,
                count=arguments.count,
                seed=arguments.seed,
                device=usable_device(arguments.device),
                dtype=getattr(torch, arguments.dtype),
                settings=arguments.settings,
            )
        )
    print(f"wrote {out / 'report.md'}, report.json and sheets")
    return 0
