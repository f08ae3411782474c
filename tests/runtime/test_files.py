"""Files are whole or absent."""

import pytest

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
