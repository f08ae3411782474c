"""Sentences about pictures against the oracle."""

import pytest

from impasto.data.scene_source import SceneOptions
from impasto.metrics.scene_captions import judge_captions
from impasto.metrics.scenes import SEEN_SET, prompt_sets, renders

PROMPTS = prompt_sets(SceneOptions(max_objects=2, textures=False), 40)[SEEN_SET]


def test_one_who_knows_the_scene_is_right_and_one_who_guesses_is_not():
    score = judge_captions(lambda pictures, language: PROMPTS, PROMPTS, "en", painter=renders(64), seed=0)
    assert score.true.mean > 0.97 and score.unread == 0 and score.pictures == 40
    assert score.chance < 0.1
    turned = [*PROMPTS[1:], PROMPTS[0]]
    assert judge_captions(lambda *_: turned, PROMPTS, "en", painter=renders(64), seed=0).true.mean < 0.1


def test_sentences_outside_the_grammar_count_as_false():
    score = judge_captions(lambda *_: ["blah"] * 40, PROMPTS, "en", painter=renders(64), seed=0)
    assert score.unread == 40 and score.true.mean == 0 and score.overall == pytest.approx(0)
