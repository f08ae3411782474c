"""The finite world that scenes are drawn from, and the split of it into seen and held-out combinations.

Everything a scene can contain is listed here. Lengths are fractions of the picture's side; x grows to the
right and y downwards, both from 0 to 1. Colours are sRGB in 0..255.
"""

from __future__ import annotations

from dataclasses import dataclass

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 30, 35),
    "orange": (250, 135, 20),
    "yellow": (250, 220, 40),
    "green": (40, 165, 70),
    "cyan": (40, 200, 215),
    "blue": (40, 75, 215),
    "purple": (130, 50, 175),
    "pink": (250, 115, 185),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (248, 248, 248),
    "gray": (128, 128, 128),
    "black": (12, 12, 14),
    "beige": (224, 205, 170),
}
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "star", "heart", "ring")
TEXTURES = ("solid", "striped", "dotted", "checkered")
SIZES: dict[str, float] = {"small": 0.28, "medium": 0.40, "large": 0.53}  # nominal width of an object
RELATIONS = ("left of", "right of", "above", "below", "touching", "inside")
CATEGORIES = ("color", "shape", "texture", "spatial", "non-spatial", "complex")
LANGUAGES = ("en", "zh")
SPLITS = ("train", "heldout", "any")
MAX_OBJECTS = 4

CONTAINERS = ("circle", "square", "diamond")  # shapes with room for a small object inside a large one
TEXTURED_SIZES = ("medium", "large")  # a small object is always solid: a pattern on it could not be seen
SHADE = 0.48  # a pattern is drawn in the object's colour times this
SIZE_JITTER = 0.03  # an object's width varies by up to this fraction around its nominal size
COLOUR_JITTER = 8  # each channel of an object's colour varies by up to this many levels
BACKGROUND_JITTER = 4  # and each channel of a background's by so many
GAP = 0.085  # objects that do not touch are at least this far apart
MARGIN = 0.015  # and at least this far from the edge of the picture
CLEAR_RATIO = 1.5  # a stated direction has |dx| at least this many times |dy|, or the reverse
CLEAR_OFFSET = 0.15  # and is at least this long

HELD_OUT_PAIRS: frozenset[tuple[str, str]] = frozenset(
    (colour, SHAPES[(3 * index + 2) % len(SHAPES)]) for index, colour in enumerate(COLOURS)
)
"""(colour, shape) pairs that no training scene contains: one for each colour, and one for each shape."""

TRAIN_PAIRS: tuple[tuple[str, str], ...] = tuple(
    (colour, shape) for colour in COLOURS for shape in SHAPES if (colour, shape) not in HELD_OUT_PAIRS
)

RGB = tuple[int, int, int]


@dataclass(frozen=True)
class SceneObject:
    """One object: what it is, and where. ``width`` is its nominal width; ``rgb`` its jittered colour."""

    colour: str
    shape: str
    texture: str
    size: str
    x: float
    y: float
    width: float
    rgb: RGB

    @property
    def kind(self) -> tuple[str, str, str, str]:
        """Colour, shape, texture and size: objects of the same kind are counted together."""
        return self.colour, self.shape, self.texture, self.size


@dataclass(frozen=True)
class Scene:
    """One to four objects on a background; later objects are painted over earlier ones.

    ``inside`` and ``touching`` hold pairs of object indices (the content before its container). Every other
    pair of objects is at least ``GAP`` apart.
    """

    objects: tuple[SceneObject, ...]
    background: str
    background_rgb: RGB
    category: str
    inside: tuple[tuple[int, int], ...] = ()
    touching: tuple[tuple[int, int], ...] = ()

    @property
    def pairs(self) -> frozenset[tuple[str, str]]:
        """The (colour, shape) pairs that occur in the scene."""
        return frozenset((item.colour, item.shape) for item in self.objects)

    @property
    def is_held_out(self) -> bool:
        """Whether the scene contains a combination that training never shows."""
        return bool(self.pairs & HELD_OUT_PAIRS)


def clear_direction(dx: float, dy: float) -> str | None:
    """The direction word for an object displaced by (dx, dy) from another, or None if it is not clear.

    >>> clear_direction(-0.4, 0.1)
    'left of'
    """
    if max(abs(dx), abs(dy)) < CLEAR_OFFSET:
        return None
    if abs(dx) >= CLEAR_RATIO * abs(dy):
        return "left of" if dx < 0 else "right of"
    if abs(dy) >= CLEAR_RATIO * abs(dx):
        return "above" if dy < 0 else "below"
    return None
