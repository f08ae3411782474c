"""A resumed metrics.jsonl equals an uninterrupted one; sinks are there or say what is missing."""

import json
import resource
import sys
import types

import numpy
import pytest
import torch
from PIL import Image

from impasto.runtime.log import MetricsError, MetricsWriter, read_metrics
from impasto.runtime.sinks import make_sinks


def write_range(writer, start, stop, pace):
    for images in range(start, stop, 32):
        writer.write(
            images, {"loss/generator": 1 / images, "count": images // 32}, time={"seconds": images * pace}
        )


def test_lines_hold_numbers_tensors_lists_and_no_nan(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    metrics = {
        "tensor": torch.tensor(0.5),
        "nan": float("nan"),
        "infinite": torch.tensor(float("-inf")),
        "numpy": numpy.float32(0.25),
        "load": {"16": torch.tensor([0.25, 0.75])},
        "words": "红色",
    }
    with MetricsWriter(path) as writer:
        writer.write(64, metrics, time={"seconds": 1.5})
        writer.sync()
    (line,) = path.read_text(encoding="utf-8").splitlines()
    expected = {"images": 64, "tensor": 0.5, "nan": None, "infinite": None, "numpy": 0.25}
    expected |= {"load": {"16": [0.25, 0.75]}, "words": "红色", "time": {"seconds": 1.5}}
    assert json.loads(line) == expected and list(json.loads(line)) == list(expected)
    with MetricsWriter(path) as writer, pytest.raises(ValueError, match="'time' is not a name"):
        writer.write(96, {"time": 1})


def test_a_resumed_file_equals_an_uninterrupted_one(tmp_path):
    whole, resumed = tmp_path / "whole.jsonl", tmp_path / "resumed.jsonl"
    with MetricsWriter(whole) as writer:
        write_range(writer, 32, 1000, pace=1)
    with MetricsWriter(resumed) as writer:
        write_range(writer, 32, 700, pace=1)
    with open(resumed, "ab") as file:
        file.write(b'{"images": 704, "loss/gen')  # killed in the middle of a line
    with MetricsWriter(resumed) as writer:
        assert writer.truncate_to(320) == 11
        write_range(writer, 352, 1000, pace=3)
    assert read_metrics(resumed, with_time=False) == read_metrics(whole, with_time=False)
    assert read_metrics(resumed) != read_metrics(whole)
    assert read_metrics(resumed)[0]["time"] == {"seconds": 32}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resumed.jsonl", "whole.jsonl"]


@pytest.mark.parametrize(
    "tail", [b'{"images": 99', b"\0" * 100, b"\0\0\0\n\0\0", b'{"images": 9\n{"ima', b""]
)
def test_a_torn_end_is_dropped_and_not_glued_to(tmp_path, tail):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"images": 1}\n{"images": 2}\n' + tail)
    if b"\n" not in tail:
        assert [line["images"] for line in read_metrics(path)] == [1, 2]  # a reader beside the run
    with MetricsWriter(path) as writer:
        writer.write(3, {})
    assert [line["images"] for line in read_metrics(path)] == [1, 2, 3]
    path.write_bytes(tail[:5])
    MetricsWriter(path).close()
    assert path.read_bytes() == b""


def test_damage_in_the_middle_is_an_error(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"images": 1}\nnonsense\n{"images": 2}\n')
    with (
        MetricsWriter(path) as writer,
        pytest.raises(MetricsError, match=r"line 2 is damaged .*delete that line"),
    ):
        writer.truncate_to(1)
    assert len(path.read_bytes().splitlines()) == 3


def test_a_full_disk_is_one_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = MetricsWriter(path)
    writer.write(1, {})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
    try:
        with pytest.raises(MetricsError, match=r"metrics.jsonl cannot be written: .*make room"):
            writer.write(2, {"x": "y" * 100_000})  # a part is written
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    writer.close()
    with MetricsWriter(path) as writer:
        writer.write(2, {})
    assert read_metrics(path) == [{"images": 1}, {"images": 2}]
    (tmp_path / "file").write_text("")
    with pytest.raises(MetricsError, match="cannot be written"):
        MetricsWriter(tmp_path / "file" / "metrics.jsonl")


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "tensorboard"), ("wandb", "wandb")])
def test_a_missing_package_is_named(tmp_path, monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MetricsError, match=rf"needs the package '{module}'.*pip install {module}"):
        make_sinks([name], tmp_path)


def test_an_unknown_sink_is_refused(tmp_path):
    with pytest.raises(MetricsError, match="did you mean 'tensorboard'"):
        make_sinks(["tensorbord"], tmp_path)
    assert make_sinks([], tmp_path) == []


class Recorder:
    """Stands in for a package: remembers the calls."""

    def __init__(self):
        self.calls = []
        self.id = "abc"

    def __getattr__(self, name):
        def record(*arguments, **options):
            self.calls.append((name, arguments, options))
            return self

        return record


def test_sinks_pass_on_what_they_are_told(tmp_path, monkeypatch):
    board, wandb = Recorder(), Recorder()
    monkeypatch.setitem(sys.modules, "tensorboard", types.ModuleType("tensorboard"))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for start in (0, 64):  # the second time resumed
        sinks = make_sinks(["tensorboard", "wandb"], tmp_path / "run", {"a": 1}, start)
        for sink in sinks:
            sink.write(start + 32, {"loss/generator": 0.5})
            sink.picture(start + 32, "samples", Image.new("RGB", (4, 2)))
            sink.close()
    purges = [options["purge_step"] for name, _, options in board.calls if name == "SummaryWriter"]
    assert purges == [None, 65]
    assert ("add_scalar", ("loss/generator", 0.5), {"global_step": 96}) in board.calls
    assert [options["id"] for name, _, options in wandb.calls if name == "init"] == [None, "abc"]
    assert ("log", ({"images": 96, "loss/generator": 0.5},), {}) in wandb.calls


def test_a_disk_that_refuses_to_sync_is_one_line(tmp_path, monkeypatch):
    def refuse(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.fsync", refuse)
    with (
        MetricsWriter(tmp_path / "metrics.jsonl") as writer,
        pytest.raises(MetricsError, match=r"metrics.jsonl cannot be written: Input/output error"),
    ):
        writer.sync()
