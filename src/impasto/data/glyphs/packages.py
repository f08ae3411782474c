"""What Open Glyphs is made of: a package of a registry, and a set of pictures in one.

A package is what its registry's own client gives; the checksum is that of the published file, so that a build
starts from the same bytes everywhere. Licences are those that the sets state of themselves, kept per picture.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Package:
    """A file of the npm registry. `sha256` of the published tar file, empty: not compared."""

    name: str
    version: str
    sha256: str

    @property
    def requirement(self) -> str:
        """What npm is given."""
        return f"{self.name}@{self.version}"

    @property
    def file_name(self) -> str:
        """What `npm pack` calls the file."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"

    @property
    def client(self) -> tuple[str, ...]:
        """The command that fetches a requirement into the folder it runs in."""
        return ("npm", "pack")


@dataclass(frozen=True, kw_only=True)
class DebianPackage(Package):
    """A package of Debian that is the same on every machine ("all"). `release`: one that has this version."""

    release: str

    @property
    def requirement(self) -> str:
        """What apt-get is given."""
        return f"{self.name}={self.version}"

    @property
    def file_name(self) -> str:
        """What `apt-get download` calls the file."""
        return f"{self.name}_{self.version.replace(':', '%3a')}_all.deb"

    @property
    def client(self) -> tuple[str, ...]:
        return ("apt-get", "download")


@dataclass(frozen=True, kw_only=True)
class GlyphSet:
    """One style. `kind`: "iconify" has SVG in icons.json; "pictures" has webp files named by code points;
    "clip art" has SVG files that name themselves; "stamps" has pictures with a line of text in each language.
    `english`, `chinese`: the words for the style in captions, such as "flat style"; `called`: what a sentence
    calls its pictures."""

    style: str
    package: Package
    kind: Literal["iconify", "pictures", "clip art", "stamps"]
    group: str
    licence: str  # SPDX; of a picture that states none of its own
    author: str
    home: str
    english: str
    chinese: str
    called: Literal["emoji", "icon", "drawing", "photograph"] = "emoji"
    run_together: bool = False  # its names have nothing between their words
    tinted: bool = False  # drawn in one colour, which is chosen here
    skip: str = ""  # names that are left out: no things, or trade marks
    like: str = ""  # another style that draws nearly the same

    @property
    def family(self) -> str:
        """What is held out together."""
        return self.like or self.style

    @property
    def attribution(self) -> str:
        """One line, for every picture and for NOTICE."""
        return f"{self.author} ({self.home}), {self.licence}"


def iconify(name: str, version: str, sha256: str) -> Package:
    """A set of the Iconify project."""
    return Package(name=f"@iconify-json/{name}", version=version, sha256=sha256)
