"""Who is measured side by side: models, each in one way or several ways of drawing."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from impasto.config import ConfigError
from impasto.loading import describe
from impasto.runtime.model_directory import is_model_directory

WHOLE = ("top_k", "size")  # options whose values are whole numbers


@dataclass(frozen=True)
class Contender:
    """A model and how it draws: `label` in the table; `options` of its `generate`; `side` of its pictures,
    None for its own."""

    label: str
    model: str
    options: Mapping[str, Any]
    side: int | None = None

    def drawing(self, pipe: Any) -> dict[str, Any]:
        """What its `generate` is given. ConfigError for a side, where it draws at one alone."""
        if self.side is None or self.side == pipe.config.resolution:
            return dict(self.options)
        if "size" not in inspect.signature(pipe.generate).parameters:
            own = pipe.config.resolution
            raise ConfigError(f"{self.label}: '{pipe.name}' draws at {own} px alone; leave @{self.side} out")
        return {**self.options, "size": self.side}


@dataclass(frozen=True)
class Sweep:
    """One option of drawing and the values that it is to take."""

    option: str
    values: tuple[Any, ...]

    @classmethod
    def parsed(cls, text: str) -> Sweep:
        """From 'guidance=1,3,5'. ConfigError for anything else."""
        name, _, values = text.partition("=")
        try:
            numbers = [float(value) for value in values.split(",")]
        except ValueError:
            raise ConfigError(f"--sweep {text}: write NAME=NUMBER,NUMBER,..., as in guidance=1,3,5") from None
        option = name.strip().replace("-", "_")
        return cls(option, tuple(int(value) for value in numbers) if option in WHOLE else tuple(numbers))


def contenders(models: Sequence[str], drawing: Mapping[str, Any], sweep: Sweep | None) -> list[Contender]:
    """Each model, in each way of the sweep. A model is named as everywhere, or by its run's folder, and may
    be followed by @SIDE. Options go to the families that know them. ConfigError where one is for none, or
    two contenders are the same."""
    found: list[Contender] = []
    used: set[str] = set()
    for name in models:
        place, side = _with_side(name)
        model = model_of(place)
        known = describe(model, []).family.options
        ways = [{sweep.option: value} for value in sweep.values] if sweep and sweep.option in known else [{}]
        options = {option: value for option, value in drawing.items() if option in known}
        for way in ways:
            told = "".join(f", {option} {value:g}" for option, value in way.items())
            found.append(Contender(name + told, model, {**options, **way}, side))
            used |= {*options, *way}
    asked = [*drawing, *([sweep.option] if sweep else [])]
    idle = next((option for option in asked if option not in used), None)
    if idle is not None:
        raise ConfigError(f"none of {', '.join(models)} knows {idle.replace('_', '-')}")
    if len({one.label for one in found}) < len(found):
        raise ConfigError("a model was named twice")
    return found


def model_of(place: str) -> str:
    """A model's name or directory, also of a run's folder."""
    inside = Path(place) / "model"
    return str(inside) if is_model_directory(inside) and not is_model_directory(Path(place)) else place


def _with_side(name: str) -> tuple[str, int | None]:
    place, _, side = name.rpartition("@")
    if not place or Path(name).exists():
        return name, None
    if not side.isdecimal():
        raise ConfigError(f"{name}: what follows @ should be a side in pixels")
    return place, int(side)
