"""The parts of next-K-token prediction: which codes make a block, what a step reads, what it emits.

Shapes: B batch, N codes of a high-resolution picture, K codes a block, S = N / K steps, n codes of the low
picture, C codes of the tokenizer. Source: section 10 of the notes, ours where it is silent.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from impasto.config import ConfigError
from impasto.mars.config import LanguageConfig, MarsConfig, SuperResolutionConfig
from impasto.mars.layers import RMSNorm

HEAD_DIM = 16  # about so many channels for each attention head of the block head (ours)


@dataclass(frozen=True)
class BlockGeometry:
    """Square blocks of a high grid over a low one: every low code owns a square of high codes, cut into
    blocks. Blocks are in raster order, and so are the codes inside one; blocks of side 1 are the plain order
    of a picture."""

    low: int
    high: int
    block: int

    @classmethod
    def of(cls, config: MarsConfig) -> "BlockGeometry":
        assert config.super_resolution is not None
        low, high = config.grids[-2:]
        return cls(low, high, config.super_resolution.block_side)

    @property
    def steps(self) -> int:
        return (self.high // self.block) ** 2

    def to_blocks(self, codes: Tensor) -> Tensor:
        """[B, N] in raster order -> [B, S, K]."""
        side, block = self.high // self.block, self.block
        grid = codes.unflatten(1, (side, block, side, block))
        return grid.transpose(2, 3).reshape(len(codes), side * side, block * block)

    def from_blocks(self, blocks: Tensor) -> Tensor:
        """[B, S, K] -> [B, N] in raster order."""
        side, block = self.high // self.block, self.block
        grid = blocks.unflatten(2, (block, block)).unflatten(1, (side, side))
        return grid.transpose(2, 3).reshape(len(blocks), self.high**2)

    def owners(self, device: torch.device | str = "cpu") -> Tensor:
        """[S] int64: the place in the low picture of the code that owns each block."""
        side = self.high // self.block
        line = torch.arange(side, device=device) * self.block * self.low // self.high
        return (line[:, None] * self.low + line).flatten()


class BlockInput(nn.Module):
    """What a step reads: the codes of the block before, projected to one embedding, and that of the low code
    which owns the block to come, normed together."""

    def __init__(self, language: LanguageConfig, config: SuperResolutionConfig):
        super().__init__()
        width, count = language.width, config.tokens_per_step
        self.previous = nn.Linear(count * width, width, bias=False) if count > 1 else None
        self.owner = nn.Linear(width, width, bias=False) if config.anchor else None
        self.norm = RMSNorm(width, language.norm_epsilon)

    def merge(self, codes: Tensor) -> Tensor:
        """Embeddings of blocks, [B, S, K, width] -> [B, S, width]."""
        return codes.flatten(2) if self.previous is None else self.previous(codes.flatten(2))

    def forward(self, before: Tensor, owners: Tensor) -> Tensor:
        """before [B, S, width]: the merged block before each step, or the begin token; owners [B, S, width]:
        embeddings of low codes -> [B, S, width]."""
        return self.norm(before if self.owner is None else before + self.owner(owners))

    @torch.no_grad()
    def start(self, rows: Tensor) -> None:
        """The average of the block, the owner's embedding as it is, at the scale of embedding rows.
        rows [codes, width]: embeddings of the codes."""
        identity = torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
        if self.previous is not None:
            count = self.previous.in_features // rows.shape[1]
            self.previous.weight.copy_(identity.repeat(1, count) / count)
        if self.owner is not None:
            self.owner.weight.copy_(identity)
        self.norm.weight.fill_(float(rows.float().square().mean().sqrt()))


class IndependentHead(nn.Module):
    """K linear heads on one hidden state."""

    def __init__(self, language: LanguageConfig, config: SuperResolutionConfig, codes: int):
        super().__init__()
        self.rows = nn.Parameter(torch.empty(config.tokens_per_step, codes, language.width))

    def forward(self, hidden: Tensor, earlier: Tensor) -> Tensor:
        """hidden [M, width], earlier [M, j, width]: embeddings of the first j codes of each block, not looked
        at -> logits [M, j + 1, C] of the codes up to the next."""
        rows = self.rows[: earlier.shape[1] + 1]
        return F.linear(hidden, rows.flatten(0, 1)).unflatten(1, rows.shape[:2])

    @torch.no_grad()
    def start(self, rows: Tensor, generator: torch.Generator) -> None:
        """Copies of the visual head, rows [C, width]."""
        self.rows.copy_(rows.expand_as(self.rows))


class BlockHead(nn.Module):
    """K linear heads as well, each on the hidden state plus what a small causal transformer makes of it and
    of the codes of the block that come before. At first that is nothing, and the head the independent one."""

    def __init__(self, language: LanguageConfig, config: SuperResolutionConfig, codes: int):
        super().__init__()
        count, width = config.tokens_per_step, language.width
        narrow = config.head_width or max(width // 4, 1)
        self.rows = nn.Parameter(torch.empty(count, codes, width))
        self.places = nn.Parameter(torch.empty(count, narrow))
        self.context = nn.Linear(width, narrow)
        self.earlier = nn.Linear(width, narrow, bias=False)
        heads = max(narrow // HEAD_DIM, 1)
        if narrow % heads:
            raise ConfigError(f"super_resolution.head_width={narrow} should be a multiple of {HEAD_DIM}")
        layer = nn.TransformerEncoderLayer(
            narrow, heads, 4 * narrow, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, config.head_layers, nn.LayerNorm(narrow), False)
        self.change = nn.Linear(narrow, width, bias=False)

    def forward(self, hidden: Tensor, earlier: Tensor) -> Tensor:
        """hidden [M, width], earlier [M, j, width]: embeddings of the first j codes of each block -> logits
        [M, j + 1, C] of the codes up to the next."""
        count = earlier.shape[1] + 1
        x = self.context(hidden)[:, None] + self.places[:count]
        x = x + F.pad(self.earlier(earlier), (0, 0, 1, 0))
        mask = nn.Transformer.generate_square_subsequent_mask(count, device=x.device, dtype=x.dtype)
        changed = hidden[:, None] + self.change(self.layers(x, mask=mask, is_causal=True))
        return torch.einsum("mkw,kcw->mkc", changed, self.rows[:count])

    @torch.no_grad()
    def start(self, rows: Tensor, generator: torch.Generator) -> None:
        """Copies of the visual head, rows [C, width], nothing added; the rest is drawn on the CPU."""
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                drawn = torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5
                parameter.copy_(drawn)
            else:
                parameter.fill_(float("norm" in name and name.endswith("weight")))
        self.rows.copy_(rows.expand_as(self.rows))
        self.change.weight.zero_()


class Blocks(nn.Module):
    """What stage III adds to a visual expert. With K = 1, an independent head and no anchor there is no input
    part, and the model is the plain next-token one."""

    input: BlockInput | None
    head: IndependentHead | BlockHead

    def __init__(self, language: LanguageConfig, config: SuperResolutionConfig, codes: int):
        super().__init__()
        plain = config.tokens_per_step == 1 and not config.anchor
        self.input = None if plain else BlockInput(language, config)
        kind = BlockHead if config.head == "block" else IndependentHead
        self.head = kind(language, config, codes)

    def start(self, embedding: Tensor, head: Tensor, seed: int) -> None:
        """First values, in place, from the embedding and output rows of the codes, [C, width] each."""
        if self.input is not None:
            self.input.start(embedding)
        self.head.start(head, torch.Generator().manual_seed(seed))
