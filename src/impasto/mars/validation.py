"""What is measured on pictures that a run never trains on: likelihoods, residual norms and, on scenes, the
oracle's scores."""

from typing import Protocol

import torch
from torch import Tensor

from impasto.data.scene_source import SceneSource
from impasto.data.scenes import score_images
from impasto.data.source import DataSource
from impasto.mars.analysis import Drift, measure_drift
from impasto.mars.codes import resolution_of
from impasto.mars.directories import TokenizerPart
from impasto.mars.extraction import extract_codes
from impasto.mars.pipeline import MarsPipeline
from impasto.mars.prompts import PromptTokeniser
from impasto.mars.semvie import MarsModel
from impasto.mars.sequence import SequenceBatch, image_to_text, text_to_image
from impasto.mars.training_config import StageRun
from impasto.metrics.scene_captions import is_true
from impasto.pictures import to_images

SUFFIXES = {"train": "", "heldout": "_heldout"}  # split of the scenes: suffix of the metric
BATCH = 32
VALIDATION_SHIFT, SCORE_SHIFT = 1, 2  # added to a run's seed, for scenes of their own


class Reader(Protocol):
    """A model and what turns texts into its ids: the state of a run is one."""

    @property
    def model(self) -> MarsModel: ...
    @property
    def prompts(self) -> PromptTokeniser: ...


class Validation:
    """Fixed pictures that training never shows, their codes, and prompts for the oracle: scenes of a split,
    or the pictures that are held out of a set."""

    def __init__(self, run: StageRun, part: TokenizerPart, split: str, held_out: DataSource | None = None):
        self.run, self.suffix = run, SUFFIXES[split]
        side, training = resolution_of(run, part), run.training
        source: SceneSource | DataSource
        asked: SceneSource | DataSource
        count, prompts = training.validation_pictures, training.sample_prompts
        if held_out is None:
            source = SceneSource(side, run.data, seed=training.seed + VALIDATION_SHIFT, split=split)
            asked = SceneSource(side, run.data, seed=training.seed + SCORE_SHIFT, split=split)
        else:
            source = asked = held_out
            count, prompts = min(count, len(held_out)), min(prompts, len(held_out))
        extracted = extract_codes(part.tokenizer, source, range(count))
        self.codes = torch.from_numpy(extracted.codes).long().flatten(1)
        self.captions = extracted.captions
        self.prompts = [asked.phrasings(n, 1)[0] for n in range(prompts)]
        self.pictures = asked.batch(range(prompts))[0]

    @torch.no_grad()
    def likelihoods(self, state: Reader) -> dict[str, float]:
        """Mean negative log-likelihoods in nats, of codes given captions and of words given pictures. The end
        of a picture is known and does not count."""
        image, text = Mean(), Mean()
        for start in range(0, len(self.codes), BATCH):
            codes, captions = self.codes[start : start + BATCH], self._captions(state, start)
            level, device = self.run.level, state.model.device
            drawn = text_to_image(self.run.model, captions, codes, level=level, end_token_loss=False)
            losses = state.model.losses(drawn.to(device))
            image.add(losses.image, losses.image_tokens)
            losses = state.model.losses(
                image_to_text(self.run.model, captions, codes, level=level).to(device)
            )
            text.add(losses.text, losses.text_tokens)
        return {
            f"validation{self.suffix}/image_token_nll": image.value,
            f"validation{self.suffix}/text_token_nll": text.value,
        }

    def drift(self, state: Reader) -> dict[str, float]:
        """Root mean squares of the residual stream by modality and depth, and the signs of drift."""
        found = self.residuals(state)
        return {**_residuals(found), "drift/first_entropy": found.first_entropy} | {
            "drift/largest_image_logit": found.largest_image_logit
        }

    def residuals(self, state: Reader) -> Drift:
        """`measure_drift` on the first pictures and their captions."""
        return measure_drift(state.model, self._drawn(state))

    def scores(self, pipe: MarsPipeline) -> dict[str, float]:
        """The oracle's: of pictures drawn for prompts, and how many captions of true pictures are true."""
        pictures = pipe.generate(self.prompts, seed=1, batch_size=BATCH).pictures()
        judged = score_images(pictures, self.prompts)
        values = {"overall": judged.overall, "unreadable": judged.unreadable / judged.total}
        if self.run.training.image_to_text:
            true = self.true_captions(pipe)
            values["captions_true"] = sum(true) / len(true)
        return {f"score{self.suffix}/{name}": float(value) for name, value in values.items()}

    def true_captions(self, pipe: MarsPipeline) -> list[bool]:
        """Of each picture that a prompt was taken from: whether what the model says of it holds."""
        texts = pipe.caption(self.pictures)
        return [is_true(text, shown) for text, shown in zip(texts, to_images(self.pictures), strict=True)]

    def _captions(self, state: Reader, start: int) -> list[list[int]]:
        texts = self.captions[start : start + BATCH]
        return [state.prompts.encode(text)[: self.run.caption_length] for text in texts]

    def _drawn(self, state: Reader) -> SequenceBatch:
        captions = self._captions(state, 0)
        return text_to_image(self.run.model, captions, self.codes[:BATCH], level=self.run.level)


class Mean:
    """Of values that are means over so many targets each."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def add(self, mean: Tensor | None, count: int) -> None:
        """A mean over `count` targets; None adds nothing."""
        if mean is not None:
            self.total += float(mean) * count
            self.count += count

    @property
    def value(self) -> float:
        """The mean over all targets; 0 without any."""
        return self.total / max(self.count, 1)


def _residuals(drift: Drift) -> dict[str, float]:
    return {
        f"residual/{side}/{depth}": float(value)
        for side, values in (("text", drift.text_rms), ("image", drift.image_rms))
        for depth, value in enumerate(values)
    }
