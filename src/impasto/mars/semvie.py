"""MARS: one causal sequence of text and image tokens, a frozen language expert and a trained visual one.

Every trained tensor has "visual" as one part of its dotted name or belongs to the "blocks" of stage III, and
no other tensor does; `is_visual` is the filter behind the visual checkpoint, the optimiser's parameter list
and the freezing.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from impasto.mars.blocks import Blocks
from impasto.mars.config import MarsConfig
from impasto.mars.layers import SemvieLayer, TokenTables, visibility
from impasto.mars.losses import TokenLosses, cross_entropy
from impasto.mars.routing import LANGUAGE_ONLY, VISUAL_ONLY, IndexRouting, Routing
from impasto.mars.sequence import SequenceBatch, left_padded
from impasto.nn.kv_cache import KeyValueCache, KeyValuePrefix, Memory
from impasto.nn.modules import module_list
from impasto.nn.rotary import Rotary, positions_of

Observer = Callable[[int, Tensor], None]  # (layers passed, residual stream [B, T, width])


class MarsModel(nn.Module):
    """Language model, visual expert, joint attention.

    `checkpoint_activations` recomputes layers in the backward pass wherever gradients are on, that is on the
    visual path: a text prefix runs without gradients and is never recomputed.
    """

    def __init__(self, config: MarsConfig):
        super().__init__()
        self.config, self.tokens = config, config.tokens
        language, visual = config.language, config.visual
        self.language = TokenTables(language.vocabulary, language, tied=language.tied_head, norm=True)
        self.visual = TokenTables(self.tokens.rows, language, tied=False, norm=visual.norms == "per_modality")
        self.layers = module_list(SemvieLayer(language, visual) for _ in range(language.layers))
        stage = config.super_resolution
        self.blocks = None if stage is None else Blocks(language, stage, visual.codes)
        self.rotary = Rotary(language.rotary, language.head_dim)
        self.checkpoint_activations = False
        train_only(self, "visual")

    @property
    def device(self) -> torch.device:
        return self.visual.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.visual.embedding.weight.dtype

    def forward(
        self,
        tokens: Tensor | Callable[[], Tensor],
        modality: Routing | Tensor,
        *,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        memory: Memory | None = None,
        observe: Observer | None = None,
    ) -> Tensor:
        """Hidden states [B, T, width] after the final norm.

        tokens [B, T] int64 ids of the whole vocabulary, or embeddings [B, T, width] in their place, or what
        makes embeddings, called where the rows of a sharded model are at hand; modality: a Routing, or [B, T]
        bool with True for the visual expert; mask [B, T] bool, False for padding; positions [B, T], counted
        from the mask by default; memory: what came before.
        """
        routing = IndexRouting(modality) if isinstance(modality, Tensor) else modality
        tokens = tokens if isinstance(tokens, Tensor) else tokens()
        everything = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        if positions is None:
            positions = positions_of(everything if mask is None else mask)
            positions = positions if memory is None else positions + memory.lengths[:, None]
        if memory is not None:
            own = everything if mask is None else mask
            seen = visibility(memory.admit(own), own)
        else:
            seen = visibility(mask, everything if mask is None else mask)
        x = tokens if tokens.is_floating_point() else self.embed(tokens, routing)
        tables = self.rotary.tables(positions, x.dtype)
        for index, layer in enumerate(self.layers):
            if observe is not None:
                observe(index, x)
            if self.checkpoint_activations and torch.is_grad_enabled():
                x = checkpoint(layer, x, routing, tables, seen, memory, index, use_reentrant=False)
            else:
                x = layer(x, routing, tables, seen, memory, index)
        if observe is not None:
            observe(len(self.layers), x)
        return self._final_norm(x, routing)

    def embed(self, tokens: Tensor, routing: Routing | None = None) -> Tensor:
        """ids [B, T] -> [B, T, width]. By id, not by expert: `</img>` is a new row that the language
        expert handles. Where all tokens are known to be visual the text table is left alone."""
        if routing == VISUAL_ONLY:
            return self.visual.embedding(tokens - self.tokens.text)
        text = tokens.clamp_max(self.tokens.text - 1)
        added = (tokens - self.tokens.text).clamp_min(0)
        is_text = (tokens < self.tokens.text)[..., None]
        return torch.where(is_text, self.language.embedding(text), self.visual.embedding(added))

    def text_logits(self, input_ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """ids [B, T] of text -> [B, T, V] over the text rows: the base language model, bit for bit, whatever
        the visual weights are (with experts="shared": only until they are trained). mask [B, T] bool."""
        return self.text_logits_of(self(input_ids, LANGUAGE_ONLY, mask=mask))

    def text_logits_of(self, hidden: Tensor, begin_level: int | None = None) -> Tensor:
        """hidden [..., width] -> [..., V] over text rows. With begin_level a last column is added for
        the begin token of that resolution, by which a text may open a picture."""
        logits = F.linear(hidden, self.language.output_rows)
        if begin_level is None:
            return logits
        row = self.visual.output_rows[self.tokens.begin(begin_level) - self.tokens.text]
        return torch.cat((logits, F.linear(hidden, row[None])), dim=-1)

    def code_logits(self, hidden: Tensor) -> Tensor:
        """hidden [..., width] -> [..., codes]: what the grammar allows inside a picture."""
        return F.linear(hidden, self.visual.output_rows[: self.tokens.codes])

    def image_logits(self, hidden: Tensor, level: int = 0) -> Tensor:
        """hidden [..., width] -> [..., codes + 1] over codes and the end token of a resolution level."""
        rows, codes = self.visual.output_rows, self.tokens.codes
        if level == 0:
            return F.linear(hidden, rows[: codes + 1])
        return F.linear(hidden, torch.cat((rows[:codes], rows[codes + level : codes + level + 1])))

    def joint_logits(self, hidden: Tensor) -> Tensor:
        """hidden [..., width] -> [..., vocabulary] over every row, the padding rows at -inf (paper)."""
        added = F.linear(hidden, self.visual.output_rows)
        used = self.tokens.used_rows
        added = torch.cat((added[..., :used], torch.full_like(added[..., used:], float("-inf"))), dim=-1)
        return torch.cat((F.linear(hidden, self.language.output_rows), added), dim=-1)

    def losses(self, batch: SequenceBatch, prefix: KeyValuePrefix | None = None) -> TokenLosses:
        """Cross-entropies of every target of a batch.

        prefix: keys and values of the batch's leading text columns if they are at hand (`text_prefix`, or a
        `PrefixStore`); otherwise they are computed here, without gradient where the language is frozen.
        """
        hidden = self._hidden(batch, prefix)
        image_rows, text_rows = batch.image_rows - self._skipped(batch), batch.text_rows
        image = text = image_z = None
        if len(batch.image_rows):
            image, image_z = self._image_loss(hidden.index_select(0, image_rows), batch)
        if len(text_rows):
            text = self._text_loss(hidden.index_select(0, text_rows), batch)
        return TokenLosses(image, text, image_z, len(image_rows), len(text_rows))

    def t2i_loss(self, batch: SequenceBatch, prefix: KeyValuePrefix | None = None) -> Tensor:
        """Mean cross-entropy of the codes and the end token, given their captions (section 7). A scalar.
        Raises ValueError for a batch without image targets."""
        loss = self.losses(batch, prefix).image
        if loss is None:
            raise ValueError("the batch has no image targets; build it with text_to_image")
        return loss

    def i2t_loss(self, batch: SequenceBatch, image_loss_weight: float = 0.0) -> Tensor:
        """Mean cross-entropy of the captions, given their pictures. A weight above 0 adds the pictures' own
        likelihood, of which the batch then has to hold the targets. A scalar. Raises ValueError for a batch
        without the targets."""
        losses = self.losses(batch)
        if losses.text is None:
            raise ValueError("the batch has no text targets; build it with image_to_text")
        if image_loss_weight == 0:
            return losses.text
        if losses.image is None:
            raise ValueError("i2t_image_loss_weight needs image_to_text(..., image_targets=True)")
        return losses.text + image_loss_weight * losses.image

    @torch.no_grad()
    def text_prefix(self, captions: Sequence[Sequence[int]]) -> KeyValuePrefix:
        """Keys and values of captions of any lengths, padded on the left. The language expert alone makes
        them, so they hold for as long as it is frozen, for every picture."""
        tokens, mask = left_padded(self.tokens, captions)
        return self.prefix_of(tokens.to(self.device), mask.to(self.device))

    @torch.no_grad()
    def prefix_of(self, tokens: Tensor, mask: Tensor) -> KeyValuePrefix:
        """Keys and values of text, ids and mask [B, P]."""
        cache = self.new_cache(*tokens.shape)
        if tokens.shape[1]:
            self(tokens, LANGUAGE_ONLY, mask=mask, memory=cache)
        return cache.prefix()

    def new_cache(self, batch: int, capacity: int, *, static: bool = False) -> KeyValueCache:
        """An empty cache of the model's shape, type and device."""
        language = self.config.language
        return KeyValueCache(
            layers=language.layers,
            batch=batch,
            heads=language.key_value_heads,
            capacity=capacity,
            head_dim=language.head_dim,
            dtype=self.dtype,
            device=self.device,
            static=static,
        )

    def _final_norm(self, x: Tensor, routing: Routing) -> Tensor:
        language = self.language.norm
        assert language is not None
        visual = self.visual.norm
        if visual is None:
            return language(x)
        return routing.route((x,), lambda rows: (language(rows),), lambda rows: (visual(rows),))[0]

    def _skipped(self, batch: SequenceBatch) -> Tensor | int:
        """How far the places of targets move when the prefix columns are left out: row by row."""
        if not self._splits(batch):
            return 0
        return (batch.image_rows // batch.tokens.shape[1] + 1) * batch.prefix

    def _splits(self, batch: SequenceBatch) -> bool:
        return batch.prefix > 0 and self.config.visual.experts == "split" and self.language_is_frozen

    @property
    def language_is_frozen(self) -> bool:
        return not self.language.embedding.weight.requires_grad

    def _hidden(self, batch: SequenceBatch, prefix: KeyValuePrefix | None) -> Tensor:
        """[B * T, width], without the prefix columns if they can be computed apart from the rest."""
        if not self._splits(batch):
            if prefix is not None and prefix.length:  # all captions of a batch may have been dropped
                raise ValueError("a prefix needs a frozen language expert and captions before pictures")
            mask = batch.mask if batch.left_padded else None
            hidden = self(batch.tokens, batch.routing, mask=mask, positions=batch.positions)
            return hidden.flatten(0, 1)
        columns = batch.prefix
        if prefix is None:
            prefix = self.prefix_of(batch.tokens[:, :columns], batch.mask[:, :columns])
        tokens, positions = batch.tokens[:, columns:], batch.positions[:, columns:]
        hidden = self(tokens, VISUAL_ONLY, positions=positions, memory=prefix)
        return hidden.flatten(0, 1)

    def _image_loss(self, hidden: Tensor, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        targets = batch.target_ids(batch.image_rows)
        if self.config.visual.softmax == "joint":
            return cross_entropy(self.joint_logits(hidden), targets)
        codes = self.tokens.codes
        classes = (targets - self.tokens.text).clamp_max(codes)
        if batch.predicts_end:
            return cross_entropy(self.image_logits(hidden, batch.level), classes)
        return cross_entropy(self.code_logits(hidden), classes)

    def _text_loss(self, hidden: Tensor, batch: SequenceBatch) -> Tensor:
        targets = batch.target_ids(batch.text_rows)
        if self.config.visual.softmax == "joint":
            return cross_entropy(self.joint_logits(hidden), targets)[0]
        classes = targets.clamp_max(self.tokens.text)
        level = batch.level if batch.predicts_begin else None
        return cross_entropy(self.text_logits_of(hidden, level), classes)[0]


def is_visual(name: str) -> bool:
    """Whether a parameter of a MarsModel belongs to the visual checkpoint."""
    parts = name.split(".")
    return "visual" in parts or parts[0] == "blocks"


def train_only(model: MarsModel, part: Literal["visual", "language"]) -> None:
    """Turn gradients on for one part and off for the other. Training the language is for a base of one's
    own, before there is anything visual; then `start_visual_from_language` makes the copies."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_visual(name) == (part == "visual"))
