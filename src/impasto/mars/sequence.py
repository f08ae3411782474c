"""Training sequences as data: token ids, modality, positions, and what each position should predict.

Three builders (section 3 of the notes): `text_to_image` puts captions first and pads them on the left,
`image_to_text` puts pictures first and pads captions on the right, so that both keep the image tokens of all
rows in one column range; `interleaved` takes any order.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from impasto.mars.config import MarsConfig, Vocabulary
from impasto.mars.grammar import END_OF_SEQUENCE, ImageGrammar
from impasto.mars.routing import IndexRouting, Routing, routing_for
from impasto.nn.rotary import positions_of

IGNORED = -100  # target of a position without loss


@dataclass(frozen=True)
class SequenceBatch:
    """tokens, positions, targets [B, T] int64 (ids of the whole vocabulary; IGNORED where there is no loss),
    mask [B, T] bool (False for padding), routing by modality.

    prefix: so many first columns hold text and no targets; the model may compute them without gradient.
    image_rows, text_rows: places of the targets of each kind in the flattened batch. level: the resolution
    whose begin and end tokens appear. predicts_end: end tokens compete with codes; predicts_begin: begin
    tokens compete with words. left_padded: some row has padding before a token that counts, so that
    attention needs the mask (padding at the end is behind everything a causal query sees).
    """

    tokens: Tensor
    positions: Tensor
    mask: Tensor
    targets: Tensor
    routing: Routing
    prefix: int
    image_rows: Tensor
    text_rows: Tensor
    level: int
    left_padded: bool
    predicts_end: bool
    predicts_begin: bool

    def to(self, device: torch.device | str) -> "SequenceBatch":
        device = torch.device(device)
        moved: dict[str, Any] = {
            field.name: value.to(device, non_blocking=True)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), (Tensor, IndexRouting))
        }
        return replace(self, **moved)

    @property
    def image_targets(self) -> int:
        return len(self.image_rows)

    @property
    def word_targets(self) -> int:
        return len(self.text_rows)

    def target_ids(self, rows: Tensor) -> Tensor:
        """[N] targets at places in the flattened batch."""
        return self.targets.flatten().index_select(0, rows)


def text_to_image(
    config: MarsConfig,
    captions: Sequence[Sequence[int]],
    codes: Tensor,
    *,
    level: int = 0,
    end_token_loss: bool = True,
    least_columns: int = 0,
) -> SequenceBatch:
    """`caption <img> v1..vN`, to predict v1..vN and `</img>`.

    captions: text ids, empty for a dropped caption; codes [B, N] int64. The end token is a target alone: as
    an input nothing would follow it. Without end_token_loss the grammar's position N is taken as known.
    least_columns: of text, padding if all captions are shorter.
    Raises ValueError for ids that are no text or no codes, or a wrong number of codes.
    """
    tokens, count = config.tokens, config.image_length(level)
    check_codes(tokens, codes, len(captions), count)
    text, mask = left_padded(tokens, captions, least_columns)
    widest = text.shape[1]
    begin = torch.full((len(captions), 1), tokens.begin(level))
    end = torch.full_like(begin, tokens.end(level) if end_token_loss else IGNORED)
    image = codes.cpu().long() + tokens.text
    targets = torch.cat((torch.full_like(text, IGNORED), image, end), dim=1)
    inputs = torch.cat((text, begin, image), dim=1)
    mask = torch.cat((mask, torch.ones_like(inputs[:, widest:], dtype=torch.bool)), dim=1)
    return _finish(config, inputs, targets, mask, level, prefix=widest)


def image_to_text(
    config: MarsConfig,
    captions: Sequence[Sequence[int]],
    codes: Tensor,
    *,
    level: int = 0,
    image_targets: bool = False,
) -> SequenceBatch:
    """`<img> v1..vN </img> caption <end of text>`, to predict the caption and its end.

    With image_targets also v1..vN, for a picture without a caption before it. Errors as `text_to_image`.
    codes [B, N] int64.
    """
    tokens, count = config.tokens, config.image_length(level)
    check_codes(tokens, codes, len(captions), count)
    widest = max(map(len, captions))
    text, mask = _pad(tokens, captions, widest, left=False)
    none = torch.full((len(captions), 1), IGNORED)
    predicted = torch.cat((text.masked_fill(~mask, IGNORED), none), dim=1)
    lengths = torch.tensor([len(caption) for caption in captions])
    predicted[torch.arange(len(captions)), lengths] = config.language.end_of_text
    image = codes.cpu().long() + tokens.text
    begin, end = (torch.full((len(captions), 1), t(level)) for t in (tokens.begin, tokens.end))
    inputs = torch.cat((begin, image, end, text), dim=1)
    ahead = image if image_targets else torch.full_like(image, IGNORED)
    targets = torch.cat((ahead, none, predicted), dim=1)
    mask = torch.cat((torch.ones(len(captions), count + 2, dtype=torch.bool), mask), dim=1)
    return _finish(config, inputs, targets, mask, level)


def interleaved(
    config: MarsConfig,
    documents: Sequence[Sequence[Sequence[int] | Tensor]],
    *,
    level: int = 0,
    text_targets: bool = False,
) -> SequenceBatch:
    """Documents as lists of parts: a list of ints is text, a tensor [N] of codes is a picture.

    Every picture's codes and end token are targets; with text_targets so are text, begin tokens and the end
    of the document. (Before the first picture the begin token's row alone can learn from them.)
    """
    tokens = config.tokens
    rows = [list(_document(config, parts, level)) for parts in documents]
    widest = max(map(len, rows))
    inputs = torch.zeros(len(rows), widest, dtype=torch.int64)
    mask = torch.zeros(len(rows), widest, dtype=torch.bool)
    targets = torch.full_like(inputs, IGNORED)
    for index, row in enumerate(rows):
        inputs[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = True
        for place, following in enumerate([*row[1:], config.language.end_of_text]):
            in_picture = tokens.is_code(following) or following == tokens.end(level)
            if in_picture or text_targets:
                targets[index, place] = following
    return _finish(config, inputs, targets, mask, level)


def _document(config: MarsConfig, parts: Sequence[Sequence[int] | Tensor], level: int) -> Iterable[int]:
    tokens, grammar = config.tokens, ImageGrammar(config, interleaved=True)
    state = grammar.start
    for part in parts:
        if isinstance(part, Tensor):
            check_codes(tokens, part[None], 1, config.image_length(level))
            ids = [tokens.begin(level), *(part.long() + tokens.text).tolist(), tokens.end(level)]
        else:
            ids = list(part)
            _check_text(tokens, ids)
        for token in ids:
            state = grammar.advance(state, token)
            yield token
    grammar.advance(state, END_OF_SEQUENCE)


def _finish(
    config: MarsConfig, inputs: Tensor, targets: Tensor, mask: Tensor, level: int, prefix: int = 0
) -> SequenceBatch:
    """Modality, positions and the places of targets, all on the CPU where sizes cost nothing."""
    tokens = config.tokens
    flat = targets.flatten()
    image = (flat >= tokens.text) & (flat < tokens.begin(0))
    return SequenceBatch(
        tokens=inputs,
        positions=positions_of(mask),
        mask=mask,
        targets=targets,
        routing=routing_for(visual_positions(tokens, inputs)),
        prefix=prefix,
        image_rows=image.nonzero()[:, 0],
        text_rows=((flat != IGNORED) & ~image).nonzero()[:, 0],
        level=level,
        predicts_end=bool((image & (flat >= tokens.end(0))).any()),
        predicts_begin=bool((flat >= tokens.begin(0)).any()),
        left_padded=bool((mask[:, 1:] & ~mask[:, :-1]).any()),
    )


def visual_positions(tokens: Vocabulary, inputs: Tensor) -> Tensor:
    """ids [B, T] -> bool, True for those of the visual expert: codes and begin tokens."""
    is_code = (inputs >= tokens.text) & (inputs < tokens.end(0))
    return is_code | (inputs >= tokens.begin(0))


def _pad(
    tokens: Vocabulary, captions: Sequence[Sequence[int]], width: int, *, left: bool
) -> tuple[Tensor, Tensor]:
    """[B, width] ids (0 in the gaps) and the mask of those that count."""
    ids = torch.zeros(len(captions), width, dtype=torch.int64)
    mask = torch.zeros(len(captions), width, dtype=torch.bool)
    for row, caption in enumerate(captions):
        _check_text(tokens, caption)
        place = slice(width - len(caption), width) if left else slice(0, len(caption))
        ids[row, place] = torch.tensor(list(caption), dtype=torch.int64)
        mask[row, place] = True
    return ids, mask


def left_padded(
    tokens: Vocabulary, captions: Sequence[Sequence[int]], least_columns: int = 0
) -> tuple[Tensor, Tensor]:
    """Captions of any lengths as [B, P] ids and mask, pushed to the right end; P at least `least_columns`."""
    return _pad(tokens, captions, max(least_columns, *map(len, captions)), left=True)


def _check_text(tokens: Vocabulary, ids: Iterable[int]) -> None:
    for token in ids:
        if not 0 <= token < tokens.text:
            raise ValueError(f"token {token} is not text: the text vocabulary has {tokens.text} rows")


def check_codes(tokens: Vocabulary, codes: Tensor, batch: int, count: int) -> None:
    """ValueError unless codes are [batch, count] ids of this vocabulary's codes."""
    if tuple(codes.shape) != (batch, count):
        raise ValueError(f"codes have shape {tuple(codes.shape)}, expected {(batch, count)}")
    low, high = int(codes.min()), int(codes.max())
    if low < 0 or high >= tokens.codes:
        raise ValueError(f"codes from {low} to {high} are not all among the {tokens.codes} of this model")
