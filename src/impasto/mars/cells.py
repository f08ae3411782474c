"""What MARS's ablation and its study of stage III share: runs of frozen parts, settings, codes."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from impasto.config import ConfigError, from_dict, to_dict
from impasto.mars.codes import CODES
from impasto.mars.launch import find_run, launch
from impasto.mars.run_folder import LaunchOptions
from impasto.mars.training_config import StageRun
from impasto.runtime.files import atomic_directory


def train_part(preset: str, settings: Sequence[str], folder: Path) -> str:
    """Train what cells have in common, or finish it; returns the folder's name. ConfigError where it
    stopped."""
    reason = launch(preset, find_run(preset, settings), LaunchOptions(out=folder))
    if reason != "finished":
        raise ConfigError(f"{folder} stopped: {reason}; repeat the command to go on")
    return str(folder)


def settings_of(run: StageRun) -> dict[str, Any]:
    """What decides a run, less the places of its parts."""
    return {name: value for name, value in to_dict(run).items() if name not in ("tokenizer", "language")}


def settings_read(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What `settings_of` gave, with the defaults of what has come since."""
    return settings_of(from_dict(StageRun, settings))


def share_codes(out: Path, folder: Path, seed: int) -> None:
    """Codes of a seed's pictures serve all its cells; a run checks that they are what it needs."""
    made = next((path for path in sorted(out.glob(f"*-seed{seed}/{CODES}")) if path.is_dir()), None)
    if made is not None and not (folder / CODES).is_dir():
        with atomic_directory(folder / CODES) as temporary:
            shutil.copytree(made, temporary, dirs_exist_ok=True)
