"""First weights: the visual expert as a copy of the language expert, the new rows around the mean row.

Section 15 of the notes: copies for QKV, W_O and FFN (inferred; peers CogVLM and LMFusion), new embedding rows
at the mean of the text rows (paper), new head rows likewise (peer: QLIP), plus a little noise (ours) and, if
asked for, the tokenizer's codebook (ours).
"""

import torch
from torch import Tensor, nn

from impasto.mars.config import MarsConfig
from impasto.mars.layers import Expert, RMSNorm
from impasto.mars.routing import Routing
from impasto.mars.semvie import MarsModel, is_visual
from impasto.nn.rotary import root_mean_square

STATISTICS_ROWS = 8192  # rows of a table that are widened to fp64 at a time
WEIGHT_DEVIATION = 0.02  # of a language model made here (Qwen2's and Llama's initializer_range)


def new_model(config: MarsConfig, seed: int = 0) -> MarsModel:
    """A model with random language weights and the visual expert copied from them; the same for the same
    seed. Its language is for training (`train_only`), or for tests."""
    model = empty_model(config).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, RMSNorm):
                module.weight.fill_(1)
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, WEIGHT_DEVIATION, generator=generator)
            elif name.endswith(".bias"):
                parameter.zero_()
    start_visual_from_language(model, seed=seed)
    return model


def empty_model(config: MarsConfig) -> MarsModel:
    """The model's shapes on the meta device: no memory, no numbers."""
    with torch.device("meta"):
        return MarsModel(config)


@torch.no_grad()
def start_visual_from_language(model: MarsModel, *, seed: int = 0) -> None:
    """Set every visual tensor to its first value, in place, from the language weights as they are now. With
    experts="shared" layer weights stay as they are: they are the language model's already."""
    for layer in model.layers:
        _copy_expert(layer.language, layer.visual)
    if model.visual.norm is not None and model.language.norm is not None:
        model.visual.norm.weight.copy_(model.language.norm.weight)
    noise = model.config.visual.initial_noise
    generator = torch.Generator().manual_seed(seed)
    for rows, text_rows in _row_pairs(model):
        rows.copy_(rows_like(text_rows, len(rows), noise, generator))
    start_blocks(model, seed=seed)


def start_blocks(model: MarsModel, *, seed: int = 0) -> None:
    """Set what stage III adds, if the model has it, to its first values, from the visual rows as they are."""
    if model.blocks is not None:
        codes = model.tokens.codes
        model.blocks.start(model.visual.embedding.weight[:codes], model.visual.output_rows[:codes], seed)


@torch.no_grad()
def carry_codebook(model: MarsModel, codebook: Tensor, *, seed: int = 0) -> None:
    """Add the tokenizer's own vectors, `codebook` [codes, D], to the embedding and output rows of the codes,
    so that codes that look alike start alike and their kinship need not be learned (ours).

    Their deviations from their mean are turned into the width by random orthonormal directions, others for
    embeddings than for outputs, at a length of `visual.initial_codebook` standard deviations of the text
    rows. ValueError for another number of vectors.
    """
    share, codes = model.config.visual.initial_codebook, model.tokens.codes
    if len(codebook) != codes:
        raise ValueError(f"a codebook of {len(codebook)} vectors for a model of {codes} codes")
    if not share:
        return
    vectors = codebook.detach().float().cpu()
    vectors = vectors - vectors.mean(0)
    vectors = vectors / vectors.square().sum(1).mean().sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    generator = torch.Generator().manual_seed(seed)
    for rows, text_rows in _row_pairs(model):
        directions = torch.empty(vectors.shape[1], rows.shape[1])
        nn.init.orthogonal_(directions, generator=generator)
        length = share * _row_statistics(text_rows)[1].square().sum().sqrt()
        rows[:codes] += (length.cpu() * vectors @ directions).to(rows)
    start_blocks(model, seed=seed)


def _row_pairs(model: MarsModel) -> tuple[tuple[Tensor, Tensor], ...]:
    """Visual rows with the text rows that they start from: embeddings, outputs."""
    return (
        (model.visual.embedding.weight, model.language.embedding.weight),
        (model.visual.output_rows, model.language.output_rows),
    )


def _copy_expert(source: Expert, target: Expert) -> None:
    values = dict(source.named_parameters())
    for name, parameter in target.named_parameters():
        if name in values:
            parameter.copy_(values[name])
        elif "query_norm" in name or "key_norm" in name:
            parameter.fill_(1)


def rows_like(text_rows: Tensor, count: int, noise: float, generator: torch.Generator) -> Tensor:
    """[count, width] of the mean of `text_rows` plus `noise` of its standard deviations, channel by channel.
    The noise is drawn on the CPU."""
    mean, deviation = _row_statistics(text_rows)
    rows = mean.expand(count, -1)
    if noise:
        drawn = torch.randn(count, text_rows.shape[1], generator=generator).to(mean.device)
        rows = rows + noise * deviation * drawn
    return rows.to(text_rows.dtype)


def _row_statistics(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, summed in fp64 a slice at a time."""
    total = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    squares = torch.zeros_like(total)
    for part in rows.split(STATISTICS_ROWS):
        total += part.double().sum(0)
    mean = total / len(rows)
    for part in rows.split(STATISTICS_ROWS):
        squares += (part.double() - mean).square().sum(0)
    return mean, (squares / len(rows)).sqrt()


@torch.no_grad()
def calibrate_query_key_norm(model: MarsModel, tokens: Tensor, routing: Routing) -> None:
    """Set the gains of the visual query and key norms to the root mean squares they meet, layer by layer, so
    that switching them on changes the function as little as one number per layer allows.

    tokens [B, T] int64: a typical batch. Raises ValueError without visual.query_key_norm.
    """
    if not model.config.visual.query_key_norm:
        raise ValueError("the model has no query_key_norm to calibrate")

    def set_gain(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, RMSNorm)
        module.weight.fill_(float(root_mean_square(inputs[0]).mean()))

    handles = [
        module.register_forward_pre_hook(set_gain)
        for name, module in model.named_modules()
        if is_visual(name) and name.endswith(("query_norm", "key_norm"))
    ]
    try:
        model(tokens, routing)
    finally:
        for handle in handles:
            handle.remove()
