"""A model that is served, and the sizes it can be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from PIL import Image


class SafetyFilter(Protocol):
    """A hook for whoever runs the server. Both say why something is refused, or None for all right; they are
    called in several threads."""

    def check_prompt(self, prompt: str) -> str | None: ...

    def check_picture(self, picture: Image.Image, prompt: str) -> str | None: ...


@dataclass(frozen=True)
class Size:
    """How a picture comes to its side: drawn at `side` px by the model, None for its own, then made `scale`
    times as large."""

    side: int | None = None
    scale: int = 1


AS_DRAWN = Size()


@dataclass(eq=False)
class Served:
    """One model. `sides`: px that it draws itself, its own first; `pipe` is there once it is loaded;
    upscalers {scale: upscaler}."""

    name: str
    family: str
    options: tuple[str, ...]
    sides: tuple[int, ...]
    batch_size: int
    safety: SafetyFilter | None
    created: int
    upscalers: dict[int, Any]
    pipe: Any = None

    @property
    def sizes(self) -> dict[str, Size]:
        """{"32x32": Size(), "64x64": Size(64), "128x128": Size(64, 2), ...}: what a picture may measure, the
        smallest first. A side that the model draws comes from the model, any other from the largest side that
        gets there."""
        asked = {side: None if side == self.sides[0] else side for side in self.sides}
        found = {side: Size(asked[side]) for side in self.sides}
        for side in sorted(self.sides, reverse=True):
            for scale in self.upscalers:
                found.setdefault(side * scale, Size(asked[side], scale))
        return {f"{side}x{side}": found[side] for side in sorted(found)}
