"""The loss, what counts as the same caption, and captions that are wrong in one fact."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from impasto.data.scene_source import SceneOptions, SceneSource
from impasto.data.scenes import (
    COLOURS,
    HELD_OUT_PAIRS,
    SHAPES,
    caption,
    parse_prompt,
    reading_of,
    sample_scene,
    score_reading,
)
from impasto.vision.contrastive import pair_loss, stated_pairs, statement_ids, symmetric_loss
from impasto.vision.evaluation import SceneRetrieval
from impasto.vision.hard_negatives import KINDS, any_hard_negative, hard_negative


def test_captions_that_say_the_same() -> None:
    ids = statement_ids(
        ["a red circle", "there is a scarlet disc", "a blue circle", "A  hungry cat", "a hungry CAT", "a dog"]
    ).tolist()
    assert ids[0] == ids[1] and ids[3] == ids[4] and len(set(ids)) == 4


def test_the_loss_is_cross_entropy_both_ways() -> None:
    images, texts, scale = torch.randn(4, 8), torch.randn(4, 8), torch.tensor(7.0)
    losses = symmetric_loss(images, texts, scale, torch.arange(4))
    logits = 7 * F.normalize(images) @ F.normalize(texts).t()
    own = torch.arange(4)
    assert torch.isclose(losses["loss/image_to_text"], F.cross_entropy(logits, own))
    assert torch.isclose(losses["loss/text_to_image"], F.cross_entropy(logits.t(), own))
    mean = (losses["loss/image_to_text"] + losses["loss/text_to_image"]) / 2
    assert torch.isclose(losses["loss/contrastive"], mean)


def test_equal_captions_are_no_negatives() -> None:
    images, texts, scale = torch.randn(3, 8), torch.randn(5, 8), torch.tensor(7.0)
    losses = symmetric_loss(images, texts, scale, torch.tensor([5, 5, 6, 5, 9]))
    logits = 7 * F.normalize(images) @ F.normalize(texts).t()
    rows = [logits[0, [0, 2, 4]], logits[1, [1, 2, 4]], logits[2, [2, 0, 1, 3, 4]]]
    wanted = torch.stack([row.logsumexp(0) - row[0] for row in rows]).mean()
    assert torch.isclose(losses["loss/image_to_text"], wanted)
    columns = [logits[[0, 2], 0], logits[[1, 2], 1], logits[[2, 0, 1], 2]]
    wanted = torch.stack([column.logsumexp(0) - column[0] for column in columns]).mean()
    assert torch.isclose(losses["loss/text_to_image"], wanted)


def test_captions_of_the_same_picture_are_no_negatives_but_wrong_ones_of_it_are() -> None:
    images, texts, scale = torch.randn(2, 8), torch.randn(4, 8), torch.tensor(7.0)
    losses = symmetric_loss(images, texts, scale, torch.arange(4), torch.tensor([3, 3]))
    logits = 7 * F.normalize(images) @ F.normalize(texts).t()
    rows = [logits[0, [0, 2, 3]], logits[1, [1, 2, 3]]]
    wanted = torch.stack([row.logsumexp(0) - row[0] for row in rows]).mean()
    assert torch.isclose(losses["loss/image_to_text"], wanted)
    assert torch.isclose(losses["loss/text_to_image"], torch.zeros(()))


def test_stated_pairs() -> None:
    pairs = stated_pairs(["two red circles and a blue square", "a star and a red circle", "a hungry cat"])
    pairs = pairs.view(3, len(COLOURS), len(SHAPES))
    red, blue, circle, square = 0, list(COLOURS).index("blue"), SHAPES.index("circle"), SHAPES.index("square")
    assert pairs[0].sum() == 2 and pairs[0, red, circle] == pairs[0, blue, square] == 1
    assert (pairs[1, :, SHAPES.index("star")] == -1).all() and pairs[1, red, circle] == 1
    assert (pairs[1] == 0).sum() == 64 - len(COLOURS) - 1 and (pairs[2] == -1).all()
    logits = torch.zeros(3, 64, requires_grad=True)
    loss = pair_loss(logits, pairs.flatten(1))
    assert torch.isclose(loss, torch.tensor((64 + 56 + 0) * np.log(2) / 3, dtype=torch.float32))
    assert not torch.autograd.grad(loss, logits)[0][2].any()


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_hard_negatives_are_false_and_their_twins_true(language: str, split: str) -> None:
    """By the scene's own score, over every category."""
    seen = dict.fromkeys(KINDS, 0)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        scene = sample_scene(rng, split=split)
        text, reading = caption(scene, rng, language=language), reading_of(scene)
        for kind in KINDS:
            pair = hard_negative(text, kind, seed, split=split)
            if pair is None:
                continue
            true, false = map(parse_prompt, pair)
            assert score_reading(reading, true).overall == 1 and score_reading(reading, false).overall < 1
            if split == "train":
                assert HELD_OUT_PAIRS.isdisjoint((item.colour, item.shape) for item in false.objects)
            assert hard_negative(text, kind, seed, split=split) == pair
            seen[kind] += 1
    assert min(seen.values()) > 4, seen


def test_only_what_is_stated_is_changed() -> None:
    one = "a red circle left of a blue square"
    assert hard_negative("a red circle", "swap", 0) is None
    assert hard_negative("a red circle", "direction", 0) is None
    swapped = hard_negative(one, "swap", 0, split="heldout")
    assert swapped is not None
    said = [(item.colour, item.shape) for item in parse_prompt(swapped[1]).canonical().objects]
    assert sorted(said) == [("blue", "circle"), ("red", "square")]
    assert any_hard_negative("a red circle", 3) == any_hard_negative("a red circle", 3) is not None
    with pytest.raises(ValueError, match="no kind of hard negative called 'color': choose from swap"):
        hard_negative(one, "color", 0)


def test_scores_of_a_perfect_and_of_a_reversed_scorer() -> None:
    source = SceneSource(8, SceneOptions(max_objects=2, textures=False), seed=1)
    retrieval = SceneRetrieval(source, 24)
    ids = statement_ids(retrieval.texts())
    places = {value: place for place, value in enumerate(ids.unique().tolist())}
    texts = F.one_hot(torch.tensor([places[value] for value in ids.tolist()])).float()
    perfect = retrieval.score(texts[:24], texts)
    assert set(perfect) == {*KINDS, "image_to_text", "text_to_image", "hard"}
    assert set(perfect.values()) == {1.0}
    assert set(retrieval.score(-texts[:24], texts).values()) == {0.0}
    for found in retrieval.pairs.values():
        found.clear()
    assert set(retrieval.score(texts[:24], texts)) == {"image_to_text", "text_to_image"}
