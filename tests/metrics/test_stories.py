"""Stories against the oracle: a perfect painter, one who mixes stories up, and one who says nothing known."""

import pytest

from impasto.data.scene_source import SceneOptions
from impasto.data.scenes import render
from impasto.data.stories import StorySource
from impasto.metrics.stories import Told, judge_stories

SOURCE = StorySource(32, SceneOptions(max_objects=1, textures=False), seed=9, pictures=3)
SENTENCES = [SOURCE.sentences(number) for number in range(30)]
PICTURES = [[render(scene, size=32) for scene in SOURCE.scenes(number)] for number in range(30)]


def told(sentences, pictures):
    return [
        Told([part for pair in zip(texts, shown, strict=True) for part in pair], ended=True)
        for texts, shown in zip(sentences, pictures, strict=True)
    ]


def test_a_perfect_story_is_told_from_a_mixed_up_one():
    score = judge_stories(told(SENTENCES, PICTURES))
    assert score.match.mean > 0.99 and score.shuffled.mean < 0.3
    assert score.difference.low > 0.6
    assert score.first.mean > 0.99 and score.later is not None and score.later.mean > 0.99
    assert score.goes_on is not None and score.goes_on.mean == 1
    assert score.goes_on_shuffled is not None and score.goes_on_shuffled.mean < 0.5
    assert (score.stories, score.pictures, score.unread) == (30, 90, 0) and score.ended.mean == 1
    mixed = judge_stories(told(SENTENCES, [*PICTURES[1:], PICTURES[0]]))
    assert mixed.match.mean < 0.3 and mixed.difference.low < 0.05


def test_what_is_not_understood_or_missing_is_counted():
    stories = told([["blah"] * 3] * 4, PICTURES[:4])
    stories += [Told(["a red circle"], ended=False), Told([PICTURES[0][0], "a", PICTURES[0][1]], ended=False)]
    score = judge_stories(stories)
    assert score.match.mean == 0 and score.unread == 14 and score.without_picture == 1
    assert score.ended.mean == pytest.approx(4 / 6) and score.goes_on is None
    with pytest.raises(ValueError, match="1 of 2 stories have pictures"):
        judge_stories([stories[0], Told(["a red circle"], ended=True)])
