"""Which family trains a preset: the one place that the command line asks."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from impasto.config import ConfigError, nearest
from impasto.runtime.estimate import Machine


def launcher_of(preset: str) -> ModuleType:
    """The module with find_run, LaunchOptions and launch for a training preset or a run's config.json.

    Raises ConfigError, in one line with the nearest choice, for what is neither.
    """
    from impasto.aurora import launch as aurora
    from impasto.aurora.runs import RUNS as AURORA_RUNS
    from impasto.mars import launch as mars
    from impasto.mars.runs import RUNS as MARS_RUNS
    from impasto.vision import two_tower_launch as two_tower
    from impasto.vision.two_tower_config import RUNS as TWO_TOWER_RUNS

    if preset in TWO_TOWER_RUNS or _saved_preset(preset) in TWO_TOWER_RUNS:
        return two_tower
    if preset in MARS_RUNS or _saved_preset(preset) in MARS_RUNS:
        return mars
    if preset in AURORA_RUNS or Path(preset).is_file():
        return aurora
    known = [*AURORA_RUNS, *MARS_RUNS, *TWO_TOWER_RUNS]
    raise ConfigError(f"no training preset or config.json '{preset}'; {nearest(preset, known)}")


def estimate(preset: str, settings: Sequence[str], given: Mapping[str, Any]) -> list[str]:
    """What a run would take on a machine that is given by the names of `Machine`'s fields, in lines.

    Raises ConfigError, in one line, for what cannot be: Aurora's runs and MARS's stages are known.
    """
    from impasto.aurora import training_cost as aurora
    from impasto.aurora.training_config import AuroraRun
    from impasto.mars import training_cost as mars
    from impasto.mars.training_config import StageRun

    run = launcher_of(preset).find_run(preset, settings)
    if isinstance(run, AuroraRun):
        return aurora.project(aurora.training_cost(run), Machine(**given)).lines()
    if isinstance(run, StageRun):
        peak = {"teraflops": 312.0} if run.training.bfloat16 else {}
        machine = Machine(**{**peak, **given})
        return mars.project(mars.stage_cost(run, machine.ranks), machine).lines()
    raise ConfigError(f"'{preset}' is not estimated: Aurora's presets are, and the stages of MARS")


def _saved_preset(path: str) -> str | None:
    """The preset that a config.json names; None for anything else, which its family complains about."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    preset = document.get("preset") if isinstance(document, dict) else None
    return preset if isinstance(preset, str) else None
