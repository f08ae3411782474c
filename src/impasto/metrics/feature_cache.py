"""Features on disk, so that a reference is computed once. A file is used only for the very set and settings
it was made from; anything else is computed anew."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import PIL
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from impasto.metrics.extractors import Extractor
from impasto.metrics.picture_sets import ALONE, Progress, SetFeatures, measure_features, preparation
from impasto.metrics.picture_sources import PictureSet
from impasto.runtime.dist import Ranks
from impasto.runtime.files import atomic_path

FORMAT = 1


def default_cache() -> Path:
    """In the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "impasto" / "features"


def cache_key(pictures: PictureSet, extractor: Extractor, side: int | None) -> dict[str, Any]:
    """Everything the features depend on. The pictures are known by names, sizes and times of modification."""
    return {
        "format": FORMAT,
        "pictures": pictures.fingerprint,
        "extractor": extractor.fingerprint,
        "extractor_settings": {"name": extractor.name, **extractor.settings},
        "preparation": preparation(side),
        "pillow": PIL.__version__,
        "torch": torch.__version__,
    }


def cached_features(
    pictures: PictureSet,
    extractor: Extractor,
    side: int | None,
    folder: Path | None,
    progress: Progress = lambda done, total: None,
    ranks: Ranks = ALONE,
) -> tuple[SetFeatures, bool]:
    """Features, and whether they were read from `folder`; None for no cache. The main rank writes it."""
    if folder is None:
        return measure_features(pictures, extractor, side, progress=progress, ranks=ranks), False
    key = cache_key(pictures, extractor, side)
    path = folder / f"{_digest(key)[:32]}.safetensors"
    found = read_cache(path, key)
    missing = ranks.any(found is None)
    if found is not None and not missing:
        return found, True
    measured = measure_features(pictures, extractor, side, progress=progress, ranks=ranks)
    if ranks.is_main:
        write_cache(path, key, measured)
    return measured, False


def write_cache(path: Path, key: dict[str, Any], measured: SetFeatures) -> None:
    """What was measured of a set, as one safetensors file; `key` says of what."""
    told = {
        "indices": measured.indices,
        "names": measured.names,
        "prompts": measured.prompts,
        "size": measured.size,
        "enlarged": measured.enlarged,
        "content": measured.content,
        "skipped": measured.skipped,
    }
    with atomic_path(path) as temporary:
        save_file(
            {"features": measured.features.contiguous()},
            temporary,
            {"key": json.dumps(key), "pictures": json.dumps(told)},
        )


def read_cache(path: Path, key: dict[str, Any]) -> SetFeatures | None:
    """What a file holds; None if there is none, it is damaged, or it was made with another key."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if json.loads(metadata.get("key", "null")) != json.loads(json.dumps(key)):
                return None
            told, features = json.loads(metadata["pictures"]), file.get_tensor("features")
    except (SafetensorError, KeyError, ValueError, OSError):
        return None
    if len(features) != len(told["names"]):
        return None
    return SetFeatures(
        features=features,
        indices=tuple(told["indices"]),
        names=tuple(told["names"]),
        prompts=tuple(told["prompts"]),
        size=tuple(told["size"]) if told["size"] else None,
        enlarged=told["enlarged"],
        content=told["content"],
        skipped=told["skipped"],
    )


def _digest(key: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
