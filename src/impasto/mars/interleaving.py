"""Documents of text and pictures, in whatever order the model chooses (notes, section 12).

One cache, one grammar: a begin token hands the sequence to the visual expert for N codes, the end token
hands it back. Worth trying only after fine-tuning on such documents; without it no text opens a picture.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from impasto.mars.decoding import move_language
from impasto.mars.grammar import GrammarState, ImageGrammar
from impasto.mars.routing import UniformRouting
from impasto.mars.sampling import SamplingSettings, choose, draw_uniforms
from impasto.mars.semvie import MarsModel
from impasto.nn.kv_cache import KeyValueCache

Part = list[int] | Tensor  # text ids, or the codes of a picture [N]


@torch.no_grad()
def generate_document(
    model: MarsModel,
    prompt: Sequence[int],
    seed: int,
    *,
    level: int = 0,
    max_words: int = 128,
    max_pictures: int = 1,
    settings: SamplingSettings | None = None,
) -> list[Part]:
    """What follows a prompt (text ids, at least one): texts and pictures in order, up to the end of text or
    max_words text tokens. No guidance: there is no empty caption inside a document."""
    if not prompt:
        raise ValueError("the prompt needs at least one token")
    settings = settings or SamplingSettings()
    tokens, grammar = model.tokens, ImageGrammar(model.config, interleaved=True)
    room = max_words + max_pictures * (model.config.image_length(level) + 2) + 1
    move_language(model, model.device)
    cache = KeyValueCache.after(model.text_prefix([prompt[:-1]]), room)
    uniforms = draw_uniforms([seed], room).to(model.device)
    state, token = grammar.start, prompt[-1]
    written: list[int] = []
    words = pictures = 0
    while words < max_words:
        ids = torch.tensor([[token]], device=model.device)
        hidden = model(ids, UniformRouting(tokens.is_visual(token)), memory=cache)[:, -1]
        may_open = level if pictures < max_pictures else None
        token = _next(model, grammar, state, hidden, may_open, uniforms[:, len(written)], settings)
        if token == model.config.language.end_of_text:
            break
        state = grammar.advance(state, token)
        written.append(token)
        words += token < tokens.text
        pictures += tokens.level_of_begin(token) is not None
    return _parts(model, written)


def _next(
    model: MarsModel,
    grammar: ImageGrammar,
    state: GrammarState,
    hidden: Tensor,
    may_open: int | None,
    uniforms: Tensor,
    settings: SamplingSettings,
) -> int:
    """The next id, drawn among those that the grammar allows."""
    allowed = grammar.allowed(state)
    if state.level is None:
        chosen = int(choose(model.text_logits_of(hidden, may_open).float(), uniforms, settings))
        is_begin = may_open is not None and chosen == model.tokens.text
        return model.tokens.begin(may_open) if is_begin and may_open is not None else chosen
    (only,) = allowed
    if only.stop - only.start == 1:
        return only.start
    return only.start + int(choose(model.code_logits(hidden).float(), uniforms, settings))


def _parts(model: MarsModel, written: Sequence[int]) -> list[Part]:
    """Runs of text as lists, codes of each picture as a tensor; the markers between them go."""
    parts: list[Part] = []
    text: list[int] = []
    codes: list[int] = []
    for token in written:
        if token < model.tokens.text:
            text.append(token)
        elif model.tokens.is_code(token):
            codes.append(token - model.tokens.text)
        elif model.tokens.level_of_begin(token) is not None:
            parts += [text] if text else []
            text = []
        else:
            parts.append(torch.tensor(codes))
            codes = []
    return [*parts, text] if text else parts
