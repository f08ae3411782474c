"""What a run began from, so that the model that comes of it forgets neither the pictures that an earlier run
was shown nor the frozen networks that it learned from."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from impasto.runtime.files import atomic_write_text
from impasto.runtime.model_directory import is_model_directory, read_config

FILE = "began-from.json"  # in the run's folder


def provenance_of(place: Path) -> dict[str, Any]:
    """How the model at `place`, a directory or a run, came to be; a file's name where nothing is known."""
    for folder in (place, place / "model"):
        if is_model_directory(folder):
            return read_config(folder)[1].get("provenance", {})
    return {"file": place.name}


def remember(out: Path, place: str | None) -> None:
    """Note in a run's folder what it begins from; None: from nothing."""
    if place is None:
        (out / FILE).unlink(missing_ok=True)
    else:
        atomic_write_text(out / FILE, json.dumps(provenance_of(Path(place)), indent=2) + "\n")


def with_lineage(provenance: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """A run's provenance with what it began from; the networks of all earlier runs are among its own, as
    "earlier ROLE" where the role is taken."""
    if not (out / FILE).is_file():
        return dict(provenance)
    earlier = json.loads((out / FILE).read_text(encoding="utf-8"))
    networks = dict(provenance.get("training_networks", {}))
    for role, digest in earlier.get("training_networks", {}).items():
        if digest not in networks.values():
            while role in networks:
                role = f"earlier {role}"
            networks[role] = digest
    return {**provenance, "training_networks": networks, "began_from": earlier}


def lineage(provenance: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The provenances of a run and of those before it, newest first."""
    earlier = provenance.get("began_from")
    return [provenance, *(lineage(earlier) if earlier else [])]


def images_before(provenance: Mapping[str, Any]) -> int:
    """Pictures that the earlier runs saw, all together."""
    return sum(earlier.get("images_seen", 0) for earlier in lineage(provenance)[1:])
