"""Captions that are wrong by one fact."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from impasto.config import ConfigError
from impasto.data.scene_source import SceneOptions, SceneSource
from impasto.data.scenes import (
    HELD_OUT_PAIRS,
    caption,
    caption_and_contrast,
    contrast,
    describe,
    parse_prompt,
    read_image,
    reading_of,
    sample_scene,
    score_image,
    score_reading,
)
from impasto.pictures import to_images


def scenes(count: int, **options):
    rng = np.random.default_rng(3)
    return [(sample_scene(rng, **options), rng) for _ in range(count)]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_true_caption_holds_and_the_contrast_does_not(language):
    found = 0
    for scene, rng in scenes(200):
        text, wrong = caption_and_contrast(scene, rng, language)
        assert score_reading(reading_of(scene), parse_prompt(text)).overall == 1
        if wrong is not None:
            found += 1
            assert score_reading(reading_of(scene), parse_prompt(wrong)).overall < 1
    assert found > 190


def test_one_object_changes_by_exactly_one_stated_fact():
    changed_names = set()
    for scene, rng in scenes(200, max_objects=1, textures=False):
        true = describe(scene, rng)
        changed = contrast(scene, true, rng)
        assert changed is not None
        (before,), (after,) = true.objects, changed.objects
        differing = {name for name in before.stated() if before.stated()[name] != after.stated()[name]}
        if changed.background != true.background:
            differing.add("background")
        assert len(differing) == 1 and after.stated().keys() == before.stated().keys()
        changed_names |= differing
    assert changed_names == {"colour", "shape", "size", "background"}


def test_two_objects_may_trade_their_colours():
    """The caption names the same words, bound otherwise."""
    traded = 0
    for scene, rng in scenes(300, max_objects=2, textures=False, category="color"):
        true = describe(scene, rng)
        changed = contrast(scene, true, rng)
        if changed is None or len(true.objects) < 2:
            continue
        colours = [[item.colour for item in wanted.objects] for wanted in (true, changed)]
        traded += colours[0] != colours[1] and sorted(colours[0]) == sorted(colours[1])
    assert traded > 4


def test_training_never_reads_a_held_out_pair():
    for scene, rng in scenes(300):
        _, wrong = caption_and_contrast(scene, rng)
        if wrong is not None:
            named = {(item.colour, item.shape) for item in parse_prompt(wrong).objects}
            assert not named & HELD_OUT_PAIRS


def test_a_source_gives_the_share_asked_for_and_leaves_captions_alone():
    plain = SceneSource(16, SceneOptions())
    source = SceneSource(16, replace(plain.options, near_misses=0.25))
    positions = range(400)
    missed = source.near_misses(positions)
    assert 60 < sum(text is not None for text in missed) < 140
    assert source.near_misses(positions) == missed  # a function of the position
    assert source.captions(20) == plain.captions(20)
    assert plain.near_misses(positions) == [None] * 400
    with pytest.raises(ConfigError, match="near_misses"):
        SceneOptions(near_misses=1.5)


def test_pictures_of_one_caption_are_different_and_all_true():
    plain = SceneOptions(max_objects=2, textures=False, near_misses=0.5)
    source = SceneSource(64, replace(plain, pictures_per_caption=3))
    first = SceneSource(64, plain)
    images, captions = source.batch(range(90))
    assert captions[::3] == captions[1::3] == captions[2::3]
    assert captions[::3] == [first.sample(position)[1] for position in range(0, 90, 3)]
    assert source.captions(30) == first.captions(30)
    missed = source.near_misses(range(90))
    assert missed[::3] == missed[1::3] == missed[2::3] == first.near_misses(range(0, 90, 3))
    same = [bool((images[k] == images[k + 1]).all()) for k in range(0, 90, 3)]
    assert sum(same) <= 1
    scores = [
        score_image(picture, text).overall for picture, text in zip(to_images(images), captions, strict=True)
    ]
    assert sum(score > 0.99 for score in scores) > 85
    for picture in to_images(images):
        assert not {(item.colour, item.shape) for item in read_image(picture).objects} & HELD_OUT_PAIRS
    assert torch.equal(source.batch([77])[0][0], images[77])  # a function of the position
    with pytest.raises(ConfigError, match="pictures_per_caption=0"):
        SceneOptions(pictures_per_caption=0)


def test_wording_stays():
    """Both captions are worded by the same draws, so that only the fact tells them apart."""
    scene, rng = scenes(1, max_objects=1, textures=False)[0]
    state = rng.bit_generator.state
    text, wrong = caption_and_contrast(scene, rng)
    rng.bit_generator.state = state
    assert caption(scene, rng) == text
    assert wrong is not None and len(set(text.split()) ^ set(wrong.split())) <= 4


def test_a_lone_object_stands_as_near_the_middle_as_asked_and_others_where_they_were():
    plain = SceneOptions(max_objects=2, textures=False)
    anywhere, halfway, middle = (
        SceneSource(64, replace(plain, lone_spread=spread)) for spread in (1.0, 0.5, 0.0)
    )
    for position in range(60):
        (picture, text), (half, same_text), (gathered, same_again) = (
            source.sample(position) for source in (anywhere, halfway, middle)
        )
        assert text == same_text == same_again
        seen, moved, centred = (
            read_image(Image.fromarray(pixels)).objects for pixels in (picture, half, gathered)
        )
        if len(seen) == 1:
            for axis in ("x", "y"):
                place = getattr(seen[0], axis) - 0.5
                assert getattr(centred[0], axis) == pytest.approx(0.5, abs=0.04)
                assert getattr(moved[0], axis) - 0.5 == pytest.approx(place / 2, abs=0.04)
        else:
            assert (picture == gathered).all()
    with pytest.raises(ConfigError, match="lone_spread"):
        SceneOptions(lone_spread=-0.1)
