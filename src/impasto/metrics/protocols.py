"""Protocols by name: which captions are drawn for, and which real pictures the result is measured against."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from impasto.config import ConfigError
from impasto.data.records import BadSampleError
from impasto.metrics.caption_lists import read_captions
from impasto.metrics.picture_sources import ChosenPictures, PictureFolder, PictureSet, open_pictures

DRAW_SEED = 0  # of which captions and pictures are taken: the same for everybody
COCO_NUMBER = re.compile(r"(\d+)\Z")  # COCO_val2014_000000391895 is picture 391895


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """`pictures`: how many are drawn, one a caption; None: one for each picture of the reference. `captions`:
    drawn from the reference, those of all its pictures, or of a file. `parts`: folders of the reference that
    are measured one by one. `reference`: how many real pictures there should be; None: any number. `side`:
    all pictures are cropped in the centre and resized to it by Lanczos."""

    pictures: int | None
    captions: Literal["drawn", "all", "file"]
    parts: tuple[str, ...] = ()
    reference: int | None = None
    side: int = 64  # Aurora, section 4.1: everything at 64x64


PROTOCOLS = {
    # Aurora's table 1 says "FID 10K on the training set", not of which pictures; ours: 10,000 captions drawn
    # from the set, against 10,000 other pictures of it.
    "train-10k": Protocol(pictures=10_000, captions="drawn", reference=10_000),
    # 40,504 pictures of 2014 validation (the scripts of GigaGAN, LlamaGen, Janus); a fixed list of captions.
    "coco-30k": Protocol(pictures=30_000, captions="file", reference=40_504),
    "openglyphs": Protocol(pictures=None, captions="all", parts=("heldout_concepts", "heldout_cells")),
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one report is made from: a prompt for each picture to draw, and the real pictures."""

    part: str  # "" where the protocol has but one
    prompts: tuple[str, ...]
    reference: PictureSet
    captions_sha256: str  # of the file of captions, or of the prompts


def make_plans(
    name: str,
    reference: str,
    *,
    captions: Path | None = None,
    own_references: bool = False,
    count: int | None = None,
    allow_small: bool = False,
) -> list[Plan]:
    """One for each part. `count`: fewer pictures than the protocol says, with `allow_small` only. Raises
    ConfigError or DataError, in one line, for what the protocol does not have."""
    protocol = PROTOCOLS[name]
    if (captions is not None) != (protocol.captions == "file"):
        needs = "needs --captions FILE" if captions is None else "takes its captions from the reference"
        raise ConfigError(f"--protocol {name} {needs}")
    if own_references and protocol.captions != "file":
        raise ConfigError("--own-references means something only with --protocol coco-30k")
    wanted = protocol.pictures if count is None else count
    if protocol.pictures is not None and wanted != protocol.pictures and not allow_small:
        raise ConfigError(
            f"--protocol {name} has {protocol.pictures:,} pictures; add --allow-small for {count}"
        )
    if captions is not None:
        assert wanted is not None
        plan = _from_file(name, reference, captions, own_references, wanted, allow_small)
        return [plan]
    if protocol.captions == "drawn":
        assert wanted is not None
        return [_drawn(name, reference, wanted, allow_small)]
    folders = {part: Path(reference) / part for part in protocol.parts}
    missing = next((folder for folder in folders.values() if not folder.is_dir()), None)
    if missing is not None:
        raise ConfigError(
            f"no folder {missing}: --reference should be what `impasto data build {name}` wrote"
        )
    return [_all_of(part, str(folder), wanted) for part, folder in folders.items()]


def _drawn(name: str, reference: str, wanted: int, allow_small: bool) -> Plan:
    pictures = open_pictures(reference)
    order = np.random.default_rng(DRAW_SEED).permutation(len(pictures)).tolist()
    half = min(wanted, len(order) // 2)
    if half < wanted and not allow_small:
        raise ConfigError(
            f"--protocol {name} takes {wanted:,} captions and as many other pictures, {reference} has "
            f"{len(order):,}; --allow-small takes half of them for each"
        )
    prompts, used = _prompts(pictures, order, half)
    told = f"{reference}, {half:,} drawn with seed {DRAW_SEED}, not those of the captions"
    rest = [index for index in order if index not in used][:half]
    return Plan(
        part="",
        prompts=prompts,
        reference=ChosenPictures(pictures, rest, told),
        captions_sha256=prompts_hash(prompts),
    )


def _all_of(part: str, source: str, wanted: int | None) -> Plan:
    pictures = open_pictures(source)
    order = list(range(len(pictures)))
    if wanted is not None:
        order = sorted(np.random.default_rng(DRAW_SEED).permutation(len(order)).tolist()[:wanted])
    prompts, _ = _prompts(pictures, order, len(order))
    return Plan(part=part, prompts=prompts, reference=pictures, captions_sha256=prompts_hash(prompts))


def _from_file(
    name: str, reference: str, file: Path, own_references: bool, wanted: int, allow_small: bool
) -> Plan:
    listed = read_captions(file)
    if len(listed.captions) < wanted and not allow_small:
        raise ConfigError(f"--captions {file} has {len(listed.captions):,} captions of {wanted:,}")
    pictures = open_pictures(reference)
    expected = PROTOCOLS[name].reference
    if expected is not None and len(pictures) != expected and not allow_small:
        raise ConfigError(
            f"--reference {reference} holds {len(pictures):,} pictures, the whole set of {name} has "
            f"{expected:,}; --allow-small takes what is there"
        )
    if own_references:
        if listed.pictures is None or not isinstance(pictures, PictureFolder):
            raise ConfigError(
                f"--own-references needs a column image_id or file_name in {file}, and a folder of pictures"
            )
        places = {_number(Path(path).stem): index for index, path in enumerate(pictures.names)}
        chosen = list(dict.fromkeys(map(_number, listed.pictures[:wanted])))
        missing = [one for one in chosen if one not in places]
        if missing:
            raise ConfigError(
                f"{len(missing):,} pictures of {file} are not in {reference}, such as {missing[0]}"
            )
        told = f"{reference}, the {len(chosen):,} of the captions"
        return Plan(
            part="",
            prompts=listed.captions[:wanted],
            reference=ChosenPictures(pictures, [places[one] for one in chosen], told),
            captions_sha256=listed.sha256,
        )
    return Plan(part="", prompts=listed.captions[:wanted], reference=pictures, captions_sha256=listed.sha256)


def prompts_hash(prompts: tuple[str, ...]) -> str:
    """64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(prompts).encode()).hexdigest()


def _prompts(pictures: PictureSet, order: list[int], count: int) -> tuple[tuple[str, ...], set[int]]:
    """The captions of the first `count` pictures that have one, and the numbers of those pictures."""
    prompts: list[str] = []
    used: set[int] = set()
    for index in order:
        if len(prompts) == count:
            break
        try:
            prompt = pictures.read(index).prompt
        except BadSampleError:
            continue
        if prompt is not None:
            prompts.append(prompt)
            used.add(index)
    if not prompts:
        raise ConfigError(f"{pictures.source} has no captions to draw for")
    return tuple(prompts), used


def _number(stem: str) -> str:
    found = COCO_NUMBER.search(stem)
    return str(int(found[1])) if found else stem
