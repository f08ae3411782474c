"""`impasto evaluate --reference`, `--compare` and `--blind` as they are typed."""

import json
import math

import pytest
import torch
from PIL import Image

import impasto.metrics.extractors as extractors
from impasto.cli import main
from impasto.evaluation.scene_sheets import write_page
from impasto.pictures import save_png
from impasto.runtime.report import charts, run_of
from tests.metrics.test_picture_sets import TinyExtractor, write_pictures


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path):
    """A network of no size, and a user's cache of its own."""
    extractor = TinyExtractor()
    monkeypatch.setattr(extractors, "load_extractor", lambda spec, device: extractor)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return extractor


@pytest.fixture
def folders(tmp_path):
    prompts = ["a red star", "a blue star"]
    for index, name in enumerate(("pictures", "other", "reference", "training")):
        write_pictures(tmp_path / name, 12, seed=index, prompts=prompts)
    return tmp_path


def run(capsys, *arguments):
    status = main(["evaluate", *map(str, arguments)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def measured(capsys, folders, name, *arguments):
    out = folders / f"report of {name}"
    reference = ("--reference", folders / "reference", "--allow-small", "--out", out)
    status, printed, errors = run(capsys, folders / name, *reference, *arguments)
    assert status == 0, errors
    return out, printed


def test_a_report_of_everything(folders, capsys, tiny):
    save_png(Image.open(folders / "training" / "000003.png"), folders / "pictures" / "zz.png")
    (folders / "pictures" / "bad.png").write_bytes(b"nothing")
    out, printed = measured(capsys, folders, "pictures", "--training", folders / "training")
    assert tiny.seen == 13 + 12 + 12
    assert "| FD-Tiny |" in printed and "left out: 1 picture damaged" in printed
    assert {p.name for p in out.iterdir()} == {
        "report.json", "report.md", "report.html", "random.png", "nearest.png", "closest.png", "worst.png",
        "best.png",
    }  # fmt: skip
    document = json.loads((out / "report.json").read_text(), parse_constant=pytest.fail)
    results, sets = document["results"], document["sets"]
    assert math.isfinite(results["frechet"]["distance"]) and results["frechet"]["rank"] == 6
    assert results["frechet"]["condition"] >= 1
    for name in ("kid", "precision", "recall", "density", "coverage", "diversity"):
        assert results[name]["low"] <= results[name]["mean"] <= results[name]["high"]
    closest = results["copies"]["closest"][0]
    assert (closest["picture"], closest["training"]) == ("zz.png", "000003.png") and closest[
        "distance"
    ] < 1e-4
    assert sets["pictures"]["count"] == 13 and sets["pictures"]["with_prompts"] == 12
    assert sets["pictures"]["skipped_files"] == {"picture damaged": ["bad.png"]}
    assert document["extractor"]["sha256"] == tiny.fingerprint
    assert document["preparation"]["resize"] is None and document["versions"]["torch"] == torch.__version__
    page = (out / "report.html").read_text()
    assert "<script" not in page and "http" not in page and page.count("data:image/png") == 5
    assert "Worst, picked" in page and "Best, picked" in page and "table 1" not in page
    assert "Closest pairs" in page and "Random: drawn with seed 0" in page and "Nearest neighbours" in page
    measured(capsys, folders, "pictures", "--training", folders / "training")
    assert tiny.seen == 37
    again = json.loads((out / "report.json").read_text())
    assert again["sets"]["pictures"].pop("features_from_cache")
    assert again["results"] == results
    measured(capsys, folders, "pictures", "--no-cache")
    assert tiny.seen == 37 + 13 + 12


def test_reports_side_by_side(folders, capsys):
    one, _ = measured(capsys, folders, "pictures")
    other, _ = measured(capsys, folders, "other", "--training", folders / "training")
    out = folders / "table"
    status, printed, _ = run(capsys, "--compare", one, other / "report.json", "--out", out)
    assert status == 0 and (out / "compare.md").read_text() == printed
    page = (out / "compare.html").read_text()
    assert page.count("<img src='data:image/png") == 2 and f"<th>{one}</th>" in page  # each report's own
    assert "| closer | not measured |" in printed and "12 pictures each, 12 of the reference" in printed
    document = json.loads((other / "report.json").read_text())
    changes = {
        "the extractor differs (sha256: 0": ("extractor", {**document["extractor"], "sha256": "1" * 64}),
        "resize: none and 8": ("preparation", {**document["preparation"], "resize": 8}),
        "the number of neighbours differs (5 and 3)": ("neighbours", 3),
    }
    for message, (name, value) in changes.items():
        (out / "changed.json").write_text(json.dumps({**document, name: value}))
        status, _, errors = run(capsys, "--compare", one, out / "changed.json", "--out", out)
        assert status == 2 and message in errors
    write_pictures(folders / "other", 14, seed=9)
    fewer, _ = measured(capsys, folders, "other")
    status, _, errors = run(capsys, "--compare", one, fewer, "--out", out)
    assert status == 2 and "the number of pictures differs (12 and 14)" in errors
    (out / "report.json").write_text('{"protocol": "scenes"}')
    for arguments, message in (
        ([one], "two reports"),
        ([one, out], "is not a report"),
        ([one, one], "twice"),
    ):
        status, _, errors = run(capsys, "--compare", *arguments)
        assert status == 2 and message in errors


def test_a_blind_comparison(folders, capsys):
    out = folders / "blind"
    status, printed, _ = run(
        capsys, "--blind", folders / "pictures", folders / "other", "--pairs", "5", "--out", out
    )
    assert status == 0 and printed.startswith("5 pairs; without a partner or not drawn: 7 of")
    key = json.loads((out / "key.json").read_text())
    choices = ["left" if pair["a_left"] else "right" for pair in key["pairs"]]
    answers = folders / "filled.csv"
    answers.write_text(f"page,{key['page']}\n" + "".join(f"{n},{c}\n" for n, c in enumerate(choices, 1)))
    status, printed, _ = run(capsys, "--blind-answers", answers, "--out", out)
    assert status == 0 and "preferred 5 times" in printed and "1.000 [0.566, 1.000]" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pictures", "--reference", "reference"], "12 pictures: below 2,048"),
        (["pictures", "--reference", "absent"], "no such folder"),
        (["pictures", "--training", "training"], "--training means something only with --reference"),
        (["pictures", "--resize", "8"], "--resize means something only with --reference"),
        (["--reference", "reference"], "give one of"),
        (["pictures", "--blind", "pictures", "other"], "not MODEL_OR_IMAGE_DIR and --blind"),
        (["--blind", "pictures", "other", "--reference", "reference"], "not with --blind"),
        (["--blind", "pictures", "other", "--pairs", "0"], "at least 1"),
        (["pictures", "--reference", "reference", "--training", "reference", "--allow-small"], "held-out"),
    ],
)
def test_mistakes_are_named(folders, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(folders)
    status, _, errors = run(capsys, *arguments)
    assert status == 2 and message in errors and len(errors.strip().splitlines()) == 1
    assert not (folders / "report").exists()


def test_curves_of_the_run_stand_in_the_page(tmp_path):
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    assert run_of(run / "model") is None and charts(run) == ""
    rows = [{"images": n, "loss/generator": 2.0 - n / 9, "time": {"step_seconds": n}} for n in range(1, 5)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run_of(run / "model") == run.resolve()
    drawn = charts(run)
    assert "loss/generator" in drawn and "<polyline" in drawn and "seconds" not in drawn
    write_page("a title", "a < b", [("a sheet", Image.new("RGB", (4, 4)))], run, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "a &lt; b" in page and "loss/generator" in page and "a sheet" in page
