"""Every preset builds without memory, survives JSON, and has the size it says."""

import pytest
from transformers import Qwen2Config, Qwen2ForCausalLM

from impasto.config import ConfigError, from_dict, override, to_dict
from impasto.mars.analysis import measure
from impasto.mars.config import LanguageConfig, MarsConfig, VisualConfig
from impasto.mars.presets import PRESETS

SIZES = {  # in all, trained
    "mars-nano": (1_676_416, 871_424),
    "mars-tiny": (79_731_200, 39_864_320),
    "mars-smollm2-135m": (250_129_728, 115_614_720),
    "mars-0.5b": (866_581_376, 372_548_608),
    "mars-7b": (14_264_897_536, 6_543_572_992),
}
BASES = {"mars-smollm2-135m": 134_515_008, "mars-0.5b": 494_032_768, "mars-7b": 7_721_324_544}  # published


@pytest.mark.parametrize("name", PRESETS)
def test_sizes(name):
    config = PRESETS[name].build()
    size = measure(config)
    assert (size.parameters, size.trained) == SIZES[name]
    assert size.frozen == BASES.get(name, size.frozen) == size.parameters - size.trained
    assert sum(size.by_part.values()) == size.parameters
    assert from_dict(MarsConfig, to_dict(config)) == config
    assert PRESETS[name].summary


def test_the_paper_scale_in_its_three_readings():
    """Section 4.3 of the notes: W_O per modality or shared."""
    size = measure(override(PRESETS["mars-7b"].build(), ["visual.output_projection=shared"]))
    assert round(size.trained / 1e9, 2) == 6.01 and round(size.parameters / 1e9, 2) == 13.73
    norms = measure(override(PRESETS["mars-7b"].build(), ["visual.norms=per_modality"]))
    assert norms.trained - SIZES["mars-7b"][1] == 65 * 4096
    assert norms.cache_bytes_per_token == 512 * 1024


def test_the_half_billion_shape_is_transformers_own():
    config = PRESETS["mars-0.5b"].build().language
    import torch

    with torch.device("meta"):
        theirs = Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=config.vocabulary,
                hidden_size=config.width,
                intermediate_size=config.feed_forward,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                num_key_value_heads=config.key_value_heads,
                tie_word_embeddings=True,
            )
        )
    assert sum(p.numel() for p in theirs.parameters()) == BASES["mars-0.5b"]


def test_impossible_configurations_are_refused():
    with pytest.raises(ConfigError, match="do not divide"):
        LanguageConfig(heads=7, key_value_heads=2)
    with pytest.raises(ConfigError, match="even"):
        LanguageConfig(head_dim=5)
    with pytest.raises(ConfigError, match="end_of_text"):
        LanguageConfig(vocabulary=10)
    with pytest.raises(ConfigError, match="at least 2"):
        VisualConfig(codes=1)
    with pytest.raises(ConfigError, match="at least 1"):
        LanguageConfig(layers=0)
    with pytest.raises(ConfigError, match="not be negative"):
        VisualConfig(initial_noise=-1.0)
    with pytest.raises(ConfigError, match=r"visual\.initial_codebook=-1\.0 should not be negative"):
        VisualConfig(initial_codebook=-1.0)
