"""Training a two-tower scorer from the command line: it learns, stops in good order, and goes on exactly."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from impasto.cli import main
from impasto.config import ConfigError, override
from impasto.data.opening import open_data
from impasto.data.options import DatasetOptions
from impasto.data.scene_source import SceneSource
from impasto.data.source import DataSource
from impasto.runtime.checkpoint import CheckpointError, checkpoints, load_checkpoint
from impasto.runtime.dist import Ranks
from impasto.runtime.log import read_metrics
from impasto.vision import load_image_text_model
from impasto.vision.examples import ExampleStream
from impasto.vision.hard_negatives import KINDS
from impasto.vision.two_tower_config import TwoTowerRun
from impasto.vision.two_tower_launch import TwoTowerRecorder
from impasto.vision.two_tower_training import TwoTowerState, schedule, step
from tests.data.sets import pairs, write_folder

SETTINGS = (
    "model.backbone=efficientnet-lite0", "model.side=32", "model.grid_width=4", "model.queries=2",
    "model.token_width=16", "model.attention_heads=2", "model.hidden=32", "model.width=16",
    "data.max_objects=2", "data.textures=false", "training.resolution=16", "training.fresh=4",
    "training.batch=8", "training.window=8", "training.images=24", "training.warm_up=4",
    "training.log_every=4", "training.evaluate_every=12", "training.checkpoint_every=8",
    "training.evaluation_pictures=8",
)  # fmt: skip


def command(out: Path, *more: str) -> list[str]:
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    return ["train", "two-tower", "--data", "scenes", "--out", str(out), *settings, *more]


def stream_of(state: TwoTowerState, run: TwoTowerRun) -> ExampleStream:
    source = SceneSource(16, run.data)
    return ExampleStream(state.model, source, run.training.fresh, 3, seed=0, hard_negatives=True)


def test_the_loss_falls() -> None:
    class Same(ExampleStream):
        def batch(self, *_: object):  # type: ignore[override]
            return super().batch(2, 8, 8, torch.Generator().manual_seed(0))

    run = override(TwoTowerRun(), [*SETTINGS, "training.images=4096", "training.learning_rate=0.003"])
    state = TwoTowerState.fresh(run)
    stream = Same(state.model, SceneSource(16, run.data), 4, 3, seed=0, hard_negatives=True)
    frozen = {name: value.clone() for name, value in state.model.features.state_dict().items()}
    step(state, stream)
    first = state.means.take(Ranks())
    for _ in range(40):
        step(state, stream)
    state.means.take(Ranks())
    step(state, stream)
    means = state.means.take(Ranks())
    assert means["loss/contrastive"] < first["loss/contrastive"] / 3 and means["nonfinite"] == 0
    assert means["loss/pairs"] < 0.75 * first["loss/pairs"]
    assert 1 < means["scale"] <= 100
    assert all(torch.equal(value, frozen[name]) for name, value in state.model.features.state_dict().items())


def test_the_scale_is_capped() -> None:
    heads = TwoTowerState.fresh(override(TwoTowerRun(), SETTINGS)).model.heads
    torch.nn.init.constant_(heads.log_scale, 9.0)
    heads.cap_scale()
    assert float(heads.log_scale.detach().exp()) == pytest.approx(100)


def test_a_checkpoint_of_other_heads_is_one_line(tmp_path: Path) -> None:
    saved = TwoTowerState.fresh(override(TwoTowerRun(), SETTINGS)).save(tmp_path)
    other = TwoTowerState.fresh(override(TwoTowerRun(), [*SETTINGS, "model.hidden=48"]))
    with pytest.raises(CheckpointError, match=r"is of other heads: .*size mismatch") as caught:
        other.restore(saved)
    assert "\n" not in str(caught.value)


def test_examples_depend_on_their_position_alone() -> None:
    run = override(TwoTowerRun(), SETTINGS)
    state = TwoTowerState.fresh(run)
    batches = []
    for numbers in ((0, 1, 2, 3), (3,)):
        stream = stream_of(state, run)
        for number in numbers:
            batch = stream.batch(number, 8, 8, torch.Generator().manual_seed(number))
        batches.append(batch)
    one, other = batches
    assert len(one) == 8 and one.ids.shape == (16,) and len(one.texts()) == 16
    assert torch.equal(one.pooled, other.pooled) and torch.equal(one.ids, other.ids)
    assert one.pairs.shape == (16, 64) and torch.equal(one.pairs, other.pairs)
    assert torch.equal(one.texts().tokens, other.texts().tokens)
    assert all(torch.equal(a, b) for a, b in zip(one.maps, other.maps, strict=True))
    assert len(stream_of(state, run).batch(0, 8, 8, torch.Generator())) == 4  # nothing before it


def test_stopped_by_a_signal_and_resumed_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(tmp_path / "whole")) == 0
    tick = TwoTowerRecorder.tick

    def stop_at_twelve(self: TwoTowerRecorder, images: int) -> None:
        tick(self, images)
        if images == 12:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(TwoTowerRecorder, "tick", stop_at_twelve)
        assert main(command(tmp_path / "parts")) == 0
    assert "SIGTERM; the run is in" in capsys.readouterr().out
    assert checkpoints(tmp_path / "parts")[-1].name == "000000000012"
    assert main(command(tmp_path / "parts", "--resume", "auto")) == 0
    assert "finished; the run is in" in capsys.readouterr().out
    whole, parts = (load_checkpoint(checkpoints(tmp_path / name)[-1]) for name in ("whole", "parts"))
    assert whole[1] == parts[1]
    for group, tensors in whole[0].items():
        assert all(torch.equal(tensor, parts[0][group][name]) for name, tensor in tensors.items())
    lines = [read_metrics(tmp_path / name / "metrics.jsonl", with_time=False) for name in ("whole", "parts")]
    assert lines[0] == lines[1]
    check_what_a_run_leaves(tmp_path / "whole", lines[0])
    assert main(command(tmp_path / "whole", "--resume", "never")) == 2
    assert "holds a run; choose another --out" in capsys.readouterr().err
    assert main(command(tmp_path / "whole", "--set", "training.images=48")) == 2
    assert "other settings (training.images: 24 -> 48)" in capsys.readouterr().err


def check_what_a_run_leaves(out: Path, lines: list[dict]) -> None:
    evaluated = [line for line in lines if "retrieval/hard" in line]
    assert [line["images"] for line in evaluated] == [12, 24]
    for split in ("retrieval", "retrieval_heldout"):
        names = {f"{split}/{name}" for name in ("image_to_text", "text_to_image", "hard", "colour", "shape")}
        assert names <= evaluated[-1].keys()
        assert all(0 <= evaluated[-1][name] <= 1 for name in names)
    assert sum("loss/contrastive" in line for line in lines) == 6 and {"swap", "direction"} < set(KINDS)
    assert {path.name for path in (out / "model").iterdir()} == {
        "config.json", "model.safetensors", "README.md",
    }  # fmt: skip
    assert "24 scenes of 16 px" in (out / "model" / "README.md").read_text()
    assert (out / "report.html").is_file()
    model = load_image_text_model(f"two-tower:{out / 'model'}")
    assert model.embed_images(torch.zeros(1, 3, 16, 16)).shape == model.embed_texts(["a red circle"]).shape


def test_a_time_limit_and_a_saved_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(tmp_path / "run", "--time-limit", "0.00001")) == 0
    assert "time limit; the run is in" in capsys.readouterr().out
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["000000000004"]
    saved = str(tmp_path / "run" / "config.json")
    assert main(["train", saved, "--out", "unused", "--dry-run", "--set", "training.seed=3"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["training"]["seed"] == 3 and printed["model"]["backbone"] == "efficientnet-lite0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "two-towr", "--out", "x"], "did you mean 'two-tower'?"),
        (["train", "two-tower", "--out", "x", "--set", "training.frsh=3"], "did you mean 'fresh'?"),
        (["train", "two-tower", "--out", "x", "--set", "training.batch=33"], "a multiple of fresh=32"),
        (["train", "two-tower", "--out", "x", "--data", "scnes"], "scnes: there is no such file or folder"),
        (["train", "two-tower", "--out", "x", "--init-from", "y"], "leave --init-from out"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # In float32, since a processor without bfloat16 is told of in a line of its own.
    assert main([*arguments, "--set", "training.bfloat16=false"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_schedule() -> None:
    config = override(TwoTowerRun(), ["training.images=1024", "training.warm_up=128"]).training
    assert schedule(config, 0) == pytest.approx(0.25, rel=0.01)
    assert schedule(config, 96) > schedule(config, 512) > schedule(config, 992) > 0
    assert schedule(config, 1024) == 0
    with pytest.raises(ConfigError, match=r"training\.fresh=1 should be at least 2"):
        override(TwoTowerRun(), ["training.fresh=1"])


def test_a_folder_is_trained_on_and_resumed_bit_for_bit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The set is seen several times over: no caption of a picture counts as wrong for it."""
    data = write_folder(tmp_path / "data", pairs(12))
    (data / "00003.jpg").write_bytes(b"no picture")
    (data / "00004.txt").write_text("the same thing\nsaid in other words\n")
    more = ["--data", str(data), "--set", "dataset.max_bad=0.1"]
    assert main(command(tmp_path / "whole", *more)) == 0
    assert "1 picture damaged (00003.jpg)" in capsys.readouterr().out
    stopped = ["--time-limit", "0.00001", "--set", "dataset.workers=0"]
    assert main(command(tmp_path / "parts", *more, *stopped)) == 0
    assert main(command(tmp_path / "parts", *more)) == 0
    whole, parts = (load_checkpoint(checkpoints(tmp_path / name)[-1]) for name in ("whole", "parts"))
    assert checkpoints(tmp_path / "parts")[-1].name == "000000000024"
    for group, tensors in whole[0].items():
        assert all(torch.equal(tensor, parts[0][group][name]) for name, tensor in tensors.items())
    assert main(["data", "texts", str(data), "--dtype", "bfloat16"]) == 0
    stored = ["--set", f"dataset.text_features={data / '.impasto-text'}"]
    assert main(command(tmp_path / "stored", *more, *stored)) == 0
    again = load_checkpoint(checkpoints(tmp_path / "stored")[-1])[0]
    for group, tensors in whole[0].items():
        assert all(torch.equal(tensor, again[group][name]) for name, tensor in tensors.items())
    names = {name for line in read_metrics(tmp_path / "whole" / "metrics.jsonl") for name in line}
    assert "retrieval/image_to_text" in names
    assert not any("heldout" in name or "hard" in name for name in names)
    assert f"from {data} (12 samples)" in (tmp_path / "whole" / "model" / "README.md").read_text()
    assert main(command(tmp_path / "whole")) == 2
    assert "other settings" in capsys.readouterr().err


def test_the_same_picture_is_told_again_in_a_later_epoch(tmp_path: Path) -> None:
    run = override(TwoTowerRun(), SETTINGS)
    state = TwoTowerState.fresh(run)
    source = DataSource(open_data(write_folder(tmp_path / "data", pairs(6))), 16, DatasetOptions(workers=0))
    stream = ExampleStream(state.model, source, 4, 3, seed=0, hard_negatives=False)
    batch = stream.batch(2, 12, 8, torch.Generator())
    assert sorted(batch.samples.tolist()) == sorted([*range(6), *range(6)])
    first = batch.samples.tolist().index(int(batch.samples[-1]))
    assert torch.equal(batch.pooled[first], batch.pooled[-1]) and first != 11
