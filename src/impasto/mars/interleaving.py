"""Documents of text and pictures, in whatever order the model chooses (notes, section 12).

One cache, one grammar: a begin token hands the sequence to the visual expert for N codes, the end token
hands it back. Worth trying only after fine-tuning on such documents; without it no text opens a picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from impasto.mars.config import MarsConfig
from impasto.mars.decoding import move_language
from impasto.mars.grammar import END_OF_SEQUENCE, ImageGrammar
from impasto.mars.routing import UniformRouting
from impasto.mars.sampling import SamplingSettings, choose, draw_uniforms
from impasto.mars.semvie import MarsModel
from impasto.nn.kv_cache import KeyValueCache

Part = list[int] | Tensor  # text ids, or the codes of a picture [N]


@dataclass(frozen=True)
class Document:
    """What a model wrote after a prompt: ids of the whole vocabulary in order, markers of pictures included.
    ended: by the model itself, not by a limit."""

    ids: list[int]
    ended: bool

    def parts(self, config: MarsConfig) -> list[Part]:
        """Runs of text as lists, codes of each picture as a tensor. Raises GrammarError for a sequence that
        the grammar does not allow."""
        tokens, grammar = config.tokens, ImageGrammar(config, interleaved=True)
        state, parts = grammar.start, list[Part]()
        run: list[int] = []
        for token in self.ids:
            state = grammar.advance(state, token)
            if token < tokens.text:
                run.append(token)
            elif tokens.is_code(token):
                run.append(token - tokens.text)
            elif tokens.level_of_begin(token) is not None:
                parts += [run] if run else []
                run = []
            else:
                parts.append(torch.tensor(run))
                run = []
        grammar.advance(state, END_OF_SEQUENCE)
        return [*parts, run] if run else parts


@torch.no_grad()
def generate_document(
    model: MarsModel,
    prompt: Sequence[int],
    seed: int,
    *,
    level: int = 0,
    max_words: int = 128,
    max_pictures: int = 1,
    guidance: float = 1.0,
    settings: SamplingSettings | None = None,
) -> Document:
    """What follows a prompt (text ids, at least one), up to the end of text, max_words text tokens or the
    model's context; a picture that would not fit into it is not opened.

    guidance s mixes the logits of codes as u + s (c - u), c of the whole document so far and u of a picture
    that nothing comes before; at 1 the second row is not run. Raises ValueError for an empty prompt.
    """
    if not prompt:
        raise ValueError("the prompt needs at least one token")
    writer = _Writer(model, prompt, seed, level, guidance, settings or SamplingSettings())
    room, length = writer.room(max_words, max_pictures), model.config.image_length(level)
    words = pictures = 0
    while len(writer.ids) < room and words < max_words:
        fits = len(writer.ids) + length + 2 <= room
        token = writer.next_text(may_open=pictures < max_pictures and fits)
        if token == model.config.language.end_of_text:
            return Document(writer.ids, ended=True)
        writer.take(token)
        words += token < model.tokens.text
        if model.tokens.level_of_begin(token) is not None:
            writer.draw()
            pictures += 1
    return Document(writer.ids, ended=False)


class _Writer:
    """One document in the making. With guidance the cache has a second row, in which no text and no earlier
    picture counts."""

    def __init__(
        self,
        model: MarsModel,
        prompt: Sequence[int],
        seed: int,
        level: int,
        guidance: float,
        settings: SamplingSettings,
    ):
        self.model, self.prompt, self.level, self.guidance = model, prompt, level, guidance
        self.settings, self.tokens = settings, model.tokens
        self.grammar = ImageGrammar(model.config, interleaved=True)
        self.state, self.ids = self.grammar.start, list[int]()
        self.seed, self.last = seed, prompt[-1]

    def room(self, max_words: int, max_pictures: int) -> int:
        """How many tokens may follow; the cache is made for as many."""
        model, length = self.model, self.model.config.image_length(self.level)
        asked = max_words + max_pictures * (length + 2)
        room = min(asked, max(model.config.language.context - len(self.prompt), 0))
        move_language(model, model.device)
        rows = [self.prompt[:-1], []] if self.guidance != 1.0 else [self.prompt[:-1]]
        self.cache = KeyValueCache.after(model.text_prefix(rows), room + 1)
        self.uniforms = draw_uniforms([self.seed], room + 1).to(model.device)
        return room

    def next_text(self, *, may_open: bool) -> int:
        """The id that follows, of text or the begin of a picture."""
        hidden, (text, *_) = self._hidden(), self.grammar.allowed(self.state)
        logits = self.model.text_logits_of(hidden[:1], self.level if may_open else None).float()
        chosen = int(choose(logits, self._uniform(), self.settings))
        return chosen if chosen in text else self.tokens.begin(self.level)

    def draw(self) -> None:
        """All codes of a picture that was opened, and its end."""
        for _ in range(self.model.config.image_length(self.level)):
            logits = self.model.code_logits(self._hidden()).float()
            if self.guidance != 1.0:
                logits = torch.lerp(logits[1:], logits[:1], self.guidance)
            (codes,) = self.grammar.allowed(self.state)
            self.take(codes.start + int(choose(logits, self._uniform(), self.settings)))
        (end,) = self.grammar.allowed(self.state)
        self._hidden()
        self.take(end.start)
        self.cache.mask[1:, : self.cache.length] = False  # the next picture has nothing before it

    def take(self, token: int) -> None:
        """Put an id at the end."""
        self.state = self.grammar.advance(self.state, token)
        self.ids.append(token)
        self.last = token

    def _uniform(self) -> Tensor:
        return self.uniforms[:, len(self.ids)]

    def _hidden(self) -> Tensor:
        """Hidden states [rows, width] of the last token, which then is in the cache."""
        visual = self.tokens.is_visual(self.last)
        rows = self.cache.mask.shape[0]
        ids = torch.full((rows, 1), self.last, device=self.model.device)
        counts = torch.ones(rows, 1, dtype=torch.bool, device=self.model.device)
        counts[1:] = visual
        return self.model(ids, UniformRouting(visual), mask=counts, memory=self.cache)[:, -1]
