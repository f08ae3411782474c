"""What the peers are trained on and read: a pool of scenes, and captions that were encoded once."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from impasto.data.scene_source import SceneOptions, SceneSource
from impasto.runtime.files import atomic_path
from impasto.text import TextFeatures, load_encoder

SIDE = 16
ENCODER = "sentence:standardized"
# One object in the middle of a plain ground, two pictures of a caption in a row, as in `aurora-scenes-32`.
OPTIONS = SceneOptions(max_objects=1, textures=False, pictures_per_caption=2, lone_spread=0.0)
_AT_ONCE = 64


class Reader:
    """Features of captions, from a file that is made where there is none. Texts that were not given then are
    a KeyError."""

    def __init__(self, file: Path, captions: Sequence[str]):
        self.rows = {text: row for row, text in enumerate(dict.fromkeys(captions))}
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(file) as temporary:
                save_file(_encode(list(self.rows)), temporary)
        stored = load_file(file)
        self.features = TextFeatures(stored["tokens"], stored["mask"], stored["eot_index"], stored["pooled"])
        if len(self.features) != len(self.rows):
            raise ValueError(f"{file} is of other captions; delete it, or choose another --out")

    @property
    def width(self) -> int:
        return self.features.width

    def encode(self, texts: Sequence[str]) -> TextFeatures:
        """Features as the encoder gives them for these texts, [B, T, C] as long as the longest."""
        chosen = self.features[torch.tensor([self.rows[text] for text in texts])]
        longest = int(chosen.mask.sum(1).max())
        return TextFeatures(
            chosen.tokens[:, :longest], chosen.mask[:, :longest], chosen.eot_index, chosen.pooled
        )


class Pool:
    """`count` pictures with captions, in memory; position n of a run is place n modulo `count`."""

    def __init__(self, count: int, seed: int = 0):
        self.images, self.captions = SceneSource(SIDE, OPTIONS, seed=seed).batch(range(count))

    def batch(self, positions: Sequence[int]) -> tuple[Tensor, list[str]]:
        """Pictures [B, 3, SIDE, SIDE] in [-1, 1] and one caption each."""
        places = [position % len(self.captions) for position in positions]
        return self.images[places], [self.captions[place] for place in places]

    def near_misses(self, positions: Sequence[int]) -> list[str | None]:
        return [None] * len(positions)


def _encode(texts: list[str]) -> dict[str, Tensor]:
    encoder = load_encoder(ENCODER)
    starts = range(0, len(texts), _AT_ONCE)
    found = TextFeatures.concatenate([encoder.encode(texts[at : at + _AT_ONCE]) for at in starts])
    parts = {"tokens": found.tokens, "mask": found.mask, "eot_index": found.eot_index, "pooled": found.pooled}
    return {name: part.contiguous() for name, part in parts.items()}
