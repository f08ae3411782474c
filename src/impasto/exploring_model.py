"""The model of the verbs that take one of Aurora alone."""

import argparse
import sys
from typing import Any

from impasto.command_options import usable_device, usable_dtype
from impasto.config import ConfigError


def aurora_pipeline(arguments: argparse.Namespace) -> Any:
    """The model, which must be one of Aurora: ConfigError for another family's. Raises as `impasto.load` and
    `usable_device` too."""
    import warnings

    import impasto
    from impasto.loading import describe

    family = describe(arguments.model, arguments.settings).family
    if family.name != "aurora":
        raise ConfigError(
            f"'{arguments.model}' is a model of the family {family.name}; this verb takes aurora"
        )
    pipe = impasto.load(arguments.model, arguments.settings)
    device = usable_device(arguments.device)
    pipe.to(device, usable_dtype(arguments.dtype, device))
    if not pipe.trained:
        warnings.filterwarnings("ignore", message=".*is untrained")
        print(f"'{pipe.name}' is untrained: its pictures show no prompt.", file=sys.stderr)
    return pipe
