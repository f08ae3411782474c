"""Stories of scenes, and languages by weight."""

from itertools import pairwise

import numpy as np
import pytest

from impasto.config import ConfigError, from_dict, override, to_dict
from impasto.data.scene_source import SceneOptions, SceneSource
from impasto.data.scenes import HELD_OUT_PAIRS, parse_prompt, score_image
from impasto.data.stories import StorySource, goes_on
from impasto.pictures import to_images

EASY = SceneOptions(max_objects=1, textures=False, languages=("en", "zh"))


def stories(split="train", seed=0, **options):
    return StorySource(
        32, override(EASY, [f"{k}={v}" for k, v in options.items()]), seed=seed, split=split, pictures=3
    )


def test_a_story_depends_on_its_number_alone():
    one, other = stories(), stories()
    told = [one.sentences(n) for n in range(8)]
    assert told == [other.sentences(n) for n in reversed(range(8))][::-1]
    assert told != [stories(seed=1).sentences(n) for n in range(8)]
    pictures, sentences = one.batch(range(6, 12))
    assert sentences == told[2] + told[3]
    shown = to_images(pictures)
    assert all(
        score_image(picture, text).overall == 1 for picture, text in zip(shown, sentences, strict=True)
    )
    more = [text for place in range(6) for text in one.phrasings(place, 2)]
    shown = to_images(one.batch(range(6))[0])
    assert all(score_image(shown[n // 2], text).overall == 1 for n, text in enumerate(more))


def test_stories_are_not_made_of_the_scenes_of_other_runs():
    other = {text for text in SceneSource(32, EASY, seed=0).captions(120) if len(text) > 30}
    assert not other & {text for n in range(40) for text in stories().sentences(n)}


def test_a_story_goes_on():
    source = stories()
    languages = set()
    for number in range(30):
        scenes, sentences = source.scenes(number), source.sentences(number)
        assert len({scene.background for scene in scenes}) == 1
        chinese = {not text.isascii() for text in sentences}
        assert len(chinese) == 1  # one language
        languages |= chinese
        for before, after in pairwise(scenes):
            (one,), (two,) = before.pairs, after.pairs
            assert (one[0] == two[0]) != (one[1] == two[1])
    assert languages == {True, False}
    red = parse_prompt("a red circle")
    assert goes_on(red, parse_prompt("a red star")) and goes_on(red, parse_prompt("a blue circle"))
    assert not goes_on(red, red) and not goes_on(red, parse_prompt("a blue star"))
    assert not goes_on(red, parse_prompt("a circle"))


def test_held_out_pairs_are_kept_from_training():
    for number in range(60):
        assert not any(scene.is_held_out for scene in stories().scenes(number))
        first, *_ = stories("heldout").scenes(number)
        assert first.pairs <= HELD_OUT_PAIRS
    assert len([n for n in range(40) if stories(max_objects=3).scenes(n)]) == 40  # room for richer scenes


def test_languages_are_drawn_by_weight():
    options = override(EASY, ['languages={"en": 1, "zh": 3}'])
    assert options.languages == {"en": 1.0, "zh": 3.0}
    assert from_dict(SceneOptions, to_dict(options)) == options
    texts = SceneSource(16, options, seed=3).captions(400)
    chinese = sum(not text.isascii() for text in texts)
    assert 265 <= chinese <= 335  # binomial, p = 0.75: outside is below 1 in 10,000
    told = [text for n in range(100) for text in SceneSource(16, options, seed=3).phrasings(n, 4)]
    assert 0.68 < np.mean([not text.isascii() for text in told]) < 0.82
    assert override(EASY, ["languages=zh"]).languages == ("zh",)
    for wrong in ('{"en": 0}', '{"fr": 1}', '{"en": -1, "zh": 2}'):
        with pytest.raises(ConfigError, match=r"data\.languages"):
            override(EASY, [f"languages={wrong}"])
