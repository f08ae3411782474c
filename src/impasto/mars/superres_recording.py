"""What a run of stage III leaves behind, and what is measured on pictures that it never trains on."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from impasto.data.scene_source import SceneSource
from impasto.data.scenes import score_images
from impasto.data.source import DataSource
from impasto.data.training_set import TrainingSet
from impasto.mars.codes import extract, resolution_of
from impasto.mars.directories import EnlargingConfig, MarsParts, MarsPipelineConfig, TokenizerPart
from impasto.mars.recording import StageRecorder
from impasto.mars.run_folder import RunLog
from impasto.mars.sampling import SamplingSettings
from impasto.mars.semvie import MarsModel
from impasto.mars.superres import generate_high, losses, super_resolution
from impasto.mars.training_config import StageRun
from impasto.mars.training_state import StageState
from impasto.mars.validation import BATCH, SUFFIXES, VALIDATION_SHIFT, Mean, Reader
from impasto.mars.vq import VQTokenizer
from impasto.pictures import contact_sheet, to_images

SHEET_PICTURES, CELL = 6, 128


class EnlargedPictures:
    """Fixed pictures that training never shows, as codes of both resolutions: scenes of a split, or the
    pictures that are held out of a set. The first of them are drawn from their low resolution."""

    def __init__(self, run: StageRun, part: TokenizerPart, split: str, held_out: DataSource | None = None):
        self.run, self.suffix, self.tokenizer = run, SUFFIXES[split], part.tokenizer
        training = run.training
        source: SceneSource | DataSource
        count = training.validation_pictures
        if held_out is None:
            seed = training.seed + VALIDATION_SHIFT
            source = SceneSource(resolution_of(run, part), run.data, seed=seed, split=split)
        else:
            source, count = held_out, min(count, len(held_out))
        found = extract(run, part, source, range(count))
        assert found.low is not None
        self.high, self.low, self.captions = found.codes.long(), found.low.long(), found.captions
        self.pictures = source.batch(range(min(training.sample_prompts, count)))[0]

    @torch.no_grad()
    def likelihood(self, state: Reader) -> float:
        """Mean negative log-likelihood of a high code in nats, given the caption and the true low codes."""
        mean = Mean()
        for start in range(0, len(self.high), BATCH):
            part = slice(start, start + BATCH)
            ids = self._ids(state, self.captions[part])
            batch = super_resolution(self.run.model, ids, self.low[part], self.high[part])
            found = losses(state.model, batch.to(state.model.device))
            mean.add(found.image, found.image_tokens)
        return mean.value

    @torch.no_grad()
    def drawn(
        self, state: Reader, count: int, *, guidance: float = 1.0, settings: SamplingSettings | None = None
    ) -> Tensor:
        """The first `count` pictures [count, 3, R, R], drawn from their true low codes; picture n by stream
        n."""
        codes = []
        for start in range(0, count, BATCH):
            part = slice(start, min(start + BATCH, count))
            ids, seeds = self._ids(state, self.captions[part]), range(part.start, part.stop)
            low = self.low[part]
            codes.append(generate_high(state.model, low, ids, seeds, guidance=guidance, settings=settings))
        return self._decoded(torch.cat(codes))

    def shown_low(self, count: int) -> Tensor:
        """What the low codes of the first `count` pictures look like, [count, 3, r, r]."""
        return self._decoded(self.low[:count])

    def shown_high(self, count: int) -> Tensor:
        """What their true high codes look like: no drawing gets nearer to the real pictures. [count, 3, R,
        R]."""
        return self._decoded(self.high[:count])

    def _decoded(self, codes: Tensor) -> Tensor:
        side = round(codes.shape[1] ** 0.5)
        grid = codes.unflatten(1, (side, side)).to(self.tokenizer.last_layer.device)
        with torch.no_grad():
            return self.tokenizer.decode(grid).cpu()

    def _ids(self, state: Reader, captions: list[str]) -> list[list[int]]:
        return [state.prompts.encode(text)[: self.run.caption_length] for text in captions]


def cascade_config(run: StageRun, base: MarsPipelineConfig) -> MarsPipelineConfig:
    """The whole model that comes of enlarging for `base`. ConfigError where they do not fit each other."""
    return replace(base, enlarging=EnlargingConfig(model=run.model, guidance=run.training.guidance))


class SuperResolutionRecorder(StageRecorder):
    """Of stage III: the whole model holds the base too, so that its folder draws both sizes."""

    def __init__(
        self,
        log: RunLog,
        tokenizer: TokenizerPart,
        state: StageState,
        provenance: Mapping[str, object],
        base: tuple[MarsParts, MarsPipelineConfig],
        pictures: TrainingSet | None = None,
    ):
        """base: the model whose pictures are enlarged. pictures: as of a StageRecorder."""
        self.base, self.base_config = base
        super().__init__(log, tokenizer, state, provenance, pictures)

    def prepare(self, run: StageRun, tokenizer: TokenizerPart, *, watching: bool) -> None:
        splits = self.splits if watching else ()
        self.enlarged = [EnlargedPictures(run, tokenizer, split, self.held_out) for split in splits]

    def parts_of(self, model: MarsModel, tokenizer: VQTokenizer) -> MarsParts:
        return MarsParts(self.base.model, tokenizer, model)

    def config_of(self, run: StageRun, tokenizer: TokenizerPart) -> MarsPipelineConfig:
        return cascade_config(run, self.base_config)

    def measure(self, state: StageState) -> None:
        """Likelihoods; a sheet of low, drawn and real pictures; how far the drawn are from the real, and the
        oracle's scores of them, but for a model that has seen nothing."""
        values: dict[str, float] = {"tokens": state.tokens}
        rows, labels = [], []
        for found in self.enlarged:
            values[f"validation{found.suffix}/image_token_nll"] = found.likelihood(state)
            count = len(found.pictures) if state.images else min(len(found.pictures), SHEET_PICTURES)
            drawn = found.drawn(state, count, guidance=state.run.training.guidance)
            if state.images:
                error = float((drawn - found.pictures).square().mean())
                values[f"validation{found.suffix}/error"] = error
            if state.images and self.has_oracle:
                judged = score_images(to_images(drawn), found.captions[:count])
                values[f"score{found.suffix}/overall"] = float(judged.overall)
                values[f"score{found.suffix}/unreadable"] = judged.unreadable / judged.total
            shown = min(count, SHEET_PICTURES)
            rows += [
                to_images(part) for part in (found.shown_low(shown), drawn[:shown], found.pictures[:shown])
            ]
            labels += ["low resolution", "drawn from it", "real"]
        self.log.sheet(state.images, "sheet", contact_sheet(rows, labels, cell=CELL))
        shown_names = [name for name in values if name.startswith(("score", "validation"))]
        self.log.scores(state.images, values, shown_names)
