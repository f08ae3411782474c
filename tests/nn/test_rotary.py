"""Rotary tables against transformers' own, and what rotation keeps."""

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from impasto.config import ConfigError
from impasto.nn.rotary import Rotary, RotaryConfig, positions_of, rotate

THEIRS = {
    "default": {"rope_type": "default", "rope_theta": 5e5},
    "linear": {"rope_type": "linear", "rope_theta": 5e5, "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 5e5,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 256,
    },
}
OURS = {
    "default": RotaryConfig(theta=5e5),
    "linear": RotaryConfig(theta=5e5, scaling="linear", factor=4.0),
    "llama3": RotaryConfig(theta=5e5, scaling="llama3", factor=8.0, original_context=256),
}


@pytest.mark.parametrize("kind", THEIRS)
def test_tables_are_those_of_transformers(kind):
    config = LlamaConfig(
        hidden_size=128, num_attention_heads=2, max_position_embeddings=4096, rope_parameters=THEIRS[kind]
    )
    positions = torch.tensor([[0, 1, 7, 300, 3000]])
    cosine, sine = LlamaRotaryEmbedding(config)(torch.zeros(1), positions)
    ours = Rotary(OURS[kind], 64).tables(positions, torch.float32)
    torch.testing.assert_close(ours[0][:, 0], cosine, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours[1][:, 0], sine, atol=1e-5, rtol=0)


def test_rotation_keeps_norms_and_depends_on_distances_alone():
    rotary = Rotary(RotaryConfig(), 16)
    q, k = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)

    def score(i: int, j: int) -> torch.Tensor:
        at = [rotary.tables(torch.tensor([[p]]), torch.float32) for p in (i, j)]
        return (rotate(q, at[0]) * rotate(k, at[1])).sum()

    assert torch.allclose(score(7, 3), score(104, 100), atol=1e-4)
    turned = rotate(q, rotary.tables(torch.tensor([[9]]), torch.float32))
    assert torch.allclose(turned.norm(), q.norm())


def test_positions_skip_padding():
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]], dtype=torch.bool)
    assert positions_of(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 2]]


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="even"):
        Rotary(RotaryConfig(), 7)
    with pytest.raises(ConfigError, match="positive"):
        RotaryConfig(theta=0.0)
