"""The scenes protocol: what is between chance and the ceiling, and how sure that is."""

import sys

import numpy as np
import pytest

from impasto.data.scene_source import SceneOptions
from impasto.metrics.intervals import bootstrap
from impasto.metrics.scenes import (
    CEILING,
    CHANCE,
    evaluate_scenes,
    judge,
    prompt_sets,
    renders,
    shuffled,
)
from tests.runtime.start_ranks import run_ranks

EASY = SceneOptions(max_objects=2, textures=False)


def test_the_interval_has_the_width_of_the_standard_error():
    values = np.random.default_rng(1).normal(0.4, 0.2, size=400)
    estimate = bootstrap(values)
    error = values.std() / 20
    assert estimate.mean == pytest.approx(values.mean())
    assert estimate.high - estimate.mean == pytest.approx(1.96 * error, rel=0.1)
    assert estimate.mean - estimate.low == pytest.approx(1.96 * error, rel=0.1)
    assert bootstrap(values) == estimate


def test_an_interval_needs_values():
    with pytest.raises(ValueError, match="at least one"):
        bootstrap([])


def test_intervals_cover_the_mean_as_often_as_they_say():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        estimate = bootstrap(rng.random(80))
        covered += estimate.low <= 0.5 <= estimate.high
    assert covered >= 52  # 57 expected; binomial, p = 0.95: fewer than 52 is below 1 in 100


def test_shuffling_moves_every_prompt():
    prompts = [f"prompt {n}" for n in range(37)]
    moved = shuffled(prompts)
    assert sorted(moved) == sorted(prompts)
    assert all(one != other for one, other in zip(prompts, moved, strict=True))


def test_pictures_of_one_prompt_count_once_for_the_interval():
    prompts = ["a red circle", "a blue star"] * 20
    pictures = renders(32)(prompts, 0)
    # one prompt is always right and the other always wrong: two values, 0 and 1 at the ends
    score = judge(pictures, ["a red circle", "a green heart"] * 20)
    assert score.overall.high == 1.0 and score.overall.low < 0.3
    assert score.pictures == 40


def test_a_perfect_and_an_empty_painter_stand_at_the_ends():
    from PIL import Image

    def blank(prompts, seed):
        return [Image.new("RGB", (32, 32), "white") for _ in prompts]

    report = evaluate_scenes({"perfect": renders(32), "blank": blank}, EASY, resolution=32, count=40)
    assert set(report.scores) == {"fixed", "seen", "unseen"}
    for name, rows in report.scores.items():
        assert rows[CEILING].overall.mean > 0.97
        assert rows["perfect"].overall == rows[CEILING].overall
        assert rows[CHANCE].overall.mean < 0.25
        assert rows["perfect, captions shuffled"].overall == rows[CHANCE].overall
        assert rows["blank"].overall.mean == 0 and rows["blank"].unreadable == rows["blank"].pictures
        assert report.position(name, "perfect") == 1
        assert report.position(name, "blank") < 0
    assert report.scores["fixed"]["blank"].pictures == 100


def test_sampled_prompts_come_from_a_stream_that_no_run_draws_from():
    from impasto.data.scene_source import SceneSource

    evaluated = set(prompt_sets(EASY, 60)["seen"])
    trained = set(SceneSource(32, EASY, seed=0).captions(60))
    assert len(evaluated & trained) < 12  # short captions repeat by chance; a shared stream would give 60


@pytest.mark.long
def test_two_ranks_share_the_drawing_and_report_the_same(tmp_path):
    command = [sys.executable, "-m", "impasto.cli", "evaluate", "aurora-scenes-32", "--count", "6"]
    printed = run_ranks([*command, "--out", str(tmp_path / "two")], 2)
    assert "FD-EffNetLite0" in printed[0] and not printed[1]
    run_ranks([*command, "--out", str(tmp_path / "one")], 1)
    one, two = ((tmp_path / name / "report.json").read_text() for name in ("one", "two"))
    assert one == two
