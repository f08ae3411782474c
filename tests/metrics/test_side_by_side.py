"""Models on the same prompts, one table; a model in several ways; blind pages of two models."""

import json

import pytest

import impasto
from impasto.cli import main
from impasto.config import ConfigError
from impasto.data.scene_source import SceneOptions
from impasto.data.scenes import CATEGORIES
from impasto.evaluation.contenders import Contender, Sweep, contenders, model_of
from impasto.metrics.categories import category_prompts, judge_categories
from impasto.metrics.scenes import renders

EASY = ["--set", "max_objects=1", "--set", "textures=false"]


def test_all_six_categories_are_asked_and_told_apart():
    prompts = category_prompts(SceneOptions(max_objects=2), 12)
    for some in prompts.values():
        assert list(some) == list(CATEGORIES) and all(len(asked) == 12 for asked in some.values())
        drawn = {category: renders(64)(asked, 0) for category, asked in some.items()}
        right, turned = judge_categories(drawn, some), judge_categories(drawn, some, turned=True)
        assert right.overall.mean > 0.95 and right.pictures == 72 and right.unreadable == 0
        assert turned.overall.mean < 0.3
    easy = category_prompts(SceneOptions(max_objects=1, textures=False), 2)["seen"]
    assert list(easy) == ["color", "shape", "non-spatial"]


def test_options_go_to_the_families_that_know_them():
    sweep = Sweep.parsed("guidance=1,3")
    found = contenders(["mars-nano", "aurora-debug"], {"truncation": 0.7}, sweep)
    assert [one.label for one in found] == ["mars-nano, guidance 1", "mars-nano, guidance 3", "aurora-debug"]
    assert [dict(one.options) for one in found] == [{"guidance": 1.0}, {"guidance": 3.0}, {"truncation": 0.7}]
    assert Sweep.parsed("top-k=5,10").values == (5, 10)
    for arguments, words in (
        ((["aurora-debug"], {}, sweep), "none of aurora-debug knows guidance"),
        ((["aurora-debug"], {"top_p": 0.5}, None), "knows top-p"),
        ((["aurora-debug", "aurora-debug"], {}, None), "named twice"),
        ((["mars-nano@big"], {}, None), "should be a side in pixels"),
    ):
        with pytest.raises(ConfigError, match=words):
            contenders(*arguments)
    with pytest.raises(ConfigError, match="write NAME=NUMBER"):
        Sweep.parsed("guidance=low")


def test_a_side_is_asked_of_what_can_draw_it():
    one, other = contenders(["mars-nano@64", "aurora-debug@64"], {}, None)
    assert one.side == 64 and one.label == "mars-nano@64" and one.model == "mars-nano"
    assert one.drawing(impasto.load("mars-nano")) == {"size": 64}
    assert Contender("x", "mars-nano", {}, 32).drawing(impasto.load("mars-nano")) == {}
    with pytest.raises(ConfigError, match="leave @64 out"):
        other.drawing(impasto.load("aurora-debug"))


def test_a_run_is_named_by_its_folder(tmp_path):
    impasto.load("aurora-debug").save_pretrained(tmp_path / "run/model")
    assert model_of(str(tmp_path / "run")) == str(tmp_path / "run/model")
    assert model_of(str(tmp_path / "run/model")) == str(tmp_path / "run/model")
    assert model_of("mars-nano") == "mars-nano"


def test_both_families_stand_in_one_table(tmp_path, capsys):
    arguments = ["--models", "mars-nano", "aurora-debug", "--sweep", "guidance=1,2", "--count", "2", *EASY]
    arguments += ["--set", 'categories=["color"]']
    assert main(["evaluate", *arguments, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for label in ("mars-nano, guidance 1, 32 px", "mars-nano, guidance 2", "aurora-debug", "real renders"):
        assert printed.count(f"| {label}") == 2, label  # seen and unseen
    document = json.loads((tmp_path / "report.json").read_text())
    row = document["rows"]["mars-nano, guidance 2"]
    assert row["drawing"] == {"guidance": 2.0} and row["nats"]["seen"]["mean"] > 0 and row["seconds"] > 0
    assert row["captions"]["unseen"]["pictures"] == 2 and not document["rows"]["aurora-debug"]["captions"]
    assert document["bounds"]["real renders (ceiling)"]["seen"]["overall"]["mean"] > 0.9
    names = {path.name for path in tmp_path.iterdir()}
    plots = {"seconds-seen.png", "seconds-unseen.png", "guidance-seen.png", "guidance-unseen.png"}
    assert names == {"report.json", "report.md", "report.html", "sheet.png"} | plots


def test_without_matplotlib_the_table_is_there(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    arguments = ["--models", "aurora-debug", "--count", "2", *EASY, "--out", str(tmp_path)]
    assert main(["evaluate", *arguments]) == 0
    assert "No plots: figures need matplotlib" in capsys.readouterr().out
    assert (tmp_path / "report.html").is_file() and not (tmp_path / "seconds-seen.png").exists()


def test_two_models_make_a_blind_page(tmp_path, capsys):
    arguments = ["--blind", "aurora-debug", "mars-nano", "--pairs", "5", "--guidance", "2", *EASY]
    assert main(["evaluate", *arguments, "--out", str(tmp_path)]) == 0
    assert "5 pairs" in capsys.readouterr().out
    key = json.loads((tmp_path / "key.json").read_text())
    assert (key["a"], key["b"], len(key["pairs"])) == ("aurora-debug", "mars-nano", 5)
    page = (tmp_path / "blind.html").read_text()
    assert "aurora" not in page and "mars" not in page
    before = (tmp_path / "pictures/a/drawn/000000.png").stat().st_mtime_ns
    assert main(["evaluate", *arguments, "--out", str(tmp_path)]) == 0  # nothing is drawn again
    assert (tmp_path / "pictures/a/drawn/000000.png").stat().st_mtime_ns == before
    (tmp_path / "list.txt").write_text("a red circle\na blue star\n")
    two = ["--blind", "aurora-debug", "aurora-debug", "--captions", str(tmp_path / "list.txt")]
    assert main(["evaluate", *two, "--out", str(tmp_path / "two")]) == 0
    assert "2 pairs" in capsys.readouterr().out
    mixed = ["--blind", "aurora-debug", str(tmp_path / "pictures/a/drawn"), "--out", str(tmp_path / "three")]
    assert main(["evaluate", *mixed]) == 2
    assert "two models or two folders" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["aurora-debug", "--sweep", "guidance=1"], "--sweep goes with --models"),
        (["--models", "aurora-debug", "--count", "1"], "--count 1 should be at least 2"),
        (["--models", "aurora-debug", "--protocol", "coco-30k"], "--models is about scenes"),
        (["aurora-debug", "--models", "mars-nano"], "not MODEL_OR_IMAGE_DIR and --models"),
    ],
)
def test_what_makes_no_sense_is_said_in_one_line(tmp_path, capsys, arguments, message):
    assert main(["evaluate", *arguments, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
