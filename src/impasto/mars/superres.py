"""Stage III: a high-resolution picture from its caption and its low-resolution codes, K codes a step.

The sequence is `caption <img> low </img>`, then one step a block: the first reads the begin token of the high
picture, the others the block before them, each with the embedding of the low code that owns the block it is
to draw (`blocks`). Source: section 10 of the notes. Shapes as in `blocks`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from impasto.mars.blocks import BlockGeometry, Blocks
from impasto.mars.config import MarsConfig
from impasto.mars.decoding import move_language
from impasto.mars.losses import TokenLosses, cross_entropy
from impasto.mars.routing import VISUAL_ONLY, Segment, SegmentRouting
from impasto.mars.sampling import SamplingSettings, check_request, choose, draw_uniforms, prefill
from impasto.mars.semvie import MarsModel
from impasto.mars.sequence import check_codes, left_padded
from impasto.nn.kv_cache import KeyValueCache, KeyValuePrefix


@dataclass(frozen=True)
class SuperResolutionBatch:
    """Captions as ids and mask [B, P], padded on the left; low [B, n] and high [B, N] int64 codes in raster
    order."""

    captions: Tensor
    mask: Tensor
    low: Tensor
    high: Tensor

    def to(self, device: torch.device | str) -> "SuperResolutionBatch":
        moved = {name: value.to(device, non_blocking=True) for name, value in vars(self).items()}
        return replace(self, **moved)

    @property
    def image_targets(self) -> int:
        return self.high.numel()

    @property
    def word_targets(self) -> int:
        return 0


def super_resolution(
    config: MarsConfig,
    captions: Sequence[Sequence[int]],
    low: Tensor,
    high: Tensor,
    *,
    least_columns: int = 0,
) -> SuperResolutionBatch:
    """captions: text ids, empty for a dropped one. least_columns: of text, padding if all captions are
    shorter. ValueError for ids that are no text or no codes, or a wrong number of codes. low [B, n] and high
    [B, N] are codes in raster order."""
    geometry, count = BlockGeometry.of(config), len(captions)
    check_codes(config.tokens, low, count, geometry.low**2)
    check_codes(config.tokens, high, count, geometry.high**2)
    text, mask = left_padded(config.tokens, captions, least_columns)
    return SuperResolutionBatch(text, mask, low.cpu().long(), high.cpu().long())


def corrupt(low: Tensor, codes: int, share: float, seeds: Sequence[Sequence[int]]) -> Tensor:
    """low [B, n] with about that share of each row put at random, by the row's own seed: the codes that stage
    III will be given are drawn, and not all of them right."""
    rows = []
    for row, seed in zip(low, seeds, strict=True):
        rng = np.random.default_rng(seed)
        others = torch.from_numpy(rng.integers(codes, size=len(row)))
        rows.append(torch.where(torch.from_numpy(rng.random(len(row)) < share), others, row))
    return torch.stack(rows)


def losses(
    model: MarsModel, batch: SuperResolutionBatch, prefix: KeyValuePrefix | None = None
) -> TokenLosses:
    """Mean cross-entropy of the high codes, as `MarsModel.losses`; no end token is predicted, since the
    grammar knows where it stands. prefix: the captions' keys and values, if they are at hand."""
    logits, codes = block_logits(model, batch, prefix)
    image, image_z = cross_entropy(logits.flatten(0, 1), codes.flatten())
    return TokenLosses(image, None, image_z, codes.numel(), 0)


def block_logits(
    model: MarsModel, batch: SuperResolutionBatch, prefix: KeyValuePrefix | None = None
) -> tuple[Tensor, Tensor]:
    """Logits [B * S, K, C] of every block's codes, and the codes [B * S, K] themselves, each predicted from
    all blocks before its own and, by the block head, from the codes before it in its own."""
    codes = BlockGeometry.of(model.config).to_blocks(batch.high)
    if prefix is None:
        prefix = model.prefix_of(batch.captions, batch.mask)
    start, steps = _start_length(model), codes.shape[1]
    hidden = model(
        lambda: torch.cat((_start(model, batch.low), _steps(model, batch.low, codes[:, :-1])), dim=1),
        _routing(model, steps),
        memory=prefix,
    )
    codes = codes.flatten(0, 1)
    earlier = model.visual.embedding(codes[:, :-1])
    return _blocks(model).head(hidden[:, start:].flatten(0, 1), earlier), codes


