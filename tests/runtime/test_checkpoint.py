"""Checkpoints are whole or absent, whatever happens while they are written."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from impasto.runtime import checkpoint
from impasto.runtime.checkpoint import (
    CheckpointError,
    DamagedCheckpointError,
    checkpoint_path,
    checkpoints,
    clean_leftovers,
    images_of,
    latest_checkpoint,
    load_checkpoint,
    prune,
    remove_after,
    save_checkpoint,
)

KILLED = Path(__file__).with_name("killed_while_saving.py")


def tensors_of(images):
    numbers = torch.arange(1000.0) * images
    return {
        "generator": {"a.weight": numbers, "step": torch.tensor(float(images))},
        "rng": {"x": numbers.byte()},
    }


def save(run, images, **state):
    return save_checkpoint(run, images, tensors_of(images), {"images": images, **state})


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def names(run):
    return sorted(os.listdir(run / "checkpoints"))


def test_what_is_saved_is_loaded(tmp_path):
    state = {"cursor": {"epoch": 3, "position": 17}, "best": float("inf"), "captions": ["红色的圆"]}
    shared = torch.randn(4, 4)
    tensors = {
        "generator": {"w": shared, "tied": shared, "turned": shared.t(), "part": shared[1]},
        "optimizer_generator": {"step": torch.tensor(3.0), "half": torch.randn(3).bfloat16()},
        "empty": {},
    }
    path = save_checkpoint(tmp_path, 12345, tensors, state)
    assert path == tmp_path / "checkpoints" / "000000012345" and images_of(path) == 12345
    assert sorted(os.listdir(path)) == [
        "empty.safetensors",
        "generator.safetensors",
        "manifest.json",
        "optimizer_generator.safetensors",
        "state.json",
    ]
    loaded, loaded_state = load_checkpoint(path)
    assert loaded_state == state and loaded.keys() == tensors.keys()
    for entry, group in tensors.items():
        assert loaded[entry].keys() == group.keys()
        for name, tensor in group.items():
            assert loaded[entry][name].dtype == tensor.dtype and torch.equal(loaded[entry][name], tensor)
    assert load_checkpoint(path, verified=True)[1] == state


def test_saving_the_same_image_count_again_replaces(tmp_path):
    save(tmp_path, 5, word="old")
    path = save(tmp_path, 5, word="new")
    assert load_checkpoint(path)[1]["word"] == "new" and names(tmp_path) == [".lock", path.name]


def test_what_cannot_be_saved_is_refused_before_writing(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(tmp_path, 1, {}, {"x": object()})
    with pytest.raises(ValueError, match=r"'\.\./x'"):
        save_checkpoint(tmp_path, 1, {"../x": {}}, {})
    assert checkpoints(tmp_path) == []


@pytest.mark.parametrize("file", ["generator.safetensors", "rng.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_newest_is_reported_and_passed_over(tmp_path, file, damage, caplog):
    older = save(tmp_path, 10)
    newest = save(tmp_path, 20)
    if damage == "flip" and file == "manifest.json":
        document = json.loads((newest / file).read_text())
        document["files"]["state.json"]["sha256"] = "0" * 64
        (newest / file).write_text(json.dumps(document))
    elif damage == "flip":
        flip_a_byte(newest / file)
    elif damage == "cut":
        os.truncate(newest / file, (newest / file).stat().st_size // 2)
    else:
        (newest / file).unlink()
    assert latest_checkpoint(tmp_path) == older
    (line,) = [record.getMessage() for record in caplog.records]
    assert str(newest) in line and "delete it" in line and "\n" not in line
    with pytest.raises(DamagedCheckpointError, match=str(newest)):
        load_checkpoint(newest)


def test_a_run_is_not_begun_again_by_accident(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    flip_a_byte(save(tmp_path, 10) / "generator.safetensors")
    with pytest.raises(CheckpointError, match="every checkpoint is damaged; move it away"):
        latest_checkpoint(tmp_path, warn=lambda line: None)


def test_a_checkpoint_of_another_format_or_place_is_an_error(tmp_path):
    path = save(tmp_path, 10)
    document = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**document, "format": 2}))
    with pytest.raises(CheckpointError, match="is of format 2, this version reads 1"):
        latest_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="nowhere is not a folder"):
        load_checkpoint(tmp_path / "nowhere")


def test_a_file_that_may_not_be_read_now_is_not_called_damaged(tmp_path, monkeypatch):
    save(tmp_path, 10)
    save(tmp_path, 20)

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checkpoint, "fingerprint", refuse)
    with pytest.raises(CheckpointError, match="check its permissions"):
        latest_checkpoint(tmp_path)


def test_prune_keeps_the_last_and_the_best(tmp_path):
    paths = [save(tmp_path, images) for images in (10, 20, 30, 40, 50)]
    assert prune(tmp_path, keep_last=2, keep={paths[1]}) == [paths[0], paths[2]]
    assert checkpoints(tmp_path) == [paths[1], paths[3], paths[4]]
    with pytest.raises(ValueError, match="keep_last=0"):
        prune(tmp_path, keep_last=0)


def test_prune_never_removes_what_was_written_last(tmp_path):
    """A run resumed at 20 because 50 is damaged must not lose 25 to a keep_last of 1."""
    paths = [save(tmp_path, images) for images in (20, 50, 25)]
    flip_a_byte(paths[1] / "generator.safetensors")
    assert prune(tmp_path, keep_last=1) == [paths[0]]
    assert latest_checkpoint(tmp_path, warn=lambda line: None) == paths[2]
    os.truncate(paths[1] / "state.json", 1)  # seen without checksums: does not count as one of the last
    assert prune(tmp_path, keep_last=1) == [paths[1]]
    os.truncate(paths[2] / "state.json", 1)
    assert prune(tmp_path) == [] and checkpoints(tmp_path) == [paths[2]]


def test_a_rewound_run_forgets_what_came_after(tmp_path):
    paths = [save(tmp_path, images) for images in (10, 20, 30)]
    assert remove_after(tmp_path, 10) == paths[1:]
    assert checkpoints(tmp_path) == paths[:1]


def test_a_half_removed_checkpoint_is_not_taken_for_one(tmp_path, monkeypatch):
    paths = [save(tmp_path, images) for images in (10, 20)]

    def killed(path, **_):
        (Path(path) / "state.json").unlink()

    monkeypatch.setattr(shutil, "rmtree", killed)
    prune(tmp_path, keep_last=1)
    monkeypatch.undo()
    assert len(names(tmp_path)) == 3 and checkpoints(tmp_path) == paths[1:]
    assert latest_checkpoint(tmp_path) == paths[1] and names(tmp_path) == [".lock", paths[1].name]


def test_leftovers_of_the_dead_are_cleaned_and_a_replaced_one_comes_back(tmp_path):
    path = save(tmp_path, 10)
    folder = path.parent
    os.replace(path, folder / ".000000000010.0123abcd.old")  # killed before the new one took its name
    (folder / ".000000000010.0123abce.tmp").mkdir()
    (folder / ".000000000005.0123abcd.old").mkdir()
    save(tmp_path, 5)
    (folder / ".notes.tmp").mkdir()  # not ours
    assert latest_checkpoint(tmp_path) == path
    assert names(tmp_path) == [".lock", ".notes.tmp", "000000000005", "000000000010"]


def test_leftovers_of_the_living_are_left_alone(tmp_path):
    path = save(tmp_path, 10)
    writing = path.parent / ".000000000020.0123abcd.tmp"
    writing.mkdir()
    script = (
        "import fcntl, sys\n"
        "file = open(sys.argv[1], 'a'); fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(path.parent / checkpoint.LOCK)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        assert clean_leftovers(tmp_path) == [] and latest_checkpoint(tmp_path) == path and writing.exists()
        other.kill()
    assert clean_leftovers(tmp_path) == [writing.name] and not writing.exists()


def test_a_full_disk_leaves_the_earlier_checkpoints(tmp_path):
    path = save(tmp_path, 10)
    large = {"generator": {"w": torch.zeros(1000)}, "discriminator": {"w": torch.zeros(100_000)}}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(
            CheckpointError, match=r"000000000020 cannot be written: .*File too large"
        ) as caught:
            save_checkpoint(tmp_path, 20, large, {})
        with pytest.raises(CheckpointError, match="cannot be written"):  # in state.json, after the tensors
            save_checkpoint(tmp_path, 20, {}, {"x": "y" * 200_000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    message = str(caught.value)
    assert "earlier checkpoints are intact" in message and "\n" not in message
    assert names(tmp_path) == [".lock", path.name] and latest_checkpoint(tmp_path) == path
    assert latest_checkpoint(tmp_path) == path and save(tmp_path, 20) == latest_checkpoint(tmp_path)


@pytest.mark.parametrize("step", range(1, 9))
def test_an_error_at_any_flush_or_rename_leaves_the_earlier_checkpoints(tmp_path, monkeypatch, step):
    path = save(tmp_path, 10)
    calls = 0

    def failing(function):
        def call(*arguments):
            nonlocal calls
            calls += 1
            if calls == step:
                raise OSError(28, "No space left on device")
            return function(*arguments)

        return call

    monkeypatch.setattr(os, "fsync", failing(os.fsync))
    monkeypatch.setattr(os, "replace", failing(os.replace))
    reached = 7  # four files, their folder, the rename, the folder above
    if step > reached:
        save(tmp_path, 20)
        assert calls == reached
        return
    with pytest.raises(CheckpointError, match="No space left on device"):
        save(tmp_path, 20)
    monkeypatch.undo()
    expected = path if step < reached else checkpoint_path(tmp_path, 20)
    assert latest_checkpoint(tmp_path) == expected and load_checkpoint(expected)


def test_kill_9_at_any_moment_loses_no_checkpoint(tmp_path):
    """25 processes in turn save, replace and prune in a loop, and are killed at random moments."""
    done = subprocess.run(
        [sys.executable, str(KILLED), str(tmp_path), "25"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["rounds"] == 25 and report["saved"] > 25 and report["leftovers"] > 0
    assert [name for name in names(tmp_path) if name.startswith(".")] == [".lock"]
