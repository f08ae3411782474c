"""The training loop of the stages. Image tokens are the clock; every random number of a picture is drawn
from (seed, its place), so that a resumed run repeats what an uninterrupted one does, bit for bit on a CPU,
and ranks share a batch without changing it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from impasto.mars.codes import CodeStore
from impasto.mars.initial import calibrate_query_key_norm
from impasto.mars.losses import TokenLosses
from impasto.mars.semvie import MarsModel
from impasto.mars.sequence import SequenceBatch, image_to_text, interleaved, text_to_image
from impasto.mars.superres import SuperResolutionBatch, corrupt, super_resolution
from impasto.mars.superres import losses as super_resolution_losses
from impasto.mars.texts import drop
from impasto.mars.training_state import StageState
from impasto.nn.kv_cache import KeyValuePrefix, join_left_padded
from impasto.runtime.dist import Ranks
from impasto.runtime.guards import Deadline, Graceful
from impasto.runtime.loop import run_steps
from impasto.runtime.sharding import clip_norm, own_rows

CALIBRATED = 32  # pictures at most (ours)


class Recorder(Protocol):
    """What watches a run: writes metrics, samples, checkpoints."""

    def metrics(self, state: StageState, values: dict[str, float], seconds: float) -> None: ...
    def samples(self, state: StageState) -> None: ...
    def checkpoint(self, state: StageState) -> None: ...
    def tick(self, images: int) -> None: ...


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass: pictures to draw, with their captions' ids, and pictures to describe; or
    documents of both, as `drawn`."""

    drawn: SequenceBatch | SuperResolutionBatch
    captions: list[list[int]]
    described: SequenceBatch | None

    @property
    def targets(self) -> list[float]:
        """How many predictions of each kind: of drawn pictures, of words, of pictures to describe."""
        words, pictures = self.drawn.word_targets, 0
        if self.described is not None:
            words, pictures = len(self.described.text_rows), len(self.described.image_rows)
        return [float(self.drawn.image_targets), float(words), float(pictures)]


def train(
    state: StageState,
    pictures: CodeStore,
    recorder: Recorder,
    *,
    ranks: Ranks,
    deadline: Deadline,
    stop: Graceful,
) -> str:
    """Train until the run's tokens are seen, the deadline has passed or a signal asks to stop; the last
    checkpoint is written in each case. Returns why it ended. Raises NonFiniteError after too many bad steps
    in a row, with the last good checkpoint kept."""
    config = state.run.training
    return run_steps(
        lambda: step(state, pictures, ranks),
        lambda: state.tokens,
        lambda: state.means.take(ranks),
        state,
        recorder,
        config,
        end=config.tokens,
        ranks=ranks,
        deadline=deadline,
        stop=stop,
    )


def calibrate_norms(state: StageState, pictures: CodeStore) -> None:
    """Start the visual query and key norms, if the model has them, at the sizes that a first batch meets: the
    same pictures on every rank (section 9 of the notes)."""
    run = state.run
    if not run.model.visual.query_key_norm:
        return
    codes, texts = pictures.batch(range(min(run.training.batch, CALIBRATED)))
    batch = text_to_image(run.model, _captions(state, texts), codes, level=run.level).to(state.model.device)
    calibrate_query_key_norm(state.model, batch.tokens, batch.routing)


def step(state: StageState, pictures: CodeStore, ranks: Ranks) -> None:
    """One update of the visual expert."""
    passes = list(passes_of(state, pictures, ranks))
    counts = torch.tensor([one.targets for one in passes], dtype=torch.float64).sum(0).to(ranks.device)
    totals = ranks.mean_across_ranks(counts).tolist()
    sums: dict[str, Tensor] = {}
    for one in passes:
        for name, value in backward(state, one, totals).items():
            sums[name] = sums.get(name, torch.zeros_like(value)) + value
    state.means.add(sums)
    _update(state, ranks)
    state.images += state.run.training.batch


def backward(state: StageState, one: Pass, totals: Sequence[float]) -> dict[str, Tensor]:
    """Add a pass's share of the gradients: each loss is a mean over its targets in the whole batch, of which
    `totals` gives the numbers (per rank). Returns the shares of the losses. Shares are scalars, by the name
    they are logged under."""
    config, model = state.run.training, state.model
    prefix = caption_prefix(state, one.captions) if one.captions else None
    device = model.device
    # The cache would keep all layers' weights in bf16 through the step, each on every rank.
    casts = {"enabled": config.bfloat16, "cache_enabled": state.shards is None}
    with torch.autocast(device.type, dtype=torch.bfloat16, **casts):
        drawn = _losses(model, one.drawn, prefix)
        assert drawn.image is not None and drawn.image_z is not None
        share = drawn.image_tokens / totals[0]
        terms = {"loss/text_to_image": share * drawn.image}
        total = terms["loss/text_to_image"] + config.z_loss_weight * share * drawn.image_z
        if drawn.text is not None:
            terms["loss/sentences"] = drawn.text_tokens / totals[1] * drawn.text
            total = total + config.text_weight * terms["loss/sentences"]
        if one.described is not None:
            described = model.losses(one.described.to(device))
            assert described.text is not None
            terms["loss/image_to_text"] = described.text_tokens / totals[1] * described.text
            total = total + terms["loss/image_to_text"]
            if described.image is not None:
                terms["loss/image_before_text"] = described.image_tokens / totals[2] * described.image
                total = total + config.image_to_text_image_weight * terms["loss/image_before_text"]
    total.backward()
    return {name: value.detach() for name, value in terms.items()}


