"""Numbers about a MARS model: sizes without weights, and the signs of logit drift."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from impasto.mars.config import MarsConfig
from impasto.mars.directories import MarsPipelineConfig
from impasto.mars.initial import empty_model
from impasto.mars.semvie import MarsModel, is_visual
from impasto.mars.sequence import SequenceBatch
from impasto.mars.vq import VQTokenizer
from impasto.nn.precision import at_least_float32

FIRST_TOKENS = 16  # of a picture, whose entropy is watched


@dataclass(frozen=True)
class ModelSize:
    """Parameters: in all, trained, frozen, and by part. `cache_bytes_per_token`: keys and values of one token
    in 16 bit, to be doubled with guidance."""

    parameters: int
    trained: int
    frozen: int
    by_part: dict[str, int]
    cache_bytes_per_token: int
    image_tokenizer: int = 0
    enlarging: int = 0  # visual expert of stage III

    def lines(self) -> list[str]:
        """For people."""
        numbers = {
            "parameters": self.parameters,
            "trained": self.trained,
            "frozen": self.frozen,
            **{f"  {part}": count for part, count in self.by_part.items()},
            "image tokenizer": self.image_tokenizer,
            **({"visual expert that enlarges": self.enlarging} if self.enlarging else {}),
        }
        return [
            *(f"{name:26s}{count:>17,}" for name, count in numbers.items()),
            f"{'cache of a token':26s}{self.cache_bytes_per_token:>17,}   bytes (16 bit)",
            f"{'weights in 16 bit':26s}{2 * self.parameters / 2**30:>17,.2f}   GiB",
        ]


def measure_pipeline(config: MarsPipelineConfig) -> ModelSize:
    """`measure` of the sequence model, and the parameters of image tokenizer and stage III beside it."""
    with torch.device("meta"):
        tokenizer = VQTokenizer(config.tokenizer)
    counted = sum(parameter.numel() for parameter in tokenizer.parameters())
    enlarging = 0 if config.enlarging is None else measure(config.enlarging.model).trained
    return replace(measure(config.model), image_tokenizer=counted, enlarging=enlarging)


def measure(config: MarsConfig) -> ModelSize:
    """Build the model on the meta device and count; allocates nothing."""
    model = empty_model(config)
    parts: dict[str, int] = {}
    trained = 0
    for name, parameter in model.named_parameters():
        side = "visual" if is_visual(name) else "language"
        place = "layers" if name.startswith("layers.") else "vocabulary rows and last norm"
        parts[f"{side} {place}"] = parts.get(f"{side} {place}", 0) + parameter.numel()
        trained += parameter.numel() if parameter.requires_grad else 0
    total = sum(parts.values())
    language = config.language
    cache = 2 * language.layers * language.key_value_heads * language.head_dim * 2
    return ModelSize(total, trained, total - trained, parts, cache)


@dataclass(frozen=True)
class Drift:
    """What to watch for logit drift (section 9 of the notes).

    text_rms, image_rms: root mean square of the residual stream of each modality before every layer and after
    the last, [layers + 1] each (nan without such tokens); largest_image_logit; first_entropy: mean entropy in
    nats of the prediction of the first image tokens.
    """

    text_rms: Tensor
    image_rms: Tensor
    largest_image_logit: float
    first_entropy: float


@torch.no_grad()
def measure_drift(model: MarsModel, batch: SequenceBatch) -> Drift:
    """Run a batch and look at it; padding does not count."""
    batch = batch.to(model.device)
    visual = batch.routing.modality(*batch.tokens.shape).to(model.device)
    squares: dict[bool, list[Tensor]] = {False: [], True: []}

    def observe(_: int, x: Tensor) -> None:
        energy = x.to(at_least_float32(x)).square().mean(-1)
        for side, chosen in ((False, ~visual & batch.mask), (True, visual & batch.mask)):
            squares[side].append(energy[chosen].mean().sqrt())

    mask = batch.mask if batch.left_padded else None
    hidden = model(batch.tokens, batch.routing, mask=mask, positions=batch.positions, observe=observe)
    begins = batch.tokens >= model.tokens.begin(0)
    row, column = begins.nonzero(as_tuple=True)
    largest, entropy = float("nan"), float("nan")
    if len(row):
        count = min(FIRST_TOKENS, model.config.image_length(batch.level))
        places = column[:, None] + torch.arange(count, device=column.device)
        logits = model.code_logits(hidden[row[:, None], places])
        logits = logits.to(at_least_float32(logits))
        likelihood = logits.log_softmax(-1)
        largest = float(logits.abs().max())
        entropy = float(-(likelihood.exp() * likelihood).sum(-1).mean())
    return Drift(torch.stack(squares[False]), torch.stack(squares[True]), largest, entropy)
