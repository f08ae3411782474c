"""Image codes of a run's pictures: extracted once into files of 16-bit numbers, then read from there.

`RUN/codes/` holds codes-00000.safetensors ... (in stage III of both resolutions), captions-00000.json ... and
index.json with the size and SHA-256 of each file and what they were made of. It is written under another name
and renamed, so that it is whole or absent.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from impasto.config import to_dict
from impasto.data.scene_source import SceneSource
from impasto.data.source import DataSource
from impasto.data.stories import StorySource
from impasto.data.training_set import made_of
from impasto.mars.directories import TokenizerPart
from impasto.mars.extraction import Source, extract_codes
from impasto.mars.training_config import StageRun
from impasto.runtime.files import atomic_directory

CODES, INDEX, FORMAT = "codes", "index.json", 1
_logger = logging.getLogger(__name__)


class CodesError(ValueError):
    """Extracted codes that are damaged or of something else; the message is one line with the way out."""


class Pictures(NamedTuple):
    """Codes [n, N] int64 of n pictures and a caption of each."""

    codes: Tensor
    captions: list[str]


class CodeStore:
    """All pictures of a run, in the endless order in which they are seen: a new order every epoch. `chances`
    of each picture's captions; None: all alike. `low` [n, N']: codes of the pictures in low resolution, for
    stage III."""

    def __init__(
        self,
        codes: Tensor,
        captions: list[list[str]],
        seed: int,
        chances: list[list[float]] | None = None,
        low: Tensor | None = None,
    ):
        self.codes, self.captions, self.seed, self.chances = codes, captions, seed, chances
        self.low = low
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.codes)

    def batch(self, positions: range | list[int]) -> Pictures:
        """The pictures at places of the order, each with one of its captions drawn by (seed, place)."""
        rows = [self._row(position) for position in positions]
        captions = [self._caption(row, position) for row, position in zip(rows, positions, strict=True)]
        return Pictures(self.codes[torch.tensor(rows)].long(), captions)

    def story(self, position: int, count: int) -> Pictures:
        """The story at a place of their own order: `count` pictures that were extracted one after another."""
        epoch, place = divmod(position, len(self) // count)
        first = count * int(self._permutation(epoch, len(self) // count)[place])
        rows = range(first, first + count)
        captions = [self._caption(row, position * count + number) for number, row in enumerate(rows)]
        return Pictures(self.codes[first : first + count].long(), captions)

    def low_codes(self, positions: range | list[int]) -> Tensor:
        """[n, N'] int64 of the pictures at places of the order."""
        assert self.low is not None
        return self.low[torch.tensor([self._row(position) for position in positions])].long()

    def _caption(self, row: int, position: int) -> str:
        rng, texts = np.random.default_rng((self.seed, 1, position)), self.captions[row]
        if self.chances is None:
            return texts[int(rng.integers(len(texts)))]
        shares = np.array(self.chances[row])
        return texts[int(rng.choice(len(texts), p=shares / shares.sum()))]

    def _row(self, position: int) -> int:
        epoch, place = divmod(position, len(self))
        return int(self._permutation(epoch, len(self))[place])

    def _permutation(self, epoch: int, count: int) -> np.ndarray:
        """The order of one epoch, kept until another is asked for."""
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng((self.seed, 0, epoch)).permutation(count))
        return self._order[1]


def prepare_codes(
    out: Path,
    run: StageRun,
    part: TokenizerPart,
    report: Callable[[str], None] = _logger.info,
    pictures: DataSource | None = None,
) -> None:
    """Extract the codes of a run's pictures, of scenes if no others are given, unless they are there.
    CodesError, in one line, if those that are there are of another tokenizer or of other pictures."""
    folder, expected = out / CODES, _made_of(run, part)
    if folder.is_dir():
        _check_made_of(folder, expected)
        return
    training = run.training
    source = pictures or source_of(run, part)
    count = training.pictures if pictures is None else min(training.pictures, len(pictures))
    of = "" if pictures is None or count == len(pictures) else f"of {len(pictures):,} (training.pictures) "
    report(f"extracting the codes of {count:,} pictures {of}once, into {folder}")
    files: dict[str, dict[str, Any]] = {}
    with atomic_directory(folder) as temporary:
        for number, start in enumerate(range(0, count, training.shard_pictures)):
            positions = range(start, min(start + training.shard_pictures, count))
            shard = f"codes-{number:05d}.safetensors"
            found = extract(run, part, source, positions)
            low = {} if found.low is None else {"low": found.low}
            save_file({"codes": found.codes, **low}, temporary / shard)
            names = [shard]
            for kind, values in _captions_of(source, positions, run).items():
                names.append(f"{kind}-{number:05d}.json")
                text = json.dumps(values, ensure_ascii=False)
                (temporary / names[-1]).write_text(text, encoding="utf-8")
            files |= {name: _fingerprint(temporary / name) for name in names}
        document = {"format": FORMAT, "made_of": expected, "files": files}
        (temporary / INDEX).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def read_codes(out: Path, run: StageRun, part: TokenizerPart) -> CodeStore:
    """The pictures that `prepare_codes` has written, every file checked. Raises CodesError for a file that is
    gone or not what was written."""
    folder = out / CODES
    files = _check_made_of(folder, _made_of(run, part))["files"]
    tensors: list[dict[str, Tensor]] = []
    texts: dict[str, list] = {"captions": [], "chances": []}
    for name, expected in sorted(files.items()):
        if not (folder / name).is_file() or _fingerprint(folder / name) != expected:
            raise CodesError(f"{folder / name} is not what was written; delete {folder} to extract anew")
        if name.endswith(".safetensors"):
            tensors.append({kind: codes.to(torch.int32) for kind, codes in load_file(folder / name).items()})
        else:
            texts[name.partition("-")[0]] += json.loads((folder / name).read_text(encoding="utf-8"))
    codes = {kind: torch.cat([one[kind] for one in tensors]) for kind in tensors[0]}
    seed, chances = run.training.seed, texts["chances"] or None
    return CodeStore(codes["codes"], texts["captions"], seed, chances, codes.get("low"))


