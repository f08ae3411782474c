"""A small image-text scorer: learned heads on a frozen EfficientNet and a frozen sentence encoder.

A pooled vector of a picture hardly says which object has which colour, or where it is, and neither does the
mean of a sentence. So the image head also sees the places of maps of the middle layers, and the text head the
word pieces. Both work alike: a small network at each place first, then learned queries that pool.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from impasto.config import ConfigError, from_dict, to_dict
from impasto.data.scenes import COLOURS, SHAPES
from impasto.nn.modules import module_list
from impasto.nn.precision import autocast_dtype
from impasto.runtime.model_directory import (
    CONFIG,
    ModelDirectoryError,
    halved,
    load_weights,
    read_config,
    save_model,
)
from impasto.text import TextEncoder, TextFeatures, load_encoder
from impasto.text.loading import exact_inference, fingerprint, weights_hash
from impasto.vision.efficientnet import MAP_STRIDES, ImageFeatures

FAMILY = "two-tower"
TEXT_ENCODER = "sentence"
MAX_SCALE = 100.0  # CLIP (arXiv 2103.00020, section 2.5)
FIRST_SCALE = 1 / 0.07  # CLIP, likewise
FIRST_CHANCE = 2 / 64  # of a (colour, shape) pair: about two of them a scene


@dataclass(frozen=True, kw_only=True)
class TwoTowerConfig:
    """The networks. Sizes are ours, chosen for scenes of 32 px on a CPU. ConfigError for those that do not go
    together."""

    backbone: Literal["efficientnet-lite0", "efficientnet-lite2"] = "efficientnet-lite2"
    side: int = 64  # px that pictures are resized to
    strides: tuple[int, ...] = (8, 16)  # of the maps that the image head sees, the finest first
    token_width: int = 256  # of each place of a picture and each piece of a sentence
    neighbours: int = 5  # pieces in a row that are looked at together, an odd number
    queries: int = 8  # that take a mean over the places, or pieces, each with every head
    attention_heads: int = 4
    grid: int = 4  # side of the grid that places are also pooled to
    grid_width: int = 16  # and channels of its cells
    hidden: int = 512  # of both heads' last layers
    width: int = 256  # of the common space

    def __post_init__(self) -> None:
        unknown = [stride for stride in self.strides if stride not in MAP_STRIDES]
        if unknown or not self.strides or list(self.strides) != sorted(set(self.strides)):
            raise ConfigError(f"strides={self.strides} should be some of {MAP_STRIDES}, in their order")
        if self.token_width % self.attention_heads:
            raise ConfigError(f"token_width={self.token_width} should be a multiple of attention_heads")
        if self.neighbours % 2 == 0:
            raise ConfigError(f"neighbours={self.neighbours} should be odd")
        for name in ("grid_width", "grid", "neighbours", "queries", "hidden", "width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} should be at least 1")
        if self.side < 32:
            raise ConfigError(f"side={self.side} should be at least 32, the stride of the last map")


class TwoTowerHeads(nn.Module):
    """All that is learned. map_channels: of the chosen strides; pooled, text: widths of the frozen parts."""

    def __init__(self, config: TwoTowerConfig, map_channels: Sequence[int], pooled: int, text: int) -> None:
        super().__init__()
        self.image = _ImageHead(config, map_channels, pooled)
        self.text = _TextHead(config, text)
        self.log_scale = nn.Parameter(torch.tensor(math.log(FIRST_SCALE)))
        self.pairs = nn.Linear(config.width, len(COLOURS) * len(SHAPES))
        nn.init.constant_(self.pairs.bias, math.log(FIRST_CHANCE))

    def name_pairs(self, embedded: Tensor) -> Tensor:
        """Embeddings of pictures or texts [N,D] -> logits [N,64]: which (colour, shape) pairs of scenes they
        show or name, the shapes of the first colour first. Learned beside the contrastive loss, which alone
        is slow to find out what belongs together."""
        return self.pairs(F.normalize(embedded, dim=-1) * embedded.shape[1] ** 0.5)

    @torch.no_grad()
    def cap_scale(self) -> None:
        """To be called after each update: the scale never exceeds 100."""
        self.log_scale.clamp_(max=math.log(MAX_SCALE))


class _AttentionPool(nn.Module):
    """Places of a picture or pieces of a sentence -> one vector. Two layers at each place find what is
    together there (a colour and a shape); each of `queries` learned queries then takes a weighted mean, its
    own with every head. (A learned query times a key is one linear layer, so there are no keys.)"""

    def __init__(self, config: TwoTowerConfig, inputs: int, kernel: int = 1) -> None:
        """kernel: how many neighbours in a row, itself included, the second layer sees."""
        super().__init__()
        width, self.heads = config.token_width, config.attention_heads
        self.norm = nn.LayerNorm(inputs)
        self.first = nn.Linear(inputs, width)
        self.second = nn.Conv1d(width, width, kernel, padding=kernel // 2)
        self.scores = nn.Linear(width, config.queries * self.heads)
        self.outputs = config.queries * width

    def forward(
        self, tokens: Tensor, mask: Tensor | None = None, places: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """tokens [N,T,C], mask [N,T] (True = valid), places [T,width] added to the first layer -> the vector
        [N,outputs], and what was found at each place [N,T,width]."""
        x = self.first(self.norm(tokens))
        x = F.gelu(x if places is None else x + places)
        if mask is not None:
            x = x * mask[:, :, None]
        x = F.gelu(self.second(x.transpose(1, 2)).transpose(1, 2))
        scores = self.scores(x).float()
        if mask is not None:
            scores = scores.masked_fill(~mask[:, :, None], float("-inf"))
        weights = scores.softmax(dim=1).unflatten(2, (self.heads, -1))  # [N,T,heads,queries]
        values = x.unflatten(2, (self.heads, -1)).transpose(1, 2)  # [N,heads,T,width / heads]
        return (weights.permute(0, 2, 3, 1).to(values.dtype) @ values).flatten(1), x


class _ImageHead(nn.Module):
    def __init__(self, config: TwoTowerConfig, map_channels: Sequence[int], pooled: int) -> None:
        super().__init__()
        self.grid, side = config.grid, -(-config.side // config.strides[0])
        self.norms = module_list(nn.LayerNorm(count) for count in map_channels)
        self.places = nn.Parameter(0.1 * torch.randn(side**2, config.token_width))
        self.pool = _AttentionPool(config, sum(map_channels))
        self.cells = nn.Linear(config.token_width, config.grid_width)
        self.pooled_norm = nn.LayerNorm(pooled)
        inputs = pooled + self.pool.outputs + config.grid_width * config.grid**2
        self.layers = _perceptron(inputs, config.hidden, config.width)

    def forward(self, maps: Sequence[Tensor], pooled: Tensor) -> Tensor:
        """maps [B,C_n,h_n,w_n], the finest first, pooled [B,C'] -> [B,D]."""
        side = maps[0].shape[2:]
        parts = []
        for x, norm in zip(maps, self.norms, strict=True):
            x = norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            parts.append(F.interpolate(x, side, mode="nearest"))
        tokens = torch.cat(parts, dim=1).flatten(2).transpose(1, 2)
        found, at_places = self.pool(tokens, places=self.places)
        cells = self.cells(at_places).transpose(1, 2).unflatten(2, side)
        cells = F.adaptive_avg_pool2d(cells, self.grid).flatten(1)
        return self.layers(torch.cat([self.pooled_norm(pooled), found, cells], dim=1))


class _TextHead(nn.Module):
    def __init__(self, config: TwoTowerConfig, text: int) -> None:
        super().__init__()
        self.pool = _AttentionPool(config, text, config.neighbours)
        self.pooled_norm = nn.LayerNorm(text)
        self.layers = _perceptron(text + self.pool.outputs, config.hidden, config.width)

    def forward(self, features: TextFeatures) -> Tensor:
        """Features of N texts -> [N,D]."""
        found, _ = self.pool(features.tokens, features.mask)
        return self.layers(torch.cat([self.pooled_norm(features.pooled), found], dim=1))


def _perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.GELU(), nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.GELU(),
        nn.LayerNorm(hidden), nn.Linear(hidden, outputs),
    )  # fmt: skip


