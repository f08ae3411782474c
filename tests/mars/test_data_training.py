"""The stages of MARS on a folder of captioned pictures, through the command line."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import impasto
from impasto.cli import main
from impasto.data.opening import open_data
from impasto.data.training_set import split
from impasto.mars.codes import CodeStore, read_codes
from impasto.mars.directories import load_tokenizer
from impasto.mars.launch import find_run
from impasto.runtime.checkpoint import latest_checkpoint, load_checkpoint
from impasto.runtime.guards import Deadline
from impasto.runtime.log import read_metrics
from tests.data.sets import pairs

COUNT = 40
BAD = "00007.jpg"


def train(*arguments: object) -> int:
    return main(["train", *map(str, arguments)])


def write(folder: Path) -> Path:
    """Two English captions and a Chinese one of each picture; one picture is damaged."""
    folder.mkdir()
    for name, data, text in pairs(COUNT):
        (folder / f"{name}.jpg").write_bytes(data if f"{name}.jpg" != BAD else b"no picture")
        (folder / f"{name}.en.txt").write_text(f"{text}\nlook, {text}\n", encoding="utf-8")
        (folder / f"{name}.zh.txt").write_text(f"图 {name}\n", encoding="utf-8")
    return folder


def settings(runs: dict[str, Path]) -> list[str]:
    return ["--set", f"tokenizer={runs['tokenizer']}", "--set", f"language={runs['language']}"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("set") / "data")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("mars")
    runs = {name: home / name for name in ("tokenizer", "language", "stage1", "stage2")}
    for name in ("tokenizer", "language"):
        assert train(f"mars-debug/{name}", "--data", data, "--out", runs[name]) == 0
    assert train("mars-debug/stage1", "--data", data, "--out", runs["stage1"], *settings(runs)) == 0
    assert (
        train("mars-debug/stage2", "--data", data, "--out", runs["stage2"], "--init-from", runs["stage1"])
        == 0
    )
    return runs


def store_of(runs: dict[str, Path], name: str, **_) -> CodeStore:
    run = find_run(str(runs[name] / "config.json"), [])
    return read_codes(runs[name], run, load_tokenizer(runs["tokenizer"]))


def test_every_stage_trains_on_the_set(runs, data):
    for name, run in runs.items():
        saved = json.loads((run / "config.json").read_text())["dataset"]
        assert (saved["source"], saved["samples"], saved["format"]) == (str(data), COUNT, "folder")
        told = json.loads((run / "model/config.json").read_text())["provenance"]["data"]
        assert told == {"dataset": saved}, name
        rows = read_metrics(run / "metrics.jsonl")
        names = {key for row in rows for key in row}
        assert not any(key.startswith("score") or "_heldout" in key for key in names)
        wanted = {
            "tokenizer": "validation/psnr",
            "language": "validation/text_token_nll",
        }.get(name, "validation/image_token_nll")
        assert wanted in names
    assert impasto.load(runs["stage2"] / "model")("a red apple")[0].size == (16, 16)


def test_codes_and_captions_are_those_of_the_training_part(runs, data):
    records = open_data(data)
    training, held_out = split(records, "data")
    store = store_of(runs, "stage1")
    assert len(store) == 24 < len(training)  # training.pictures of the preset
    allowed = {training.key(n) for n in range(len(training))}
    kept = {caption.split()[-1] for captions in store.captions for caption in captions}
    assert {f"{name}.jpg" for name in kept if len(name) == 5} <= allowed - {BAD}
    assert all(len(captions) == 3 and captions[2].startswith("图") for captions in store.captions)
    bad = json.loads((runs["tokenizer"] / "bad-samples.json").read_text())
    expected = {} if BAD in {held_out.key(n) for n in range(len(held_out))} else {"picture damaged": [BAD]}
    assert bad["passed_over"] == expected and expected
    assert not (runs["language"] / "bad-samples.json").exists()  # it looks at no picture


def test_codes_are_of_the_pictures_beside_their_captions(runs, data):
    from impasto.data.options import DatasetOptions
    from impasto.data.transforms import decode, fit

    store, part = store_of(runs, "stage1"), load_tokenizer(runs["tokenizer"])
    options = DatasetOptions()
    for row in (0, 5, 23):
        name = store.captions[row][2].split()[1]
        image = decode((data / f"{name}.jpg").read_bytes(), name, options)
        pixels = torch.from_numpy(fit(image, 16, options).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        assert torch.equal(store.codes[row].long(), part.tokenizer.encode(pixels).flatten())


def test_a_stage_on_a_set_resumes_bit_for_bit(runs, data, tmp_path):
    class After(Deadline):
        steps = 0

        @property
        def passed(self) -> bool:
            After.steps += 1
            return After.steps == 3

    arguments = ["mars-debug/stage1", "--out", tmp_path / "run", *settings(runs)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("impasto.mars.launch.Deadline", After)
        assert train(*arguments, "--data", data) == 0
    moved = write(tmp_path / "moved")
    assert train(*arguments, "--data", moved, "--set", "dataset.workers=0") == 0
    whole, resumed = (
        load_checkpoint(latest_checkpoint(run))[0] for run in (runs["stage1"], tmp_path / "run")
    )
    for group, tensors in whole.items():
        assert all(torch.equal(tensor, resumed[group][name]) for name, tensor in tensors.items())
    lines = [
        read_metrics(run / "metrics.jsonl", with_time=False) for run in (runs["stage1"], tmp_path / "run")
    ]
    assert lines[0] == lines[1]


def test_languages_are_weighted_where_asked(runs, data, tmp_path):
    options = ["--set", 'dataset.languages={"en": 1, "zh": 9}', "--time-limit", "0.00001"]
    arguments = ["mars-debug/stage1", "--data", data, "--out", tmp_path / "run", *settings(runs)]
    assert train(*arguments, *options) == 0
    assert (tmp_path / "run/codes/chances-00001.json").is_file()
    store = store_of({**runs, "run": tmp_path / "run"}, "run")
    drawn = store.batch(range(960)).captions
    assert 0.86 < sum(text.startswith("图") for text in drawn) / len(drawn) < 0.94
    plain = store_of(runs, "stage1").batch(range(960)).captions
    assert 0.26 < sum(text.startswith("图") for text in plain) / len(plain) < 0.41


def test_the_tokeniser_of_texts_is_fitted_on_the_captions(runs):
    pieces = (runs["language"] / "tokenizer.json").read_text(encoding="utf-8")
    assert "apple" in pieces and "circle" not in pieces
    weights = load_file(runs["language"] / "model/model.safetensors")
    assert weights and all(torch.isfinite(tensor).all() for tensor in weights.values())


def test_other_pictures_are_refused(runs, tmp_path, capsys):
    other = write(tmp_path / "other")
    (other / "00039.jpg").unlink()
    run = runs["stage1"]
    assert train("mars-debug/stage1", "--data", other, "--out", run, *settings(runs)) == 2
    assert "other settings (dataset.fingerprint" in capsys.readouterr().err
    assert train("mars-debug/stage1", "--out", run, *settings(runs), "--data", tmp_path / "nowhere") == 2
    assert "there is no such file or folder" in capsys.readouterr().err
    assert train("mars-debug/stage1", "--out", run, *settings(runs)) == 2
    assert "other settings" in capsys.readouterr().err
    features = ["--set", "dataset.text_features=somewhere"]
    assert train("mars-debug/stage1", "--data", other, "--out", tmp_path / "new", *features) == 2
    assert "dataset.text_features is not for MARS" in capsys.readouterr().err
    assert train(run / "config.json", "--out", run) == 2
    error = capsys.readouterr().err
    assert "is a run on another set; add --data" in error and error.count("\n") == 1


def test_scenes_as_a_set_come_with_scores(runs, tmp_path):
    arguments = ["--data", "scenes:40:16", "--set", "training.sample_prompts=1"]
    assert train("mars-debug/stage1", "--out", tmp_path / "run", *settings(runs), *arguments) == 0
    names = {key for row in read_metrics(tmp_path / "run/metrics.jsonl") for key in row}
    assert "score/overall" in names and "score_heldout/overall" not in names
