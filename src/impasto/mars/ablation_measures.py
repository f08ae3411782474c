"""What an ablation measures of a finished run. Every run is asked the same: pictures and prompts come from
the evaluation's own stream, whatever the run's seed."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from impasto.mars.analysis import Drift
from impasto.mars.convert import from_language
from impasto.mars.directories import LanguagePart, TokenizerPart
from impasto.mars.pipeline import MarsPipeline
from impasto.mars.prompts import PromptTokeniser
from impasto.mars.semvie import MarsModel
from impasto.mars.sequence import left_padded
from impasto.mars.training_config import StageRun
from impasto.mars.validation import SUFFIXES, Validation
from impasto.metrics.intervals import bootstrap
from impasto.metrics.scenes import EVALUATION_STREAM, SEEN_SET, UNSEEN_SET, judge, prompt_sets

SIDES = {"train": ("seen", SEEN_SET), "heldout": ("heldout", UNSEEN_SET)}  # split: our name, its prompts'
TEXT_BATCH = 64


@dataclass(frozen=True)
class Reader:
    """A model with the text tokeniser it was trained with."""

    model: MarsModel
    prompts: PromptTokeniser


@torch.no_grad()
def measure_run(
    run: StageRun, folder: Path, language: LanguagePart, tokenizer: TokenizerPart, prompts: int
) -> dict[str, Any]:
    """JSON values of a finished run's folder: likelihoods, the oracle's scores of pictures drawn for
    `prompts` prompts of each split, how many captions of as many pictures are true, residual norms before and
    after training, and how far the text side has moved (ours, after the paper's Table 3 and Figure 5)."""
    pipe = MarsPipeline.from_pretrained(folder / "model")
    trained = Reader(pipe.parts.model, pipe.prompts)
    base = Reader(from_language(language.state, run.model, seed=run.training.seed), pipe.prompts)
    asked = replace(run.training, seed=EVALUATION_STREAM, sample_prompts=prompts)
    sets = prompt_sets(run.data, prompts)
    found: dict[str, dict[str, Any]] = {"image_token_nll": {}, "text_token_nll": {}, "oracle": {}}
    found |= {"captions_true": {}, "text_drift": {}}
    for split, suffix in SUFFIXES.items():
        side, prompt_set = SIDES[split]
        validation = Validation(replace(run, training=asked), tokenizer, split)
        values = validation.likelihoods(trained)
        for name in ("image_token_nll", "text_token_nll"):
            found[name][side] = values[f"validation{suffix}/{name}"]
        found["oracle"][side] = _oracle(pipe, sets[prompt_set])
        found["captions_true"][side] = asdict(bootstrap([float(t) for t in validation.true_captions(pipe)]))
        ids = [ids for ids in map(pipe.prompts.encode, validation.captions) if ids]
        found["text_drift"][side] = text_drift(base.model, trained.model, ids)
        if split == "train":
            before, after = validation.residuals(base), validation.residuals(trained)
            found["residuals"] = {"before": _numbers(before), "after": _numbers(after)}
    return found


def _oracle(pipe: MarsPipeline, prompts: Sequence[str]) -> dict[str, float]:
    score = judge(pipe.generate(prompts, seed=1).pictures(), prompts)
    return {
        **asdict(score.overall),
        "perfect": score.perfect,
        "binding": score.binding,
        "unreadable": score.unreadable / score.pictures,
    }


def _numbers(drift: Drift) -> dict[str, Any]:
    return {
        "text_rms": drift.text_rms.tolist(),
        "image_rms": drift.image_rms.tolist(),
        "largest_image_logit": drift.largest_image_logit,
        "first_entropy": drift.first_entropy,
    }


@torch.no_grad()
def text_drift(base: MarsModel, model: MarsModel, texts: Sequence[Sequence[int]]) -> dict[str, float]:
    """How far the predictions of text by `model` are from those of `base`, token by token of ids that are
    read as text alone: mean divergence KL(base, model) in nats, root mean square and largest difference of
    logits, and the negative log-likelihood of the texts under both. Zero with a language expert of its own.
    Raises ValueError without texts."""
    if not texts:
        raise ValueError("text_drift needs at least one text")
    divergence, squares, largest, places, words = 0.0, 0.0, 0.0, 0, 0
    likelihoods = [0.0, 0.0]
    for start in range(0, len(texts), TEXT_BATCH):
        ids, mask = left_padded(model.tokens, texts[start : start + TEXT_BATCH])
        ids, mask = ids.to(model.device), mask.to(model.device)
        one, two = (both.text_logits(ids, mask).double() for both in (base, model))
        before, after = one.log_softmax(-1)[mask], two.log_softmax(-1)[mask]
        divergence += float((before.exp() * (before - after)).sum())
        difference = (one - two)[mask]
        squares += float(difference.square().mean(-1).sum())
        largest = max(largest, float(difference.abs().max()))
        places += int(mask.sum())
        counts = mask[:, :-1]  # padding is on the left: what follows a token is a token
        words += int(counts.sum())
        for index, logits in enumerate((one, two)):
            likelihoods[index] += _likelihood(logits, ids, counts)
    return {
        "divergence": divergence / places,
        "logit_rms": math.sqrt(squares / places),
        "largest_logit_difference": largest,
        "nll_before": likelihoods[0] / max(words, 1),
        "nll_after": likelihoods[1] / max(words, 1),
    }


def _likelihood(logits: Tensor, ids: Tensor, counts: Tensor) -> float:
    """Sum of the negative log-likelihoods of each next token, where counts [B, T - 1] bool."""
    ahead = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    return float(-ahead[counts].sum())
