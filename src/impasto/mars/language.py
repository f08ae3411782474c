"""A small language model of our own on the captions of a set, scenes or others: the frozen expert of
`mars-nano`.

A training sequence holds several captions of one picture with an end of text after each, so that words
earlier in it are worth attending to; half of the sequences begin with the end of text, as if one came before.
Captions of scenes are of any pairs of colour and shape: what is held out are pictures, and a pretrained
language model has read of all colours and shapes too.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.optim import Optimizer

from impasto.config import ConfigError, to_dict
from impasto.mars.config import MarsConfig, VisualConfig
from impasto.mars.convert import language_state
from impasto.mars.initial import new_model
from impasto.mars.losses import cross_entropy
from impasto.mars.prompts import PromptTokeniser
from impasto.mars.semvie import MarsModel, train_only
from impasto.mars.sequence import IGNORED
from impasto.mars.texts import text_fingerprint
from impasto.mars.training_config import LanguageRun
from impasto.mars.training_state import make_optimizer
from impasto.runtime.checkpoint import load_checkpoint, save_checkpoint
from impasto.runtime.dist import Ranks
from impasto.runtime.guards import Deadline, Graceful, NonFiniteGuard
from impasto.runtime.means import Means
from impasto.runtime.training_state import load_optimizer, optimizer_tensors

ANY_SIDE = 8  # of pictures that are never drawn
VALIDATION_SHIFT = 1  # added to a run's seed, for scenes of their own


class TextSource(Protocol):
    """Captions of an endless order of pictures."""

    def phrasings(self, position: int, count: int) -> list[str]:
        """At most `count` captions of the picture at a position."""
        ...


@dataclass(frozen=True)
class Texts:
    """Captions of the first `pictures` of a source."""

    source: TextSource
    pictures: int


class Recorder(Protocol):
    """What watches a run: writes metrics, checkpoints."""

    def metrics(self, state: "LanguageState", values: dict[str, float], seconds: float) -> None: ...
    def checkpoint(self, state: "LanguageState") -> None: ...
    def tick(self, images: int) -> None: ...


@dataclass
class LanguageState:
    """A run at one moment. `scenes` counts those whose captions were read."""

    run: LanguageRun
    model: MarsModel
    prompts: PromptTokeniser
    optimizer: Optimizer
    guard: NonFiniteGuard
    means: Means
    scenes: int = 0
    last_checkpoint: Path | None = None

    @classmethod
    def fresh(cls, run: LanguageRun, device: torch.device, tokeniser: Tokenizer) -> "LanguageState":
        """Weights from the run's seed. ConfigError if the end of text is not where the tokeniser has it."""
        if run.model.end_of_text != 0:
            raise ConfigError("model.end_of_text should be 0, where a tokeniser that is fitted here has it")
        optimisation = run.training.optimisation
        config = MarsConfig(language=run.model, visual=VisualConfig(codes=2), grids=(1,))
        model = new_model(config, run.training.seed).to(device)
        train_only(model, "language")
        return cls(
            run=run,
            model=model,
            prompts=PromptTokeniser(tokeniser, run.model.vocabulary),
            optimizer=make_optimizer(model, optimisation),
            guard=NonFiniteGuard(optimisation.max_bad_steps, "gradients of the language model"),
            means=Means(),
        )

    def save(self, out: Path) -> Path:
        """Write a checkpoint and return its folder."""
        named = list(self.model.named_parameters())
        moments, options = optimizer_tensors(self.optimizer, named)
        document = {
            "config": to_dict(self.run),
            "scenes": self.scenes,
            "text_tokeniser": text_fingerprint(self.prompts.tokeniser),
            "language_optimizer": options,
            "guard": self.guard.state_dict(),
            "means": self.means.state_dict(),
        }
        tensors = {"language": language_state(self.model), "language_optimizer": moments}
        self.last_checkpoint = save_checkpoint(out, self.scenes, tensors, document)
        return self.last_checkpoint

    def restore(self, checkpoint: Path) -> None:
        """Take up a verified checkpoint of the same run. ConfigError if the text tokeniser has changed."""
        tensors, state = load_checkpoint(checkpoint, verified=True)
        if state["text_tokeniser"] != text_fingerprint(self.prompts.tokeniser):
            raise ConfigError(f"{checkpoint} was trained with another text tokeniser; choose another --out")
        with torch.no_grad():
            for name, tensor in language_state(self.model).items():
                tensor.copy_(tensors["language"][name])
        moments, options = tensors["language_optimizer"], state["language_optimizer"]
        load_optimizer(self.optimizer, self.model.named_parameters(), moments, options, options=False)
        self.guard.load_state_dict(state["guard"])
        self.means.load_state_dict(state["means"])
        self.scenes, self.last_checkpoint = state["scenes"], checkpoint