class TwoTower:
    """Heads with their frozen parts, as an `ImageTextModel`. The heads are in training mode nowhere: they
    have no dropout and no statistics. They are differentiable, so that a training loop can use this too.
    Shapes and errors of `embed_images` [B,3,H,W] -> [B,D] and `embed_texts` -> [N,D] as there."""

    def __init__(
        self,
        config: TwoTowerConfig,
        heads: TwoTowerHeads,
        features: ImageFeatures,
        encoder: TextEncoder,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        """provenance: `data` that the heads were trained on, `images_seen`, and `retrieval`, how well they
        find pictures and captions of named sets; as a model directory states it."""
        self.config, self.heads, self.features, self.encoder = config, heads, features, encoder
        self.provenance = dict(provenance or {})
        self.frozen = _frozen(features, encoder)  # now: a cast changes the weights, not what they are

    @classmethod
    def fresh(cls, config: TwoTowerConfig, seed: int = 0) -> TwoTower:
        """Heads initialised from a seed. Raises impasto.assets.MissingAssetError without the packages."""
        features, encoder = frozen_parts(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            heads = _heads(config, features, encoder)
        return cls(config, heads, features, encoder)

    @classmethod
    def from_directory(cls, directory: Path | str) -> TwoTower:
        """Heads of a model directory, frozen. Raises FileNotFoundError where there is none, ValueError (or
        its ModelDirectoryError and ConfigError) for another family, damaged files, or a frozen part that is
        not the one the heads were trained on; in one line."""
        path = Path(directory).expanduser()
        if not path.is_dir():
            raise FileNotFoundError(f"no such directory: {path}")
        family, document = read_config(path)
        if family != FAMILY:
            raise ValueError(f"{path} holds a model of the family '{family}', not '{FAMILY}'")
        for table in ("model", "frozen"):
            if not isinstance(document.get(table), dict):
                raise ModelDirectoryError(f"{path / CONFIG} has no table '{table}'")
        config = from_dict(TwoTowerConfig, document["model"])
        features, encoder = frozen_parts(config)
        _check_frozen(path, document["frozen"], _frozen(features, encoder))
        with torch.device("meta"):
            heads = _heads(config, features, encoder)
        load_weights(path, heads)
        heads.eval().requires_grad_(False)
        return cls(config, heads, features, encoder, document.get("provenance"))

    def save(self, directory: Path, card: str, *, half: bool = False) -> None:
        """Write config.json, model.safetensors (the heads; `half`: in fp16) and README.md; the frozen parts
        are named by fingerprint. Raises ModelDirectoryError in place of overwriting something else."""
        document = {"model": to_dict(self.config), "frozen": self.frozen, "provenance": self.provenance}
        state = self.heads.state_dict()
        save_model(directory, FAMILY, document, halved(state) if half else state, card)

    @property
    def device(self) -> torch.device:
        return self.heads.log_scale.device

    @property
    def scale(self) -> float:
        return float(self.heads.log_scale.detach().float().exp())

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the heads as they are when first asked for."""
        conventions = {"model": "two-tower 1", "config": to_dict(self.config)}
        return fingerprint(self.heads.state_dict(), {**conventions, "frozen": self.frozen})

    @functools.cached_property
    def networks(self) -> dict[str, str]:
        """The image head as it is when first asked for, and the frozen image network below it."""
        return {"two-tower": weights_hash(self.heads.image.state_dict()), **self.features.networks}

    def to(self, target: torch.device | torch.dtype | str) -> Self:
        for part in (self.heads, self.features, self.encoder):
            part.to(target)
        return self

    def observe(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """The frozen features of images [B,3,H,W] in [-1,1] that the image head takes: the maps of the chosen
        strides, [B,C,h,w] each, and the pooled vector [B,C'] float32. ValueError for another shape or
        type."""
        maps, pooled = self.features(images)
        return [maps[MAP_STRIDES.index(stride)] for stride in self.config.strides], pooled

    def embed_images(self, images: Tensor) -> Tensor:
        """images [N, 3, H, W] in [-1, 1] -> [N, D] float32."""
        return self.embed_observed(*self.observe(images))

    def embed_texts(self, texts: list[str]) -> Tensor:
        """[N, D] float32, a row for each text."""
        with exact_inference(self.device):
            return self.embed_features(self.encoder.encode(texts))

    def embed_observed(self, maps: Sequence[Tensor], pooled: Tensor) -> Tensor:
        """What `observe` gave -> [B,D] float32; computed in the type of the heads' weights, or autocast."""
        dtype = autocast_dtype(self.heads.log_scale)
        return self.heads.image([x.to(dtype) for x in maps], pooled.to(dtype)).float()

    def embed_features(self, features: TextFeatures) -> Tensor:
        """What the encoder gave -> [N,D] float32; computed in the type of the heads' weights, or autocast."""
        return self.heads.text(features.to(dtype=autocast_dtype(self.heads.log_scale))).float()


def frozen_parts(config: TwoTowerConfig) -> tuple[ImageFeatures, TextEncoder]:
    """The networks that are not trained: of pictures, of texts. Raises impasto.assets.MissingAssetError
    without the packages."""
    return ImageFeatures(config.backbone, config.side), load_encoder(TEXT_ENCODER)


def _heads(config: TwoTowerConfig, features: ImageFeatures, encoder: TextEncoder) -> TwoTowerHeads:
    channels = [features.map_channels[MAP_STRIDES.index(stride)] for stride in config.strides]
    return TwoTowerHeads(config, channels, features.width, encoder.width)


def _frozen(features: ImageFeatures, encoder: TextEncoder) -> dict[str, str]:
    return {"images": features.fingerprint, "texts": encoder.fingerprint}


def _check_frozen(path: Path, recorded: dict[str, str], present: dict[str, str]) -> None:
    for part, found in present.items():
        if recorded.get(part) != found:
            names = f"{str(recorded.get(part))[:12]}..., here it is {found[:12]}..."
            raise ModelDirectoryError(
                f"{path}: the heads were trained on another frozen network for {part} ({names}); "
                f"install the packages that `impasto assets` lists"
            )