@torch.no_grad()
def generate_high(
    model: MarsModel,
    low: Tensor,
    captions: Sequence[Sequence[int]],
    seeds: Sequence[int],
    *,
    guidance: float = 1.0,
    settings: SamplingSettings | None = None,
    prefix: KeyValuePrefix | None = None,
    offload_language: bool = False,
) -> Tensor:
    """Codes [B, N] int64 in raster order of the high pictures of low [B, n] codes.

    guidance mixes logits as in `generate_images`, where the empty caption keeps the low picture. Each seed's
    stream goes on where the drawing of the low picture would have left it. prefix and offload_language as
    there. ValueError for lists that do not fit each other.
    """
    check_request(captions, seeds)
    geometry, settings = BlockGeometry.of(model.config), settings or SamplingSettings()
    check_codes(model.tokens, low, len(captions), geometry.low**2)
    guided = guidance != 1.0
    cache = KeyValueCache.after(
        prefill(model, captions, guided, prefix), _start_length(model) + geometry.steps
    )
    low = low.to(model.device)
    rows = low.repeat(len(cache.mask) // len(low), 1)
    stream = draw_uniforms(seeds, geometry.low**2 + geometry.high**2)[:, geometry.low**2 :].to(model.device)
    uniforms = stream.unflatten(1, (geometry.steps, -1))
    move_language(model, model.device)  # `</img>` is the language expert's
    model(partial(_start, model, rows), _routing(model, 0), memory=cache)
    if offload_language:
        move_language(model, "cpu")
    drawn = torch.empty(uniforms.shape, dtype=torch.int64, device=model.device)
    for index in range(geometry.steps):
        last = drawn[:, max(index - 1, 0) : index].repeat(len(rows) // len(low), 1, 1)
        hidden = model(partial(_steps, model, rows, last, index), VISUAL_ONLY, memory=cache)
        drawn[:, index] = _draw_block(model, hidden[:, -1], uniforms[:, index], guidance, settings)
    return geometry.from_blocks(drawn)


def _draw_block(
    model: MarsModel, hidden: Tensor, uniforms: Tensor, guidance: float, settings: SamplingSettings
) -> Tensor:
    """hidden [R, width] of all guidance branches, uniforms [B, K] -> [B, K] codes, one after another."""
    blocks, (batch, count) = _blocks(model), uniforms.shape
    codes = torch.empty(batch, count, dtype=torch.int64, device=hidden.device)
    for place in range(count):
        earlier = model.visual.embedding(codes[:, :place]).repeat(len(hidden) // batch, 1, 1)
        logits = blocks.head(hidden, earlier)[:, -1].float()
        if len(logits) > batch:
            conditional, unconditional = logits.chunk(2)
            logits = torch.lerp(unconditional, conditional, guidance)
        codes[:, place] = choose(logits, uniforms[:, place], settings)
    return codes


def _blocks(model: MarsModel) -> Blocks:
    if model.blocks is None:
        raise ValueError("the model draws no high resolution; its config has no super_resolution")
    return model.blocks


def _start_length(model: MarsModel) -> int:
    """Places of the low picture and its two markers."""
    return BlockGeometry.of(model.config).low ** 2 + 2


def _routing(model: MarsModel, steps: int) -> SegmentRouting:
    """Of `<img> low </img>` and so many steps: `</img>` is the language expert's, as everywhere."""
    end = _start_length(model)
    segments = [Segment(0, end - 1, True), Segment(end - 1, end, False)]
    return SegmentRouting((*segments, Segment(end, end + steps, True)) if steps else tuple(segments))


def _start(model: MarsModel, low: Tensor) -> Tensor:
    """`<img> low </img>` of low [B, n]: embeddings [B, n + 2, width]."""
    tokens, level = model.tokens, len(model.config.grids) - 2
    begin, end = (marker(level) - tokens.text for marker in (tokens.begin, tokens.end))
    return model.visual.embedding(F.pad(F.pad(low, (1, 0), value=begin), (0, 1), value=end))


def _steps(model: MarsModel, low: Tensor, before: Tensor, first: int = 0) -> Tensor:
    """What the steps from `first` on read: low [B, n], before [B, s, K], the blocks that they have behind
    them -> [B, s, width], and one more where step 0, which has none, is among them."""
    part, embedding, tokens = _blocks(model).input, model.visual.embedding, model.tokens
    codes = embedding(before)
    read = codes.flatten(2) if part is None else part.merge(codes)
    if first == 0:
        begin = torch.full_like(low[:, :1], tokens.begin(len(model.config.grids) - 1) - tokens.text)
        read = torch.cat((embedding(begin), read), dim=1)
    if part is None:
        return read
    owners = BlockGeometry.of(model.config).owners(low.device)[first : first + read.shape[1]]
    return part(read, embedding(low[:, owners]))
