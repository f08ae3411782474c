"""What can be asked of `impasto data build openglyphs`."""

from dataclasses import dataclass
from pathlib import Path

from impasto.config import ConfigError
from impasto.data.glyphs import sources
from impasto.data.glyphs.render import BACKGROUNDS, SIZES


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What is asked for. `size`: pixels a side. `limit`: at most so many drawings, of whole concepts; 0: all.
    ConfigError for a value out of range."""

    size: int = 64
    groups: tuple[str, ...] = ("core",)
    backgrounds: tuple[str, ...] = ("white",)
    limit: int = 0
    packages: Path | None = None
    workers: int = 2

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise ConfigError(f"--size {self.size} should be one of {', '.join(map(str, SIZES))}")
        unknown = [name for name in self.groups if name not in sources.groups()]
        if unknown or not self.groups:
            raise ConfigError(f"--groups {','.join(unknown)}: there are {', '.join(sources.groups())}")
        unknown = [name for name in self.backgrounds if name not in BACKGROUNDS]
        if unknown or not self.backgrounds:
            raise ConfigError(f"--background {','.join(unknown)}: there are {', '.join(BACKGROUNDS)}")
        if self.workers < 1 or self.limit < 0:
            raise ConfigError("--workers should be at least 1, --limit at least 0")
