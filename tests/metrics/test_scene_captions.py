"""Sentences about pictures against the oracle."""

import numpy as np
import pytest

from impasto.data.scene_source import SceneOptions, SceneSource
from impasto.data.scenes import parse_prompt, render, sample_scene
from impasto.metrics.scene_captions import is_exact, judge_captions
from impasto.metrics.scenes import SEEN_SET, prompt_sets, scenes_of

PROMPTS = prompt_sets(SceneOptions(max_objects=2, textures=False), 40)[SEEN_SET]
SCENES = scenes_of(PROMPTS, 0)
PICTURES = [render(scene, size=64) for scene in SCENES]


def judged(texts):
    return judge_captions(lambda pictures, language: texts, SCENES, PICTURES, "en")


def test_one_who_knows_the_scene_is_right_and_one_who_guesses_is_not():
    score = judged(PROMPTS)
    assert score.true.mean > 0.97 and score.unread == 0 and score.pictures == 40
    assert score.chance < 0.1 and score.chance_exact <= score.chance
    silent = sum(any(item.colour is None for item in parse_prompt(text).objects) for text in PROMPTS)
    assert silent > 0 and score.exact.mean == pytest.approx(1 - silent / 40)
    assert score.shapes.mean == 1 and score.colours.mean == score.exact.mean
    assert judged([*PROMPTS[1:], PROMPTS[0]]).true.mean < 0.1


def test_sentences_outside_the_grammar_count_as_false():
    score = judged(["blah"] * 40)
    assert score.unread == 40 and score.true.mean == 0 and score.overall == pytest.approx(0)
    assert score.exact.mean == score.colours.mean == score.shapes.mean == 0


def test_exact_is_every_object_by_colour_and_shape_and_nothing_false():
    (scene,) = scenes_of(["a small red circle above a blue star on a white background"], 3)
    for text in (
        "a blue star and a red circle",
        "a red circle above a blue star",
        "一个红色的圆和一个蓝色的星形",
    ):
        assert is_exact(text, scene), text
    two = "and a blue star"
    wrong = ("a red circle", f"a circle {two}", "a red circle below a blue star", f"a large red circle {two}")
    wrong += (f"two red circles {two}", f"a red circle {two} on black")
    for text in wrong:
        assert not is_exact(text, scene), text


def test_both_languages_say_the_same_facts():
    source = SceneSource(16, SceneOptions(max_objects=4), seed=5)
    for position in range(40):
        scene, texts = source.in_languages(position)
        facts = {name: parse_prompt(text).canonical() for name, text in texts.items()}
        assert facts["en"] == facts["zh"], texts
        assert texts["en"].isascii() and not texts["zh"].isascii()
        assert scene == sample_scene(np.random.default_rng((5, 0, position)))
