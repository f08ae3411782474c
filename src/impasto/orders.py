"""What to draw, out of files: a prompt a line, JSONL with settings, or the settings inside a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from impasto.config import ConfigError, first_line, nearest
from impasto.drawing import Order
from impasto.pictures import read_settings

OPTION_TYPES: dict[str, tuple[type, ...]] = {
    "truncation": (float, int),
    "truncation_mode": (str,),
    "guidance": (float, int),
    "temperature": (float, int),
    "top_k": (int,),
    "top_p": (float, int),
    "size": (int,),
}
OWN_KEYS = ("prompt", "seed", "n")


def read_orders(path: Path, *, num_images: int, seed: int, options: Mapping[str, Any]) -> list[Order]:
    """The pictures that a file asks for, in its order.

    .jsonl: a line of JSON for each prompt, {"prompt": ..., "seed": 7, "n": 2, "truncation": 0.7, ...}, where
    all but the prompt may be left out; any other file: a prompt a line. Empty lines are passed over. Picture
    number N of all has noise stream seed + N, so that no two prompts share one; where a line says its seed,
    image k of that line has seed + k. Raises ConfigError, in one line that names the place.
    """
    lines = _lines(path)
    orders: list[Order] = []
    for number, line in lines:
        where = f"{path}:{number}"
        told: dict[str, Any] = _parse(line, where) if path.suffix == ".jsonl" else {"prompt": line}
        count = told.get("n", num_images)
        if count < 1:
            raise ConfigError(f"{where}: n={count} should be at least 1")
        first = told.get("seed", seed + len(orders))
        own = {name: told[name] for name in OPTION_TYPES if name in told}
        orders += [Order(told["prompt"], first + index, {**options, **own}) for index in range(count)]
    if not orders:
        raise ConfigError(f"{path}: no prompt in it")
    return orders


@dataclass(frozen=True)
class Settings:
    """What a picture says of how it was made: where it came from, and what the family's options were."""

    model: str
    prompt: str
    seed: int
    options: dict[str, Any]
    upscale: int | None
    upscaler: str | None


def settings_inside(path: Path) -> Settings:
    """Of a picture of Impasto. Raises ConfigError for what is none or carries no settings."""
    try:
        found = read_settings(path)
    except (OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else "not a picture of impasto"
        raise ConfigError(f"{path}: {reason}") from None
    if not isinstance(found, dict) or not {"prompt", "seed", "model"} <= found.keys():
        raise ConfigError(f"{path}: carries no settings of impasto generate")
    known = {name: found[name] for name in (*OPTION_TYPES, *OWN_KEYS[:2], "upscale") if name in found}
    for name, value in known.items():
        _check(name, value, str(path))
    return Settings(
        model=str(found["model"]),
        prompt=found["prompt"],
        seed=found["seed"],
        options={name: found[name] for name in OPTION_TYPES if name in found},
        upscale=found.get("upscale"),
        upscaler=None if found.get("upscaler") is None else str(found["upscaler"]),
    )


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text in UTF-8") from None
    # No splitlines(): a prompt may hold other separators of Unicode.
    numbered = enumerate(text.split("\n"), start=1)
    return [(number, line.strip("\r")) for number, line in numbered if line.strip()]


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        told = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not JSON ({first_line(error)})") from None
    if not isinstance(told, dict) or not isinstance(told.get("prompt"), str):
        raise ConfigError(f'{where}: should be an object with a "prompt"')
    known = (*OWN_KEYS, *OPTION_TYPES)
    for name, value in told.items():
        if name not in known:
            raise ConfigError(f"{where}: unknown key '{name}'; {nearest(name, known)}")
        _check(name, value, where)
    return told


def _check(name: str, value: Any, where: str) -> None:
    kinds = {"prompt": (str,), "seed": (int,), "n": (int,), "upscale": (int,), **OPTION_TYPES}[name]
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise ConfigError(f"{where}: {name}={value!r} should be a {kinds[0].__name__}")
