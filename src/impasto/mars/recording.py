"""What a run of a stage leaves behind: metrics, sheets, checkpoints, the newest whole model."""

from collections.abc import Mapping, Sequence

from impasto.data.training_set import TrainingSet
from impasto.data.training_set import provenance as data_provenance
from impasto.mars.directories import MarsParts, MarsPipelineConfig, TokenizerPart
from impasto.mars.lora import has_adapters, without_adapters
from impasto.mars.pipeline import MarsPipeline
from impasto.mars.run_folder import RunLog
from impasto.mars.semvie import MarsModel
from impasto.mars.story_validation import SHEET_STORIES, StoryValidation
from impasto.mars.training_config import StageRun
from impasto.mars.training_state import StageState
from impasto.mars.validation import SUFFIXES, Validation
from impasto.mars.vq import VQTokenizer
from impasto.pictures import contact_sheet, story_sheet, to_images
from impasto.runtime.sharding import dropped_afterwards, take_part

SHEET_PROMPTS, SHEET_PICTURES, CELL = 6, 4, 96


class StageRecorder:
    """Of stage I or II. Only the main rank draws and writes; of a sharded model all ranks draw the same,
    layer by layer, and save their rows."""

    def __init__(
        self,
        log: RunLog,
        tokenizer: TokenizerPart,
        state: StageState,
        provenance: Mapping[str, object],
        pictures: TrainingSet | None = None,
    ):
        """pictures: the set that is trained on, where it is not the endless scenes."""
        self.log, self.provenance = log, dict(provenance)
        self.has_oracle = pictures is None or pictures.format == "scenes"
        self.splits = tuple(SUFFIXES) if pictures is None else ("train",)
        self.held_out = None if pictures is None else pictures.held_out
        self.pipe = self._whole(state, tokenizer)
        self.prepare(state.run, tokenizer, watching=self._takes_part(state))

    def prepare(self, run: StageRun, tokenizer: TokenizerPart, *, watching: bool) -> None:
        """Fix what samples are of, on the ranks that draw them."""
        self.validations: Sequence[Validation] = ()
        self.stories: Sequence[StoryValidation] = ()
        self.prompts: list[str] = []
        if watching:
            splits = self.splits
            if run.training.pictures_per_story:
                self.stories = [StoryValidation(run, tokenizer, split) for split in SUFFIXES]
                splits = splits[:1]
            self.validations = [Validation(run, tokenizer, split, self.held_out) for split in splits]
            each = SHEET_PROMPTS // len(self.validations)
            self.prompts = [prompt for found in self.validations for prompt in found.captions[:each]]

    def tick(self, images: int) -> None:
        self.log.display.tick(images)

    def metrics(self, state: StageState, values: dict[str, float], seconds: float) -> None:
        self.log.metrics(state.images, {"tokens": state.tokens, **values}, seconds)

    def samples(self, state: StageState) -> None:
        """Likelihoods and residual norms; a sheet of the fixed prompts; the oracle's scores, but for a model
        that has seen nothing."""
        if not self._takes_part(state):
            return
        with dropped_afterwards(state.model):
            self.measure(state)

    def measure(self, state: StageState) -> None:
        """What `samples` promises, with whatever is gathered dropped afterwards."""
        values: dict[str, float] = {"tokens": state.tokens}
        for found in self.validations:
            values |= found.likelihoods(state)
        for stories in self.stories:
            values |= stories.likelihoods(state)
        values |= self.validations[0].drift(state)
        pictures = self.pipe.generate(self.prompts, SHEET_PICTURES, seed=0).pictures()
        rows = [pictures[n : n + SHEET_PICTURES] for n in range(0, len(pictures), SHEET_PICTURES)]
        self.log.sheet(state.images, "sheet", contact_sheet(rows, self.prompts, cell=CELL))
        if state.images:
            for found in self.validations if self.has_oracle else ():
                values |= found.scores(self.pipe)
            for stories in self.stories:
                values |= stories.scores(self.pipe)
            if state.run.training.image_to_text:
                self._describe(state)
            if self.stories:
                written = [
                    w.whole for found in self.stories for w in found.written(self.pipe, SHEET_STORIES // 2)
                ]
                self.log.sheet(state.images, "stories", story_sheet(written))
        shown = [name for name in values if name.startswith(("score", "validation/"))]
        self.log.scores(state.images, values, shown)

    def checkpoint(self, state: StageState) -> None:
        """Save, delete what is older than needed, export the whole model."""
        if not self._takes_part(state):
            return
        self.log.sync()
        state.save(self.log.out)
        if not self.log.ranks.is_main:
            take_part(self.pipe.parts.saved_state())
            return
        merged = state.model if not has_adapters(state.model) else without_adapters(state.model)
        parts = self.parts_of(merged, self.pipe.parts.tokenizer)
        provenance = {
            **self.provenance,
            "images_seen": state.images,
            "tokens_seen": state.tokens,
            "data": data_provenance(state.run),
            **_of_stories(state.run.training.pictures_per_story),
        }
        pipe = MarsPipeline(
            parts, self.pipe.config, self.pipe.tokeniser, name=self.pipe.name, provenance=provenance
        )
        pipe.save_pretrained(self.log.out / "model")
        self.log.finish_checkpoint(state.run.training.keep_checkpoints)

    def _takes_part(self, state: StageState) -> bool:
        return self.log.ranks.is_main or state.shards is not None

    def parts_of(self, model: MarsModel, tokenizer: VQTokenizer) -> MarsParts:
        """The networks of the whole model, of which `model` is the one in training."""
        return MarsParts(model, tokenizer)

    def config_of(self, run: StageRun, tokenizer: TokenizerPart) -> MarsPipelineConfig:
        """The whole model's configuration."""
        return MarsPipelineConfig(
            model=run.model,
            tokenizer=tokenizer.tokenizer.config,
            level=run.level,
            guidance=run.training.guidance,
        )

    def _whole(self, state: StageState, tokenizer: TokenizerPart) -> MarsPipeline:
        parts = self.parts_of(state.model, tokenizer.tokenizer)
        config = self.config_of(state.run, tokenizer)
        return MarsPipeline(parts, config, state.prompts.tokeniser, name=self.log.out.name)

    def _describe(self, state: StageState) -> None:
        """A sheet of pictures under what the model says of them."""
        found = self.validations[-1]
        pictures = found.pictures[: len(self.prompts)]
        texts = self.pipe.caption(pictures)
        sheet = contact_sheet([[picture] for picture in to_images(pictures)], texts, cell=4 * CELL)
        self.log.sheet(state.images, "captions", sheet)


def _of_stories(pictures: int) -> dict[str, int]:
    return {"pictures_per_story": pictures} if pictures else {}
