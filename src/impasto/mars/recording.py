"""What a run of stage I or II leaves behind: metrics, sheets, checkpoints, the newest whole model."""

from collections.abc import Mapping, Sequence

from impasto.data.training_set import TrainingSet
from impasto.data.training_set import provenance as data_provenance
from impasto.mars.directories import MarsParts, MarsPipelineConfig, TokenizerPart
from impasto.mars.lora import has_adapters, without_adapters
from impasto.mars.pipeline import MarsPipeline
from impasto.mars.run_folder import RunLog
from impasto.mars.story_validation import SHEET_STORIES, StoryValidation
from impasto.mars.training_state import StageState
from impasto.mars.validation import SUFFIXES, Validation
from impasto.pictures import contact_sheet, story_sheet, to_images
from impasto.runtime.sharding import dropped_afterwards, take_part

SHEET_PROMPTS, SHEET_PICTURES, CELL = 6, 4, 96


class StageRecorder:
    """Of a stage. Only the main rank draws and writes; of a sharded model all ranks draw the same, layer by
    layer, and save their rows."""

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
        run = state.run
        config = MarsPipelineConfig(
            model=run.model,
            tokenizer=tokenizer.tokenizer.config,
            level=run.level,
            guidance=run.training.guidance,
        )
        self.validations: Sequence[Validation] = ()
        self.stories: Sequence[StoryValidation] = ()
        self.prompts: list[str] = []
        if log.ranks.is_main or state.shards is not None:
            if run.training.pictures_per_story:
                self.stories = [StoryValidation(run, tokenizer, split) for split in SUFFIXES]
                self.validations = [Validation(run, tokenizer, "train")]
            elif pictures is None:
                self.validations = [Validation(run, tokenizer, split) for split in SUFFIXES]
            else:
                self.validations = [Validation(run, tokenizer, "train", pictures.held_out)]
            each = SHEET_PROMPTS // len(self.validations)
            self.prompts = [prompt for found in self.validations for prompt in found.captions[:each]]
        parts = MarsParts(state.model, tokenizer.tokenizer)
        self.pipe = MarsPipeline(parts, config, state.prompts.tokeniser, name=log.out.name)

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
            self._samples(state)

    def _samples(self, state: StageState) -> None:
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
            take_part(self.pipe.parts.state_dict())
            return
        self.pipe.provenance = {
            **self.provenance,
            "images_seen": state.images,
            "tokens_seen": state.tokens,
            "data": data_provenance(state.run),
            **_of_stories(state.run.training.pictures_per_story),
        }
        self._whole(state).save_pretrained(self.log.out / "model")
        self.log.finish_checkpoint(state.run.training.keep_checkpoints)

    def _takes_part(self, state: StageState) -> bool:
        return self.log.ranks.is_main or state.shards is not None

    def _whole(self, state: StageState) -> MarsPipeline:
        """The pipeline; adapters, if there are any, merged into their layers."""
        pipe = self.pipe
        if not has_adapters(state.model):
            return pipe
        parts = MarsParts(without_adapters(state.model), pipe.parts.tokenizer)
        return MarsPipeline(parts, pipe.config, pipe.tokeniser, name=pipe.name, provenance=pipe.provenance)

    def _describe(self, state: StageState) -> None:
        """A sheet of pictures under what the model says of them."""
        found = self.validations[-1]
        pictures = found.pictures[: len(self.prompts)]
        texts = self.pipe.caption(pictures)
        sheet = contact_sheet([[picture] for picture in to_images(pictures)], texts, cell=4 * CELL)
        self.log.sheet(state.images, "captions", sheet)


def _of_stories(pictures: int) -> dict[str, int]:
    return {"pictures_per_story": pictures} if pictures else {}
