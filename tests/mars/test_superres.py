"""Stage III as mathematics: blocks, what predicts what, and that drawing does what training promised."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from impasto.config import ConfigError, override
from impasto.mars.blocks import BlockGeometry
from impasto.mars.config import MarsConfig, SuperResolutionConfig
from impasto.mars.convert import go_on_from, visual_state
from impasto.mars.directories import MarsPipelineConfig
from impasto.mars.initial import new_model, start_blocks
from impasto.mars.runs import RUNS
from impasto.mars.sampling import GREEDY
from impasto.mars.semvie import MarsModel, is_visual
from impasto.mars.sequence import left_padded, visual_positions
from impasto.mars.superres import block_logits, corrupt, generate_high, losses, super_resolution
from tests.mars.models import CODES, captions, random_codes, scatter, tiny_config, tiny_model

LOW, HIGH = 3, 6
SEEDS = [1, 2, 3, 4]


def stage_config(count: int, head: str, *, anchor: bool = True, grids=(LOW, HIGH)) -> MarsConfig:
    blocks = SuperResolutionConfig(tokens_per_step=count, head=head, anchor=anchor)
    return replace(tiny_config(), grids=grids, super_resolution=blocks)


def stage_model(count: int = 4, head: str = "block", **options) -> MarsModel:
    """Every weight off its first value, in fp64."""
    model = new_model(stage_config(count, head, **options))
    scatter(model, 0.15, 1)
    return model.eval().double()


def pictures(grids=(LOW, HIGH)) -> tuple[torch.Tensor, torch.Tensor]:
    """Low and high codes of four pictures."""
    return random_codes(4, 5, grids[0] ** 2), random_codes(4, 6, grids[1] ** 2)


@pytest.mark.parametrize(("low", "high", "block"), [(3, 6, 2), (2, 8, 4), (2, 8, 2), (3, 6, 1), (1, 4, 4)])
def test_blocks_are_squares_inside_one_low_code(low, high, block):
    geometry = BlockGeometry(low, high, block)
    codes = torch.arange(2 * high * high).view(2, -1)
    blocks = geometry.to_blocks(codes)
    assert blocks.shape == (2, geometry.steps, block * block)
    assert torch.equal(geometry.from_blocks(blocks), codes)
    for step, (owner, one) in enumerate(zip(geometry.owners().tolist(), blocks[0], strict=True)):
        rows, columns = one // high, one % high
        assert rows.unique().numel() == columns.unique().numel() == block
        assert one.tolist() == sorted(one.tolist())
        ratio = high // low
        assert ((rows // ratio) * low + columns // ratio).unique().tolist() == [owner]
        assert (rows[0] // block) * (high // block) + columns[0] // block == step


def test_one_code_a_step_is_next_token_prediction():
    """K = 1, an independent head and no anchor: the plain model on the same sequence."""
    model = stage_model(1, "independent", anchor=False)
    low, high = pictures()
    with torch.no_grad():
        model.blocks.head.rows.copy_(model.visual.output_rows[None, :CODES])
    batch = super_resolution(model.config, captions(), low, high)
    tokens = model.tokens
    text, mask = left_padded(tokens, captions())
    begin, end, begin_high = (
        torch.full((4, 1), marker) for marker in (tokens.begin(0), tokens.end(0), tokens.begin(1))
    )
    ids = torch.cat((text, begin, low + tokens.text, end, begin_high, high[:, :-1] + tokens.text), dim=1)
    mask = F.pad(mask, (0, ids.shape[1] - mask.shape[1]), value=True)
    hidden = model(ids, visual_positions(tokens, ids), mask=mask)
    plain = model.code_logits(hidden[:, -HIGH * HIGH :])
    logits, codes = block_logits(model, batch)
    torch.testing.assert_close(logits[:, 0].unflatten(0, (4, -1)), plain, rtol=0, atol=1e-11)
    assert torch.equal(codes.view(4, -1), high)
    loss = F.cross_entropy(plain.flatten(0, 1), high.flatten())
    torch.testing.assert_close(losses(model, batch).image, loss, rtol=0, atol=1e-12)


def test_stage_three_starts_as_stage_two():
    """Heads are copies of the visual head, the block head adds nothing, a step reads averages."""
    base = tiny_model()
    for head in ("independent", "block"):
        model = new_model(stage_config(4, head), seed=3)
        go_on_from(model, base, seed=3)
        assert all(torch.equal(visual_state(model)[name], t) for name, t in visual_state(base).items())
        hidden, earlier = torch.randn(5, 48), torch.randn(5, 3, 48)
        expected = base.code_logits(hidden)[:, None].expand(5, 4, CODES)
        torch.testing.assert_close(model.blocks.head(hidden, earlier), expected, rtol=1e-5, atol=1e-5)
        block = torch.randn(1, 2, 4, 48)
        torch.testing.assert_close(model.blocks.input.merge(block), block.mean(2), rtol=1e-5, atol=1e-5)
    again = new_model(stage_config(4, "block"), seed=3)
    go_on_from(again, base, seed=3)
    assert all(torch.equal(one, two) for one, two in zip(again.parameters(), model.parameters(), strict=True))
    finished = new_model(stage_config(4, "block"), seed=4)
    go_on_from(finished, again)
    assert all(
        torch.equal(one, two)
        for one, two in zip(again.blocks.parameters(), finished.blocks.parameters(), strict=True)
    )


@pytest.mark.parametrize("head", ["block", "independent"])
def test_what_a_code_is_predicted_from(head):
    """All blocks before its own, all low codes, and in its own block, by the block head, the codes before."""
    model = stage_model(4, head)
    low, high = pictures()
    geometry = BlockGeometry.of(model.config)

    def logits(low, blocks):
        high = geometry.from_blocks(blocks)
        return block_logits(model, super_resolution(model.config, captions(), low, high))[0].unflatten(
            0, (4, -1)
        )

    blocks = geometry.to_blocks(high)
    before = logits(low, blocks)
    changed = blocks.clone()
    changed[:, 4, 1] = (changed[:, 4, 1] + 1) % CODES
    after = logits(low, changed)
    differs = (before != after).any(-1).any(0)  # [S, K]
    assert not differs[:4].any() and differs[5:].all()
    assert differs[4].tolist() == ([False, False, True, True] if head == "block" else [False] * 4)
    other = low.clone()
    other[:, -1] = (other[:, -1] + 1) % CODES
    assert (before != logits(other, blocks)).any(-1).all()


def test_only_what_is_visual_is_trained():
    model = stage_model()
    low, high = pictures()
    losses(model, super_resolution(model.config, captions(), low, high)).image.backward()
    names = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert all(map(is_visual, names))
    assert {name for name, _ in model.named_parameters() if name.startswith("blocks.")} <= names
    assert all(parameter.requires_grad == is_visual(name) for name, parameter in model.named_parameters())


@pytest.mark.parametrize(
    ("count", "head", "anchor", "grids"),
    [
        (4, "block", True, (LOW, HIGH)),
        (4, "independent", False, (LOW, HIGH)),
        (1, "independent", False, (LOW, HIGH)),
        (1, "block", True, (2, 4)),
        (16, "block", True, (2, 8)),
        (4, "block", True, (2, 8)),
    ],
)
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_cached_steps_are_the_full_pass(count, head, anchor, grids, guidance):
    """The likeliest codes, drawn one step at a time, are the likeliest of one pass over all of them."""
    model = stage_model(count, head, anchor=anchor, grids=grids)
    low, _ = pictures(grids)
    drawn = generate_high(model, low, captions(), SEEDS, guidance=guidance, settings=GREEDY)
    with torch.no_grad():
        logits, codes = block_logits(model, super_resolution(model.config, captions(), low, drawn))
        empty, _ = block_logits(model, super_resolution(model.config, [[]] * 4, low, drawn))
    assert torch.equal(torch.lerp(empty, logits, guidance).argmax(-1), codes)
    assert len(drawn.unique()) > 1


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_picture_does_not_depend_on_its_batch(guidance):
    model, (low, _) = stage_model(), pictures()
    together = generate_high(model, low, captions(), SEEDS, guidance=guidance)
    for row, (caption, seed) in enumerate(zip(captions(), SEEDS, strict=True)):
        alone = generate_high(model, low[row : row + 1], [caption], [seed], guidance=guidance)
        assert torch.equal(alone[0], together[row])
    other = generate_high(model, low, captions(), [seed + 9 for seed in SEEDS], guidance=guidance)
    assert not torch.equal(other, together)


def test_drawing_takes_its_language_from_where_it_is():
    """A prefix at hand, or a language expert that goes once it has read, changes nothing."""
    model, (low, _) = stage_model(), pictures()
    expected = generate_high(model, low, captions(), SEEDS)
    prefix = model.text_prefix(captions())
    assert torch.equal(generate_high(model, low, captions(), SEEDS, prefix=prefix), expected)
    assert torch.equal(generate_high(model, low, captions(), SEEDS, offload_language=True), expected)


def test_corruption_is_of_the_row_alone():
    low = random_codes(40, 3, 256)
    seeds = [(7, place) for place in range(40)]
    spoiled = corrupt(low, CODES, 0.1, seeds)
    assert 0.07 < float((spoiled != low).float().mean()) < 0.12  # one in CODES draws the code that was there
    assert torch.equal(corrupt(low[5:6], CODES, 0.1, seeds[5:6]), spoiled[5:6])
    assert torch.equal(corrupt(low, CODES, 0.0, seeds), low)
    assert int(spoiled.min()) >= 0 and int(spoiled.max()) < CODES


def test_what_cannot_be_is_refused():
    low, high = pictures()
    with pytest.raises(ConfigError, match="should be 1, 4 or 16"):
        SuperResolutionConfig(tokens_per_step=9)
    with pytest.raises(ConfigError, match="multiple of 2"):
        stage_config(4, "block", grids=(4, 6))
    with pytest.raises(ConfigError, match="multiple of 4"):
        stage_config(16, "block")
    with pytest.raises(ConfigError, match="experts=split"):
        override(stage_config(4, "block"), ["visual.experts=shared"])
    with pytest.raises(ValueError, match="no super_resolution"):
        model = tiny_model()
        replaced = replace(model.config, grids=(LOW, HIGH), super_resolution=SuperResolutionConfig())
        model.config = replaced
        losses(model, super_resolution(replaced, captions(), low, high))
    with pytest.raises(ValueError, match="expected"):
        super_resolution(stage_config(4, "block"), captions(), high, high)
    with pytest.raises(ValueError, match="seeds for"):
        generate_high(stage_model(), low, captions(), [1])
    stage = RUNS["mars-debug/stage3"]()
    with pytest.raises(ConfigError, match="image_to_text should be 0"):
        override(stage, ["training.image_to_text=0.2"])
    with pytest.raises(ConfigError, match="level=0 should be 1"):
        override(stage, ["level=0"])
    with pytest.raises(ConfigError, match="super_resolution"):
        MarsPipelineConfig(model=stage.model, tokenizer=RUNS["mars-debug/tokenizer"]().model)


def test_a_start_is_the_same_for_the_same_seed():
    one, two = (new_model(stage_config(4, "block"), seed=2) for _ in range(2))
    start_blocks(two, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
