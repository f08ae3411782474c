"""What is measured of a run on stories: likelihoods of stories that it never trains on, and the oracle's
scores of those that the model writes."""

import torch
from torch import Tensor

from impasto.data.stories import StorySource
from impasto.mars.codes import source_of
from impasto.mars.directories import TokenizerPart
from impasto.mars.extraction import extract_codes
from impasto.mars.pipeline import MarsPipeline
from impasto.mars.sequence import interleaved
from impasto.mars.training_config import StageRun
from impasto.mars.validation import SCORE_SHIFT, SUFFIXES, VALIDATION_SHIFT, Mean, Reader
from impasto.mars.writing import Writing
from impasto.metrics.stories import Told, judge_stories

BATCH = 12
WORDS = 48  # tokens of a sentence, at most
SHEET_STORIES = 6


class StoryValidation:
    """Fixed stories of a split. `first`: the first sentences of others, for the model to go on from."""

    def __init__(self, run: StageRun, part: TokenizerPart, split: str):
        self.run, self.suffix = run, SUFFIXES[split]
        training, count = run.training, run.training.pictures_per_story
        told = source_of(run, part, shift=VALIDATION_SHIFT, split=split)
        asked = source_of(run, part, shift=SCORE_SHIFT, split=split)
        assert isinstance(asked, StorySource)
        found = extract_codes(
            part.tokenizer, told, range(max(training.validation_pictures // count, 1) * count)
        )
        codes = torch.from_numpy(found.codes).long().flatten(1)
        self.stories = list(zip(_in_parts(found.captions, count), codes.split(count), strict=True))
        self.first = [asked.sentences(n)[0] for n in range(max(training.sample_prompts // count, 2))]

    @torch.no_grad()
    def likelihoods(self, state: Reader) -> dict[str, float]:
        """Mean negative log-likelihoods in nats, of codes and of words, each given all that came before."""
        image, text = Mean(), Mean()
        for start in range(0, len(self.stories), BATCH):
            documents = [self._document(state, *story) for story in self.stories[start : start + BATCH]]
            batch = interleaved(self.run.model, documents, level=self.run.level, text_targets=True)
            losses = state.model.losses(batch.to(state.model.device))
            image.add(losses.image, losses.image_tokens)
            text.add(losses.text, losses.text_tokens)
        return {
            f"validation{self.suffix}/story_image_token_nll": image.value,
            f"validation{self.suffix}/story_text_token_nll": text.value,
        }

    def scores(self, pipe: MarsPipeline) -> dict[str, float]:
        """How pictures match their sentences, and how often a story ends where stories do."""
        written = self.written(pipe, len(self.first))
        values = {"ended": sum(one.ended for one in written) / len(written)}
        try:
            found = judge_stories([Told(one.whole, one.ended) for one in written])
        except ValueError:  # hardly any opened a picture
            return {f"score{self.suffix}/stories_{name}": value for name, value in values.items()}
        values |= {"match": found.match.mean, "shuffled": found.shuffled.mean}
        return {f"score{self.suffix}/stories_{name}": value for name, value in values.items()}

    def written(self, pipe: MarsPipeline, count: int) -> list[Writing]:
        """What the model makes of the first sentences, with room for one picture more than a story has."""
        most = self.run.training.pictures_per_story + 1
        words, guidance = WORDS * most, pipe.config.guidance
        return [
            pipe.write_document(text, seed=seed, max_words=words, max_pictures=most, guidance=guidance)
            for seed, text in enumerate(self.first[:count])
        ]

    def _document(self, state: Reader, sentences: list[str], codes: Tensor) -> list[list[int] | Tensor]:
        parts: list[list[int] | Tensor] = []
        for text, picture in zip(sentences, codes, strict=True):
            parts += [state.prompts.encode(text)[: self.run.sentence_length], picture]
        return parts


def _in_parts(texts: list[str], count: int) -> list[list[str]]:
    return [texts[start : start + count] for start in range(0, len(texts), count)]
