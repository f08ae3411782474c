"""The fixed prompts."""

import numpy as np

from impasto.data.scene_prompts import HELD_OUT_PROMPTS
from impasto.data.scene_source import SceneOptions, SceneSource
from impasto.data.scenes import HELD_OUT_PAIRS, parse_prompt, render, scene_for, score_image


def test_every_prompt_asks_for_an_unseen_combination_and_can_be_drawn():
    assert len(set(HELD_OUT_PROMPTS)) == 10
    covered = set()
    for prompt in HELD_OUT_PROMPTS:
        asked = {(item.colour, item.shape) for item in parse_prompt(prompt).objects}
        assert asked & HELD_OUT_PAIRS, prompt
        covered |= asked & HELD_OUT_PAIRS
        picture = render(scene_for(prompt, np.random.default_rng(0)), size=64)
        assert score_image(picture, prompt).overall == 1.0, prompt
    assert covered == HELD_OUT_PAIRS


def test_a_source_gives_every_position_on_its_own():
    source = SceneSource(32, SceneOptions(max_objects=2, languages=("en", "zh")))
    images, captions = source.batch(range(6))
    again, same = source.batch([4])
    assert images.shape == (6, 3, 32, 32) and -1 <= float(images.min()) < float(images.max()) <= 1
    assert same == captions[4:5] and bool((again[0] == images[4]).all())
    other = SceneSource(32, SceneOptions(max_objects=2), split="heldout")
    assert other.captions(6) != source.captions(6)
