"""Drawing pictures and captions, token by token, from one key-value cache.

A picture takes one prefill of its caption by the language expert and then N steps of the visual expert alone;
both guidance branches run in one batch. Every picture has its own stream of random numbers, drawn on the CPU,
so that it depends neither on the batch it is drawn in nor on the device.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from impasto.mars.decoding import ImageStep, move_language
from impasto.mars.routing import LANGUAGE_ONLY, Segment, SegmentRouting
from impasto.mars.semvie import MarsModel
from impasto.nn.kv_cache import KeyValueCache, KeyValuePrefix

RowCallback = Callable[[int, Tensor], None]  # (finished row of codes, codes so far [B, (row + 1) * side])


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How a token is drawn. Temperature 0 takes the likeliest; top_k 0 and top_p 1 leave nothing out. The
    defaults are for pictures (notes, section 11, after LlamaGen and Lumina-mGPT)."""

    temperature: float = 1.0
    top_k: int = 1000
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError("sampling needs temperature >= 0, top_k >= 0 and 0 < top_p <= 1")


GREEDY = SamplingSettings(temperature=0.0)


@torch.no_grad()
def generate_images(
    model: MarsModel,
    captions: Sequence[Sequence[int]],
    seeds: Sequence[int],
    *,
    level: int = 0,
    guidance: float = 5.0,
    settings: SamplingSettings | None = None,
    prefix: KeyValuePrefix | None = None,
    on_row: RowCallback | None = None,
    offload_language: bool = False,
    capture: bool = False,
) -> Tensor:
    """Codes [B, N] int64, one picture for each caption (text ids) and seed; equal captions share a prefill.

    guidance s mixes logits as u + s (c - u), u being those of the empty caption; at 1 that branch is not run.
    prefix: keys and values of the captions if they are at hand (`PrefixStore`). on_row is called after each
    row of codes. offload_language moves the language expert to the CPU once the captions are read; the next
    call brings it back. capture: replay one CUDA graph per step, on CUDA alone. Raises ValueError for
    lists that do not fit each other, ConfigError for a level that is not there.
    """
    side, count = model.config.grid(level), model.config.image_length(level)
    check_request(captions, seeds)
    settings = settings or SamplingSettings()
    guided = guidance != 1.0
    branches = prefill(model, captions, guided, prefix)
    if offload_language:
        move_language(model, "cpu")
    uniforms = draw_uniforms(seeds, count).to(model.device)
    step = ImageStep(model, branches, count, capture=capture)
    codes = torch.empty(len(captions), count, dtype=torch.int64, device=model.device)
    rows = len(branches.mask)
    token = torch.full((rows, 1), model.tokens.begin(level), device=model.device)
    for index in range(count):
        logits = step(token).float()
        if guided:
            conditional, unconditional = logits.chunk(2)
            logits = torch.lerp(unconditional, conditional, guidance)
        codes[:, index] = choose(logits, uniforms[:, index], settings)
        token = (codes[:, index : index + 1] + model.tokens.text).repeat(rows // len(codes), 1)
        if on_row is not None and (index + 1) % side == 0:
            on_row(index // side, codes[:, : index + 1])
    return codes


def check_request(captions: Sequence[Sequence[int]], seeds: Sequence[int]) -> None:
    """ValueError unless there are captions and a seed for each."""
    if not captions:
        raise ValueError("no caption given")
    if len(captions) != len(seeds):
        raise ValueError(f"{len(seeds)} seeds for {len(captions)} pictures; give one for each")


def prefill(
    model: MarsModel, captions: Sequence[Sequence[int]], guided: bool, prefix: KeyValuePrefix | None
) -> KeyValuePrefix:
    """Keys and values of all rows: the captions', then with guidance as many empty ones. Raises ValueError
    for a prefix with another number of rows."""
    if prefix is None:
        unique = list(dict.fromkeys(tuple(caption) for caption in captions))
        move_language(model, model.device)
        prefix = model.text_prefix(unique)
        place = {caption: row for row, caption in enumerate(unique)}
        rows = torch.tensor([place[tuple(caption)] for caption in captions], device=model.device)
        prefix = prefix.rows(rows)
    elif len(prefix.mask) != len(captions):
        raise ValueError(f"the prefix has {len(prefix.mask)} rows for {len(captions)} captions")
    if not guided:
        return prefix
    doubled = prefix.rows(torch.arange(len(captions), device=model.device).repeat(2))
    doubled.mask[len(captions) :] = False  # a caption whose every token is padding is an empty one
    return doubled


@torch.no_grad()
def caption_images(
    model: MarsModel,
    codes: Tensor,
    *,
    level: int = 0,
    max_tokens: int = 64,
    settings: SamplingSettings = GREEDY,
    seeds: Sequence[int] | None = None,
    first: Tensor | None = None,
) -> list[list[int]]:
    """Text ids of a caption for each picture, codes [B, N] int64, up to the end of text or max_tokens.

    seeds: one for each picture, needed unless the settings are greedy. first: [V] bool, the text rows that a
    caption may begin with, for instance those of one language. Raises ValueError for codes of another length
    than the level has.
    """
    count = model.config.image_length(level)
    if codes.shape[1] != count:
        raise ValueError(f"codes have shape {tuple(codes.shape)}, expected [B, {count}] at level {level}")
    move_language(model, model.device)
    tokens, batch = model.tokens, len(codes)
    begin, end = (
        torch.full((batch, 1), marker(level), device=model.device) for marker in (tokens.begin, tokens.end)
    )
    ids = torch.cat((begin, codes.to(model.device) + tokens.text, end), dim=1)
    routing = SegmentRouting((Segment(0, count + 1, True), Segment(count + 1, count + 2, False)))
    cache = model.new_cache(batch, count + 2 + max_tokens)
    hidden = model(ids, routing, memory=cache)
    return _continue_text(model, hidden[:, -1], cache, max_tokens, settings, seeds, first)


@torch.no_grad()
def generate_text(
    model: MarsModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int = 64,
    settings: SamplingSettings = GREEDY,
    seeds: Sequence[int] | None = None,
) -> list[list[int]]:
    """What the language model says after each prompt (text ids, at least one each): the base's own text.
    Raises ValueError for an empty prompt, or none."""
    if not prompts or not all(prompts):
        raise ValueError("every prompt needs at least one token")
    move_language(model, model.device)
    # The last token of each prompt is left out of the prefill and makes the first step.
    prefix = model.text_prefix([prompt[:-1] for prompt in prompts])
    cache = KeyValueCache.after(prefix, max_tokens + 1)
    last = torch.tensor([[prompt[-1]] for prompt in prompts], device=model.device)
    hidden = model(last, LANGUAGE_ONLY, memory=cache)
    return _continue_text(model, hidden[:, -1], cache, max_tokens, settings, seeds)


def _continue_text(
    model: MarsModel,
    hidden: Tensor,
    cache: KeyValueCache,
    max_tokens: int,
    settings: SamplingSettings,
    seeds: Sequence[int] | None,
    first: Tensor | None = None,
) -> list[list[int]]:
    """Text after hidden [B, width] until every row has ended; only text rows can be drawn, of those in
    `first` [V] the first token."""
    batch, end = len(hidden), model.config.language.end_of_text
    if settings.temperature > 0 and (seeds is None or len(seeds) != batch):
        raise ValueError(f"drawing {batch} texts needs {batch} seeds, or temperature 0")
    uniforms = draw_uniforms(seeds or [0] * batch, max_tokens).to(model.device)
    written = torch.full((batch, max_tokens), end, device=model.device)
    ended = torch.zeros(batch, dtype=torch.bool, device=model.device)
    for index in range(max_tokens):
        logits = model.text_logits_of(hidden)
        if first is not None and index == 0:
            logits = logits.masked_fill(~first.to(logits.device), float("-inf"))
        chosen = choose(logits, uniforms[:, index], settings)
        written[:, index] = chosen.masked_fill(ended, end)
        ended = ended | (chosen == end)
        if index + 1 == max_tokens or bool(ended.all()):
            break
        hidden = model(written[:, index : index + 1], LANGUAGE_ONLY, memory=cache)[:, -1]
    return [row[: row.index(end)] if end in row else row for row in written.tolist()]


def draw_uniforms(seeds: Sequence[int], count: int) -> Tensor:
    """[B, count] fp64 in [0, 1): one stream a seed, the same whatever the batch."""
    streams = (torch.Generator().manual_seed(seed) for seed in seeds)
    return torch.stack([torch.rand(count, generator=stream, dtype=torch.float64) for stream in streams])


def choose(logits: Tensor, uniforms: Tensor, settings: SamplingSettings) -> Tensor:
    """logits [B, C], uniforms [B] -> [B] int64 by the inverse of the distribution function, in fp64."""
    if settings.temperature == 0:
        return logits.argmax(-1)
    likelihood = kept_probabilities(logits, settings)
    reached = likelihood.cumsum(-1)
    target = uniforms[:, None] * reached[:, -1:]
    return torch.searchsorted(reached, target, right=True)[:, 0].clamp_max(logits.shape[1] - 1)


def kept_probabilities(logits: Tensor, settings: SamplingSettings) -> Tensor:
    """[B, C] fp64 probabilities after temperature, top-k and top-p, zero for what is left out; rows do not
    sum to one. Ties at the edge are kept; the likeliest token always is."""
    logits = logits.double() / settings.temperature
    if 0 < settings.top_k < logits.shape[1]:
        edge = logits.topk(settings.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < edge, float("-inf"))
    likelihood = logits.softmax(-1)
    if settings.top_p < 1:
        ordered = likelihood.sort(-1, descending=True).values
        before = ordered.cumsum(-1) - ordered  # mass of the likelier ones
        edge = ordered.masked_fill(before >= settings.top_p, 2.0).amin(-1, keepdim=True)
        likelihood = likelihood.masked_fill(likelihood < edge, 0.0)
    return likelihood
