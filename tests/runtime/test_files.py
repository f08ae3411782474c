"""Files are whole or absent."""

import os

import pytest
import torch
from safetensors.torch import save_file

from impasto.runtime.files import atomic_directory, atomic_path, atomic_write_text


def test_a_file_replaces_another_only_when_complete(tmp_path):
    target = tmp_path / "a" / "b.txt"
    atomic_write_text(target, "old")

    def write_and_fail():
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert target.read_text() == "old" and list(target.parent.iterdir()) == [target]
    atomic_write_text(target, "new")
    assert target.read_text() == "new"


def test_a_directory_replaces_another_only_when_complete(tmp_path):
    target = tmp_path / "model"
    for text in ("first", "second"):
        with atomic_directory(target) as folder:
            (folder / "x").write_text(text)
        assert (target / "x").read_text() == text

    def write_and_fail():
        with atomic_directory(target) as folder:
            (folder / "x").write_text("third")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert (target / "x").read_text() == "second" and list(tmp_path.iterdir()) == [target]


def test_files_can_be_read_by_those_whom_the_umask_allows(tmp_path):
    """safetensors alone would give them to their owner only."""
    before = os.umask(0o027)
    try:
        with atomic_path(tmp_path / "a.safetensors") as temporary:
            save_file({"x": torch.zeros(1)}, temporary)
        with atomic_directory(tmp_path / "model") as folder:
            save_file({"x": torch.zeros(1)}, folder / "b.safetensors")
    finally:
        os.umask(before)
    for file in (tmp_path / "a.safetensors", tmp_path / "model" / "b.safetensors"):
        assert file.stat().st_mode & 0o777 == 0o640