def _losses(
    model: MarsModel, drawn: SequenceBatch | SuperResolutionBatch, prefix: KeyValuePrefix | None
) -> TokenLosses:
    if isinstance(drawn, SuperResolutionBatch):
        return super_resolution_losses(model, drawn.to(model.device), prefix)
    return model.losses(drawn.to(model.device), prefix)


def caption_prefix(state: StageState, captions: Sequence[Sequence[int]]) -> KeyValuePrefix | None:
    """Keys and values of captions from the store; None leaves them to the model. On a CPU a caption that is
    not kept is read alone, so that its numbers are those of any other batch, bit for bit."""
    if state.prefixes is None:
        return None
    if state.model.device.type != "cpu":
        return state.prefixes.get(captions)
    wanted = [tuple(caption) for caption in captions]
    single = {caption: state.prefixes.get([caption]) for caption in dict.fromkeys(wanted)}
    return join_left_padded([single[caption] for caption in wanted], state.model.device)


def passes_of(state: StageState, pictures: CodeStore, ranks: Ranks) -> Iterator[Pass]:
    """This rank's part of the batch: of each pass over all ranks, rank r of n takes the places congruent
    to r, and of those the last are described."""
    config, run = state.run.training, state.run
    size = config.micro_batch or config.batch // ranks.world_size
    if config.pictures_per_story:
        yield from _stories(state, pictures, ranks, size // config.pictures_per_story)
        return
    for start in range(state.images, state.images + config.batch, size * ranks.world_size):
        end = start + size * ranks.world_size
        places = list(range(start + ranks.rank, end, ranks.world_size))
        codes, texts = pictures.batch(places)
        captions = _captions(state, texts)
        count = size - config.described(size)
        drops = [_dropped(config.seed, place, config.caption_dropout) for place in places[:count]]
        kept = drop(captions[:count], drops)
        drawn = _drawn(state, pictures, places[:count], kept, codes[:count])
        described = None
        if count < size:
            described = image_to_text(
                run.model,
                captions[count:],
                codes[count:],
                image_targets=config.image_to_text_image_weight > 0,
                level=run.level,
            )
        yield Pass(drawn, kept, described)


def _captions(state: StageState, texts: Sequence[str]) -> list[list[int]]:
    return [state.prompts.encode(text)[: state.run.caption_length] for text in texts]


def _stories(state: StageState, pictures: CodeStore, ranks: Ranks, size: int) -> Iterator[Pass]:
    """As `passes_of`, of `size` stories each: a sentence, its picture, and so on, the first sentence dropped
    from some of them."""
    config, run, count = state.run.training, state.run, state.run.training.pictures_per_story
    first, batch = state.images // count, config.batch // count
    for start in range(first, first + batch, size * ranks.world_size):
        documents = []
        for place in range(start + ranks.rank, start + size * ranks.world_size, ranks.world_size):
            codes, texts = pictures.story(place, count)
            sentences = [state.prompts.encode(text)[: run.sentence_length] for text in texts]
            if _dropped(config.seed, place, config.caption_dropout):
                sentences[0] = []
            documents.append([part for pair in zip(sentences, codes, strict=True) for part in pair])
        yield Pass(interleaved(run.model, documents, level=run.level, text_targets=True), [], None)


def _drawn(
    state: StageState, pictures: CodeStore, places: list[int], captions: list[list[int]], codes: Tensor
) -> SequenceBatch | SuperResolutionBatch:
    """What is to be drawn, of the stage that the run is of."""
    config, run = state.run.training, state.run
    columns = int(state.shards is not None)  # ranks that dropped all captions read some too
    if run.model.super_resolution is None:
        return text_to_image(
            run.model,
            captions,
            codes,
            level=run.level,
            end_token_loss=config.end_token_loss,
            least_columns=columns,
        )
    seeds = [(config.seed, 3, place) for place in places]
    low = corrupt(pictures.low_codes(places), run.model.visual.codes, config.low_corruption, seeds)
    return super_resolution(run.model, captions, low, codes, least_columns=columns)


def _dropped(seed: int, place: int, chance: float) -> bool:
    return bool(np.random.default_rng((seed, 2, place)).random() < chance)


def _update(state: StageState, ranks: Ranks) -> None:
    """Exchange gradients, put zero for what is not finite and count it, clip, step at the present rate."""
    config, run = state.run.training.optimisation, state.run
    trained = [parameter for parameter in state.model.parameters() if parameter.requires_grad]
    bad, norm = _exchange(state, trained, ranks)
    after = state.tokens + run.training.batch * run.image_length
    rate = config.rate(min(after / run.training.tokens, 1.0))
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.means.add({"nonfinite/visual": float(bad), "gradient/visual": norm, "rate/visual": rate})


def _exchange(state: StageState, trained: Sequence[nn.Parameter], ranks: Ranks) -> tuple[int, Tensor]:
    """Average gradients over the ranks, clean and clip them: how many numbers were not finite, the norm."""
    limit, place = state.run.training.optimisation.clip, (state.images, state.last_checkpoint)
    if state.shards is None:
        ranks.all_reduce_gradients(trained)
        bad = state.guard.clean((parameter.grad for parameter in trained), *place)
        return bad, nn.utils.clip_grad_norm_(trained, limit)
    # Averaged in the backward pass; each rank has its rows.
    gradients = [own_rows(parameter.grad) for parameter in trained if parameter.grad is not None]
    bad = state.guard.clean(gradients, *place, total=ranks.total)
    return bad, clip_norm(gradients, limit, ranks)
