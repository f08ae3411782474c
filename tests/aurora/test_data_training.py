"""Training on a folder of pictures through the real command line."""

import json
from dataclasses import replace

import pytest
import torch

import impasto
from impasto.aurora.launch import find_run, launch
from impasto.cli import main
from impasto.config import ConfigError
from impasto.runtime.checkpoint import latest_checkpoint, load_checkpoint
from impasto.runtime.log import read_metrics
from impasto.runtime.loop import LaunchOptions
from tests.aurora.test_training import WordEncoder
from tests.data.sets import pairs, write_folder, write_shards

SETTINGS = ["training.images=32", "training.sample_every=16", "training.checkpoint_every=16"]


@pytest.fixture(autouse=True)
def fast_encoder(monkeypatch):
    monkeypatch.setattr("impasto.aurora.launch.load_encoder", lambda name: WordEncoder())


def command(data, out, *settings: str) -> list[str]:
    chosen = [part for setting in (*SETTINGS, *settings) for part in ("--set", setting)]
    return ["train", "aurora-debug", "--data", str(data), "--out", str(out), *chosen]


def test_a_folder_is_trained_on_and_a_resumed_run_is_the_uninterrupted_one(tmp_path, capsys):
    samples = pairs(24)
    data = write_folder(tmp_path / "data", samples)
    (data / "00005.jpg").write_bytes(b"not a picture")
    assert main(command(data, tmp_path / "whole")) == 0
    printed = capsys.readouterr().out
    assert "finished" in printed and "1 picture damaged (00005.jpg)" in printed
    assert main(command(data, tmp_path / "cut", "training.images=16", "dataset.workers=0")) == 0
    moved = data.rename(tmp_path / "moved")
    assert main(command(moved, tmp_path / "cut", "dataset.workers=3")) == 0
    whole, cut = (latest_checkpoint(tmp_path / name) for name in ("whole", "cut"))
    tensors, again = load_checkpoint(whole)[0], load_checkpoint(cut)[0]
    for group, values in tensors.items():  # the states differ in where the data lie and in the workers
        assert values.keys() == again[group].keys()
        assert all(torch.equal(value, again[group][name]) for name, value in values.items()), group
    model = impasto.load(tmp_path / "whole" / "model")
    told = model.provenance["data"]["dataset"]
    assert (told["source"], told["format"], told["samples"]) == (str(data), "folder", 24)
    saved = json.loads((tmp_path / "whole" / "config.json").read_text())["dataset"]
    assert saved == told and saved["crop"] == "center" and saved["resize"] == "lanczos"
    logged = {name for row in read_metrics(tmp_path / "whole" / "metrics.jsonl") for name in row}
    assert "loss/generator" in logged and not any(name.startswith("score") for name in logged)
    bad = json.loads((tmp_path / "whole" / "bad-samples.json").read_text())
    assert bad["passed_over"] == {"picture damaged": ["00005.jpg"]}
    # The same pictures in tar files are another numbering, so another run.
    shards = write_shards(tmp_path / "shards", samples)
    assert main(command(shards, tmp_path / "cut")) == 2
    assert "other settings (dataset.fingerprint" in capsys.readouterr().err


def test_what_a_run_was_trained_on_has_to_be_named_again(tmp_path):
    run = find_run("aurora-debug", ["dataset.source=somewhere"])
    with pytest.raises(ConfigError, match="add --data somewhere"):
        launch("aurora-debug", run, LaunchOptions(out=tmp_path / "run"))
    with pytest.raises(ConfigError, match="no such file or folder"):
        launch("aurora-debug", run, LaunchOptions(out=tmp_path / "run", data=str(tmp_path / "nothing")))
    assert not (tmp_path / "run").exists()


class LastBits(WordEncoder):
    """Features that depend a little on the batch, as those of real encoders do."""

    def encode(self, texts):
        found = super().encode(texts)
        return replace(found, tokens=found.tokens * (1 + len(texts) * 1e-6))


def test_stored_text_features_change_no_bit(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("impasto.aurora.launch.load_encoder", lambda name: LastBits())
    monkeypatch.setattr("impasto.text.load_encoder", lambda name: LastBits())
    data = write_folder(tmp_path / "data", pairs(24))
    (data / "00003.txt").write_bytes(b"\xff\xfe")
    assert main(["data", "texts", str(data)]) == 0
    printed = capsys.readouterr().out
    assert "23 captions" in printed and "1 caption not UTF-8 (00003.jpg)" in printed
    setting = printed.strip().splitlines()[-1].removeprefix("to train with them: --set ")
    assert setting == f"dataset.text_features={data / '.impasto-text'}"
    assert main(command(data, tmp_path / "without")) == 0
    with monkeypatch.context() as patch:  # the encoder is not asked for captions, only for the sheets
        patch.setattr("impasto.text.stored.SingleEncoder._one", None)
        assert main(command(data, tmp_path / "with", setting)) == 0
    without, stored = (load_checkpoint(latest_checkpoint(tmp_path / n))[0] for n in ("without", "with"))
    for group, values in without.items():
        assert all(torch.equal(value, stored[group][name]) for name, value in values.items()), group
    (data / "00005.txt").write_text("another caption")
    assert main(command(data, tmp_path / "with", setting, "training.images=48")) == 2
    error = capsys.readouterr().err
    assert "no features of the caption 'another caption'" in error and error.count("\n") == 1
    (data / "00006.jpg").unlink()
    assert main(command(data, tmp_path / "later", setting)) == 2
    assert "made with another set of captions; make it with" in capsys.readouterr().err


def test_a_stream_is_trained_on_and_says_what_it_cannot_promise(tmp_path, capsys):
    shards = write_shards(tmp_path / "shards", pairs(24), 6)
    stream = f"pipe:cat {shards}/{{00000..00003}}.tar"
    assert main(command(stream, tmp_path / "run", "training.images=16")) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "a stream of 4 tar files" in printed and "the stream begins anew, in another order" in printed
    assert main(command(stream, tmp_path / "run")) == 0
    told = impasto.load(tmp_path / "run" / "model").provenance["data"]["dataset"]
    assert (told["source"], told["format"], told["samples"]) == (stream, "stream", 0)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert rows[-1]["images"] == 32 and not any(name.startswith("score") for row in rows for name in row)
    assert main(command(f"pipe:cat {shards}/{{00000..00002}}.tar", tmp_path / "run")) == 2
    assert "other settings (dataset.fingerprint" in capsys.readouterr().err
    assert main(["train", "two-tower", "--data", stream, "--out", str(tmp_path / "no")]) == 2
    assert "is a stream, which only Aurora trains on" in capsys.readouterr().err
