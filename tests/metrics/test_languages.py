"""One scene asked in two languages: what differs is found, and what does not is not."""

import json

import pytest
from PIL import Image

from impasto.cli import main
from impasto.data.scene_source import SceneOptions
from impasto.data.scenes import parse_prompt, render
from impasto.metrics.intervals import Estimate
from impasto.metrics.languages import Consistency, judge_languages, scenes_in_languages
from impasto.metrics.scenes import renders

EASY = SceneOptions(max_objects=1, textures=False)
SCENES, TEXTS = scenes_in_languages(EASY, 40, "train")


class Knowing:
    """Finds a picture one nat likelier for each English word that it reads, and nothing in Chinese."""

    def likelihoods(self, pictures, prompts):
        return [float(len(text.split())) if text.isascii() else 0.0 for text in prompts]


def english_alone(prompts, seed):
    """Paints what English asks for, and one picture for all Chinese."""
    if prompts[0].isascii():
        return renders(32)(prompts, seed)
    return [Image.new("RGB", (32, 32), "white") for _ in prompts]


def test_scenes_are_those_that_are_told():
    assert all(
        parse_prompt(a).canonical() == parse_prompt(b).canonical()
        for a, b in zip(*TEXTS.values(), strict=True)
    )
    assert len(SCENES) == len(TEXTS["en"]) == len(TEXTS["zh"]) == 40


def test_a_perfect_painter_is_alike_in_both():
    found = judge_languages(renders(32), TEXTS)
    assert found.scores["en"].overall.mean > 0.98 and found.scores["zh"].overall.mean > 0.98
    assert found.scores["en"].chance < 0.3 and found.scores["en"].told is None
    assert found.verdict("zh") == "alike: within 0.05" and found.scenes == 40


def test_one_who_reads_english_alone_is_found_out():
    shown = [render(scene, size=32) for scene in SCENES]
    found = judge_languages(english_alone, TEXTS, reader=Knowing(), renders=shown)
    assert found.scores["zh"].overall.mean == 0 and found.scores["zh"].unreadable == 40
    assert found.differences["zh"].low > 0.9
    assert found.verdict("zh") == "different: by more than 0.05"
    assert found.scores["zh"].told is not None and found.scores["zh"].told.mean == 0
    assert found.scores["en"].told.mean == pytest.approx(0)  # as long as the captions that others have
    between = Consistency({}, {"zh": Estimate(0.03, -0.01, 0.07)}, {}, 4, {})
    assert between.verdict("zh") == "not decided: the interval holds 0.05"


def test_the_command_reports_both_languages(tmp_path, capsys):
    arguments = ["--protocol", "languages", "--count", "2", "--set", "max_objects=1", "--out", str(tmp_path)]
    assert main(["evaluate", "mars-nano", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "en minus zh, paired:" in printed and "tokens of a caption: en" in printed
    assert {path.name for path in tmp_path.iterdir()} == {
        "report.json", "report.md", "report.html", "seen.png", "unseen.png",
    }  # fmt: skip
    found = json.loads((tmp_path / "report.json").read_text())["sets"]["unseen"]
    assert found["scores"]["zh"]["told"] is not None and len(found["texts"]["zh"]) == 2
    assert main(["evaluate", "mars-scenes", *arguments[:2], "--reference", "x"]) == 2
    assert "has no --reference" in capsys.readouterr().err


def test_shares_of_languages_are_told_from_a_model(tmp_path):
    from impasto.evaluation.languages import _mixes

    provenance = {
        "preset": "stage2", "images_seen": 10, "data": {"scenes": {"languages": {"en": 3.0, "zh": 1.0}}},
        "began_from": {"preset": "stage1", "data": {"scenes": {"languages": ["en", "zh", "zh", "zh"]}}},
    }  # fmt: skip
    assert list(_mixes(provenance)) == [
        "captions of stage2, 10 pictures: en 75 %, zh 25 %",
        "captions of stage1: en 25 %, zh 75 %",
    ]
