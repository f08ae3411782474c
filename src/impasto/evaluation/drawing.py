"""Pictures for prompts, drawn once: by a model, or by a command. A folder that was begun is gone on with;
what it is of stands beside it, in drawing.json."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import impasto
from impasto.config import ConfigError
from impasto.data.records import BadSampleError
from impasto.drawing import RECORD, Order, Progress, claim, draw_folder, file_name
from impasto.loading import identity
from impasto.metrics.picture_sources import PictureSet
from impasto.metrics.protocols import prompts_hash
from impasto.runtime.dist import Ranks
from impasto.runtime.files import atomic_write_text


def draw_with_model(
    name: str,
    prompts: tuple[str, ...],
    folder: Path,
    *,
    ranks: Ranks,
    seed: int = 0,
    batch: int = 32,
    dtype: Any = None,
    options: Mapping[str, Any] = MappingProxyType({}),
    progress: Progress = lambda name, done, total: None,
) -> dict[str, Any]:
    """Write 000000.png ... for the prompts, picture n with noise stream seed + n and `options` of the model's
    `generate`, and return what made them. Batches are the same however often the work was cut short, and on
    however many ranks. Raises ConfigError where the folder holds another drawing."""
    made: dict[str, Any] = {
        "model": identity(name),
        "seed": seed,
        "batch": batch,
        "dtype": str(dtype).removeprefix("torch."),
    }
    if options:
        made["options"] = dict(options)
    _claim(folder, prompts, made, ranks)
    draw_folder(
        lambda: impasto.load(name).to(ranks.device, dtype),
        [Order(prompt, seed + number, options) for number, prompt in enumerate(prompts)],
        folder,
        ranks=ranks,
        batch_size=batch,
        progress=progress,
    )
    return made


def draw_with_command(
    command: str, prompts: tuple[str, ...], folder: Path, *, ranks: Ranks, seed: int = 0
) -> dict[str, Any]:
    """Run a command that writes the missing pictures, each rank for its share. {prompts} in it becomes a file
    with a line of JSON for each picture, its `file`, `prompt` and `seed`; {out} the folder to write to.
    ConfigError where it fails or leaves pictures out; what it wrote stays."""
    words = shlex.split(command)
    for field in ("{prompts}", "{out}"):
        if not any(field in word for word in words):
            raise ConfigError(f"--command should say where {field} goes, as in: draw.py {{prompts}} {{out}}")
    made = {"command": command, "seed": seed}
    _claim(folder, prompts, made, ranks)
    mine = range(ranks.rank, len(prompts), ranks.world_size)
    missing = [number for number in mine if not (folder / file_name(number)).is_file()]
    if missing:
        lines = []
        for number in missing:
            told = {"file": file_name(number), "prompt": prompts[number], "seed": seed + number}
            lines.append(json.dumps(told, ensure_ascii=False))
            atomic_write_text((folder / file_name(number)).with_suffix(".txt"), prompts[number] + "\n")
        asked = folder.parent / f"prompts-{ranks.rank}.jsonl"
        atomic_write_text(asked, "\n".join(lines) + "\n")
        places = {"{prompts}": str(asked), "{out}": str(folder)}
        words = [_filled(word, places) for word in words]
        try:
            status = subprocess.run(words, check=False).returncode
        except OSError as error:
            raise ConfigError(f"--command: {words[0]} cannot be started: {error.strerror}") from None
        left = [number for number in missing if not (folder / file_name(number)).is_file()]
        if status or left:
            what = f"ended with status {status}" if status else "ended"
            raise ConfigError(
                f"--command {what}; {len(left):,} of {len(missing):,} pictures are missing"
                + (f", the first {file_name(left[0])}" if left else "")
                + "; the same line goes on"
            )
    ranks.barrier()
    return made


def check_prompts(pictures: PictureSet, prompts: Sequence[str]) -> None:
    """ConfigError unless the pictures are of these prompts, one each."""
    found: Counter[str] = Counter()
    for index in range(len(pictures)):
        try:
            found[" ".join((pictures.read(index).prompt or "").split())] += 1
        except BadSampleError:
            continue
    wanted = Counter(" ".join(prompt.split()) for prompt in prompts)
    lacking, spare = wanted - found, found - wanted
    if lacking or spare:
        one = next(iter(lacking or spare))
        raise ConfigError(
            f"{pictures.source}: {lacking.total():,} captions of the protocol have no picture, "
            f"{spare.total():,} pictures are of none (such as '{one}'); a picture says its prompt in its "
            f"metadata, or in a .txt of the same name"
        )


def _filled(word: str, places: dict[str, str]) -> str:
    for field, value in places.items():
        word = word.replace(field, value)
    return word


def _claim(folder: Path, prompts: tuple[str, ...], made: dict[str, Any], ranks: Ranks) -> None:
    """The folder, for this drawing alone."""
    document = {"count": len(prompts), "prompts_sha256": prompts_hash(prompts), **made}
    claim(folder, folder.parent / RECORD, document, ranks)