def extract(run: StageRun, part: TokenizerPart, source: Source, positions: Sequence[int]) -> "Extracted":
    """Codes of the source's pictures at `positions`, and in stage III those of the same pictures in low
    resolution through the same tokenizer."""
    found = extract_codes(part.tokenizer, source, positions, low_ratio=low_ratio_of(run))
    codes, low = (
        None if grid is None else torch.from_numpy(grid).flatten(1) for grid in (found.codes, found.low)
    )
    assert codes is not None
    return Extracted(codes, found.captions, low)


class Extracted(NamedTuple):
    """codes [n, N] and low [n, N'] uint16, n captions."""

    codes: Tensor
    captions: list[str]
    low: Tensor | None


def low_ratio_of(run: StageRun) -> int | None:
    """By how much the side of stage III's low pictures is smaller; None for another stage."""
    if run.model.super_resolution is None:
        return None
    return run.model.grid(run.level) // run.model.grid(run.level - 1)


def source_of(run: StageRun, part: TokenizerPart, *, shift: int = 0, split: str = "train") -> SceneSource:
    """The scenes of a run, or those of its stories; `shift` is added to its seed."""
    side, seed, count = resolution_of(run, part), run.training.seed + shift, run.training.pictures_per_story
    if count:
        return StorySource(side, run.data, seed=seed, split=split, pictures=count)
    return SceneSource(side, run.data, seed=seed, split=split)


def resolution_of(run: StageRun, part: TokenizerPart) -> int:
    """Side of the pictures in pixels."""
    return run.model.grid(run.level) * part.tokenizer.config.factor


def _captions_of(
    source: SceneSource | DataSource, positions: Sequence[int], run: StageRun
) -> dict[str, list[list[Any]]]:
    """Captions of each picture: so many phrasings of a scene, all that another picture has, these with their
    chances where languages are weighted."""
    if isinstance(source, SceneSource):
        return {"captions": [source.phrasings(p, run.training.captions_per_picture) for p in positions]}
    found = [source.weighted_captions(position) for position in positions]
    texts = {"captions": [[text for _, text in one] for one in found]}
    if not run.dataset.languages:
        return texts
    return {**texts, "chances": [[chance for chance, _ in one] for one in found]}


def _made_of(run: StageRun, part: TokenizerPart) -> dict[str, Any]:
    training = run.training
    ratio = low_ratio_of(run)
    return {
        "tokenizer": part.fingerprint,
        **({} if ratio is None else {"low_ratio": ratio}),
        "resolution": resolution_of(run, part),
        **({"dataset": made_of(run.dataset)} if run.dataset.source else {"scenes": to_dict(run.data)}),
        "seed": training.seed,
        "pictures": training.pictures,
        "captions_per_picture": training.captions_per_picture,
        "shard_pictures": training.shard_pictures,
        **({"pictures_per_story": training.pictures_per_story} if training.pictures_per_story else {}),
    }


def _check_made_of(folder: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """The index of a folder of codes that were made of `expected`."""
    try:
        document = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        found = document["made_of"]
    except (OSError, ValueError, KeyError, TypeError):
        raise CodesError(f"{folder} has no {INDEX} that can be read; delete it to extract anew") from None
    changed = [name for name, value in expected.items() if found.get(name) != value]
    if changed:
        raise CodesError(
            f"{folder} was extracted with another {changed[0]}; choose another --out, or delete it"
        )
    return document


def _fingerprint(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
