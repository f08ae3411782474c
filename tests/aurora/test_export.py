"""A generator as one graph."""

import pytest
import torch

import impasto
from impasto.aurora import export as exporting
from impasto.cli import main
from impasto.config import ConfigError
from impasto.nn.moe import SparseFeedForward


def test_every_expert_on_every_token_picks_the_same():
    layer = SparseFeedForward(12, 16, 4, 8).eval()
    x, w = torch.randn(2, 9, 12), torch.randn(2, 8)
    with torch.no_grad():
        expected, routing = layer(x, w)
        layer.experts = exporting.DenseExperts(layer.experts)
        actual, again = layer(x, w)
    assert torch.equal(routing.expert_index, again.expert_index)
    assert torch.allclose(actual, expected, atol=1e-6)


def test_what_cannot_be_exported_is_refused(tmp_path, capsys):
    pipe = impasto.load("aurora-debug")
    for path, options in ((tmp_path / "g.bin", {}), (tmp_path / "g.pt2", {"batch": 0})):
        with pytest.raises(ConfigError):
            exporting.export(pipe, path, **options)
    with pytest.raises(ConfigError, match="the graph takes 4"):
        exporting.inputs_for(pipe, ["a long prompt of many words"], [0], 4)
    assert main(["export", str(tmp_path / "g.onnx"), "--model", "mars-nano"]) == 2
    assert "this verb takes aurora" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.long
@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_the_shipped_generator_as_a_graph(tmp_path, capsys, suffix, monkeypatch):
    path = tmp_path / f"generator{suffix}"
    arguments = ["export", str(path), "--batch", "2", "--tokens", "16"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "largest difference from the model" in printed and path.stat().st_size > 1e6
    # A graph that draws something else is not kept.
    monkeypatch.setattr(exporting, "parity", lambda *arguments: 0.5)
    path.unlink()
    assert main(arguments) == 2 and not list(tmp_path.iterdir())
