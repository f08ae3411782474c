"""What is written one tensor at a time is what the library reads."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from impasto.runtime import safetensors_stream
from impasto.runtime.safetensors_stream import METADATA, write_tensors


def test_tensors_written_one_by_one_are_read_back(tmp_path, monkeypatch):
    tensors = {
        "b.weight": torch.randn(3, 5),
        "a.half": torch.randn(7).bfloat16(),
        "double": torch.randn(2, 2, dtype=torch.float64),
        "number": torch.tensor(3),
        "flags": torch.tensor([True, False, True]),
        "transposed": torch.randn(4, 6).T,
        "none": torch.empty(0, 4),
    }
    write_tensors(tmp_path / "library", tensors)
    monkeypatch.setattr(safetensors_stream, "is_sharded", lambda tensor: True)
    write_tensors(tmp_path / "ours", tensors)
    loaded = load_file(tmp_path / "ours")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor)
    with safe_open(tmp_path / "ours", framework="pt") as opened:
        assert opened.metadata() == METADATA
    assert (tmp_path / "ours").stat().st_size == (tmp_path / "library").stat().st_size


def test_a_type_that_the_format_has_not_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors_stream, "is_sharded", lambda tensor: True)
    with pytest.raises(ValueError, match=r"'phase' is of torch.complex64, not among F64"):
        write_tensors(tmp_path / "file", {"phase": torch.zeros(2, dtype=torch.complex64)})
    assert not (tmp_path / "file").exists()
