"""What several verbs of the command share."""

import argparse
from typing import Any

from impasto.config import first_line

DTYPES = ("float32", "bfloat16")
DRAWING = ("truncation", "truncation_mode", "guidance", "temperature", "top_k", "top_p")


def usable_device(name: str) -> str:
    """The device, if this machine has it."""
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name} is not usable here: {first_line(error)}") from None
    return name


def add_drawing_options(verb: argparse.ArgumentParser) -> Any:
    """How a model of either family draws, by the names of `generate`; returns the group of Aurora."""
    aurora = verb.add_argument_group("Aurora")
    aurora.add_argument(
        "--truncation",
        type=float,
        metavar="PSI",
        help="pull w towards its mean: 1 not at all, 0 entirely (default: not at all)",
    )
    aurora.add_argument(
        "--truncation-mode",
        choices=("average", "prompt"),
        help="towards the mean w of training (default), or further towards the prompt's own mean (the "
        "released script)",
    )
    mars = verb.add_argument_group("MARS")
    mars.add_argument(
        "--guidance",
        type=float,
        metavar="G",
        help="how strongly the prompt is followed (default: the model's)",
    )
    mars.add_argument(
        "--temperature", type=float, metavar="T", help="of drawing codes; 0 takes the likeliest (default 1)"
    )
    mars.add_argument("--top-k", type=int, metavar="K", help="among the K likeliest codes (default 1000)")
    mars.add_argument("--top-p", type=float, metavar="P", help="among the likeliest of mass P (default 1)")
    return aurora


def drawing_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Those that were given."""
    found = {name: getattr(arguments, name) for name in DRAWING}
    return {name: value for name, value in found.items() if value is not None}