def train_language(
    state: LanguageState,
    source: TextSource,
    recorder: Recorder,
    *,
    ranks: Ranks,
    deadline: Deadline,
    stop: Graceful,
) -> str:
    """Train until the run's scenes are seen, the deadline has passed or a signal asks to stop; the last
    checkpoint is written in each case. Returns why it ended."""
    config = state.run.training
    reason = "finished"
    while state.scenes < config.scenes:
        started = time.perf_counter()
        step(state, source, ranks)
        recorder.tick(state.scenes)
        if state.scenes % config.log_every == 0:
            recorder.metrics(state, state.means.take(ranks), time.perf_counter() - started)
        ending = ranks.any(stop.requested or deadline.passed)
        if ending:
            reason = stop.reason or "time limit"
        if state.scenes % config.checkpoint_every == 0 or ending or state.scenes >= config.scenes:
            recorder.checkpoint(state)
        if ending:
            break
    return reason


def step(state: LanguageState, source: TextSource, ranks: Ranks) -> None:
    """One update of the language model; ranks share the batch, the loss is a mean over all its words."""
    config = state.run.training
    places = range(state.scenes + ranks.rank, state.scenes + config.batch, ranks.world_size)
    tokens, targets = (t.to(ranks.device) for t in sequences(state, source, places))
    count = torch.tensor(float((targets != IGNORED).sum()), dtype=torch.float64, device=ranks.device)
    share = float(count) / float(ranks.mean_across_ranks(count))
    loss = share * next_word_loss(state.model, tokens, targets)
    loss.backward()
    optimisation = config.optimisation
    trained = [parameter for parameter in state.model.parameters() if parameter.requires_grad]
    ranks.all_reduce_gradients(trained)
    gradients = (parameter.grad for parameter in trained)
    bad = state.guard.clean(gradients, state.scenes, state.last_checkpoint)
    norm = nn.utils.clip_grad_norm_(trained, optimisation.clip)
    rate = optimisation.rate(min((state.scenes + config.batch) / config.scenes, 1.0))
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.means.add({"loss/text": loss, "gradient/language": norm, "rate/language": rate})
    state.means.add({"nonfinite/language": float(bad)})
    state.scenes += config.batch


def sequences(state: LanguageState, source: TextSource, places: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Token ids and next tokens [B, T] int64 of the captions of scenes, padded at the end. What goes beyond
    the model's context is left out."""
    config, end = state.run.training, state.run.model.end_of_text
    rows = []
    for place in places:
        drawn = np.random.default_rng((config.seed, 3, place)).random()
        row = [end] if drawn < 0.5 else []
        for text in source.phrasings(place, config.captions_per_scene):
            row += [*state.prompts.encode(text), end]
        rows.append(row[: state.run.model.context + 1])
    width = max(map(len, rows)) - 1
    tokens = torch.zeros(len(rows), width, dtype=torch.int64)
    targets = torch.full_like(tokens, IGNORED)
    for index, row in enumerate(rows):
        tokens[index, : len(row) - 1] = torch.tensor(row[:-1])
        targets[index, : len(row) - 1] = torch.tensor(row[1:])
    return tokens, targets


def next_word_loss(model: MarsModel, tokens: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of next tokens. Padding stands at the end, behind everything that counts. tokens,
    targets [B, T] int64, IGNORED where nothing counts; a scalar."""
    logits, wanted = model.text_logits(tokens).flatten(0, 1), targets.flatten()
    counted = (wanted != IGNORED).nonzero()[:, 0]
    return cross_entropy(logits.index_select(0, counted), wanted.index_select(0, counted))[0]


@torch.no_grad()
def validate(state: LanguageState, sets: Mapping[str, Texts]) -> dict[str, float]:
    """Loss on captions of pictures never trained on, by suffix of the metric."""
    batch = state.run.training.batch
    values = {}
    for suffix, texts in sets.items():
        total = count = 0.0
        for start in range(0, texts.pictures, batch):
            places = range(start, min(start + batch, texts.pictures))
            tokens, targets = (t.to(state.model.device) for t in sequences(state, texts.source, places))
            number = float((targets != IGNORED).sum())
            total += number * float(next_word_loss(state.model, tokens, targets))
            count += number
        values[f"validation{suffix}/text_token_nll"] = total / count
    return values
