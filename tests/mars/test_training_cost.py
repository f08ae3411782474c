"""What a stage of MARS would take, against a count by hand and the same passes made for real."""

from dataclasses import replace

import pytest
import torch

from impasto.cli import main
from impasto.config import ConfigError, override
from impasto.mars import training_cost
from impasto.mars.initial import new_model
from impasto.mars.runs import RUNS, debug_stage1
from impasto.mars.sequence import SequenceBatch
from impasto.mars.training_config import StageRun
from impasto.mars.training_cost import CAPTION, StageCost, project, stage_cost
from impasto.runtime.estimate import Machine, memory_of


def debug_run(*settings: str) -> StageRun:
    return override(debug_stage1(), settings)


@pytest.fixture(scope="module")
def plain() -> StageCost:
    return stage_cost(debug_run())


@pytest.fixture(scope="module")
def quarter() -> StageCost:
    """Of four ranks that hold all of it each."""
    return stage_cost(debug_run(), 4)


def test_parameters_and_operations_are_those_counted_by_hand():
    run = debug_run("training.image_to_text=0")
    cost, model, language = stage_cost(run), new_model(run.model), run.model.language
    assert cost.parameters == sum(p.numel() for p in model.parameters())
    assert cost.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    width, heads = language.width, language.heads * language.head_dim
    keys = language.key_value_heads * language.head_dim
    layer = 2 * width * heads + 2 * width * keys + 3 * width * language.feed_forward
    places = run.image_length + 1  # the begin token and all codes
    attention = 14 * heads * places * (CAPTION + places) + 4 * heads * CAPTION**2
    output = 6 * places * (run.model.visual.codes + 1) * width
    picture = language.layers * ((6 * places + 2 * CAPTION) * layer + attention) + output
    assert cost.flops == 8 * picture


def test_stories_are_counted_as_stories():
    """Sentences and pictures of a story go through the layers in one sequence: attention over all of it."""
    run = RUNS["mars-debug/stories"]()
    cost = stage_cost(run)
    passed = training_cost._pass(training_cost.bare_state(run, new_model(run.model), None), 8)
    count, words = run.training.pictures_per_story, min(CAPTION, run.sentence_length)
    assert isinstance(passed.drawn, SequenceBatch) and passed.described is None and not passed.captions
    places = count * (words + 1 + run.image_length + 1)  # a sentence, begin, codes, end
    assert passed.drawn.tokens.shape == (8 // count, places)
    assert (passed.drawn.image_targets, passed.drawn.word_targets) == (
        8 * (run.image_length + 1),
        8 * (words + 1),
    )
    plain = stage_cost(replace(run, training=replace(run.training, pictures_per_story=0)))
    assert cost.flops > plain.flops and cost.passes == plain.passes == 1
    shared = stage_cost(override(run, ["training.shard_model=true"]), 4)
    assert shared.exchanged_bytes == pytest.approx(0.75 * (2 * cost.weight_bytes + cost.trained_bytes))
    told = "\n".join(project(cost, Machine()).lines())
    assert f"in stories of {count}" in told and f"sentences of {words} tokens" in told


@pytest.mark.parametrize("name", ["stage1", "stage3"])
def test_live_memory_is_that_of_a_real_pass(name, plain):
    found = plain if name == "stage1" else stage_cost(RUNS["mars-debug/stage3"]())
    run = found.run
    state = replace(training_cost._state(run, False), model=new_model(run.model).train())
    one = training_cost._pass(state, 8)

    @torch.enable_grad()
    def passes() -> None:
        training_cost.backward(state, one, one.targets)

    real = [memory_of(passes).peak_bytes for _ in range(2)]
    assert [found.trace.first_bytes, found.trace.again_bytes] == pytest.approx(real, rel=0.02)


@pytest.mark.long
def test_deep_models_are_continued_from_two_depths(monkeypatch):
    run = debug_run("model.language.layers=5")
    continued = stage_cost(run)
    monkeypatch.setattr(training_cost, "DEPTHS", (2, 5))
    whole = stage_cost(run)
    assert continued.flops == whole.flops
    assert continued.peak_bytes == pytest.approx(whole.peak_bytes, rel=0.01)
    assert continued.traffic == pytest.approx(whole.traffic, rel=0.01)


def test_what_saves_memory_and_what_it_costs(plain, quarter):
    again = stage_cost(debug_run("training.checkpoint_activations=true"))
    assert again.trace.again_bytes < plain.trace.again_bytes
    assert plain.flops < again.flops < 1.5 * plain.flops
    halves = stage_cost(debug_run("training.micro_batch=4"))
    assert (halves.passes, quarter.passes, quarter.pictures) == (2, 1, 2)
    assert quarter.trace.again_bytes < halves.trace.again_bytes < plain.trace.again_bytes
    assert quarter.flops < halves.flops / 1.5


def test_shards_hold_less_and_exchange_more(plain, quarter):
    shared = stage_cost(debug_run("training.shard_model=true"), 4)
    assert shared.sharded and shared.kept_bytes == pytest.approx(quarter.kept_bytes / 4)
    assert plain.exchanged_bytes == 0
    assert quarter.exchanged_bytes == pytest.approx(1.5 * quarter.trained_bytes)
    assert shared.exchanged_bytes == pytest.approx(0.75 * (5 * plain.weight_bytes + plain.trained_bytes))


def test_a_projection_adds_up(quarter):
    found = project(quarter, Machine(ranks=4, teraflops=2.0, utilisation=0.5, bandwidth=1.0))
    assert found.computing == pytest.approx(quarter.flops / 1e12)
    assert found.exchanging == pytest.approx(1.5 * quarter.trained_bytes / 1e9)
    assert found.steps == 4
    assert found.days == pytest.approx(4 * (found.computing + found.exchanging) / 86400)
    with pytest.raises(ValueError, match="of 4 ranks"):
        project(quarter, Machine())


def test_the_verb_tells_its_assumptions_and_refuses_what_it_does_not_know(capsys):
    assert main(["estimate", "mars-debug/stage1", "--ranks", "2", "--memory", "0.0001"]) == 0
    printed = capsys.readouterr().out
    assert "Assumed: 2 devices of 156 TFLOP/s used to 30%" in printed and "more than 0.0001" in printed
    assert main(["estimate", "mars-debug/stage1", "--ranks", "3"]) == 2
    assert "should divide among --ranks 3" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="no adapters"):
        stage_cost(debug_run("training.lora_rank=2"))


def test_the_papers_runs_are_the_papers():
    first, second, third = (RUNS[f"mars-7b/stage{stage}"]() for stage in (1, 2, 3))
    assert first.training.tokens // first.image_length == 200_000_000 and first.training.batch == 4096
    assert second.training.tokens // second.image_length == 100_000_000 and second.training.batch == 1536
    assert first.model.image_length(first.level) == 256 and second.image_length == 1024
    assert third.training.tokens // third.image_length == 10_000_000
    assert third.model.picture_positions(third.level) == 1024 + 1024
