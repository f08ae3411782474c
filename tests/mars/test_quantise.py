"""8-bit weights: small errors, whole pictures, one line without the package."""

import importlib.util

import pytest
import torch

from impasto.config import ConfigError
from impasto.mars.lora import add_adapters
from impasto.mars.quantise import quantise_int8
from impasto.mars.sampling import caption_images, generate_images
from impasto.mars.sequence import text_to_image
from tests.conftest import relative_difference
from tests.mars.models import LENGTH, captions, random_codes, tiny_model

pytest.importorskip("torchao")


@torch.no_grad()
def test_logits_stay_close_and_pictures_whole():
    model = tiny_model(apart=False)
    batch = text_to_image(model.config, captions(), random_codes(4))
    before = model.code_logits(model(batch.tokens, batch.routing))
    quantised = quantise_int8(tiny_model(apart=False))
    after = quantised.code_logits(quantised(batch.tokens, batch.routing))
    assert 0 < relative_difference(after, before) < 0.05
    kinds = {type(layer.visual.attention.query.weight).__name__ for layer in quantised.layers}
    assert kinds.isdisjoint({"Parameter", "Tensor"})
    drawn = generate_images(quantised, captions(), seeds=[0, 1, 2, 3], guidance=3.0)
    assert drawn.shape == (4, LENGTH) and int(drawn.min()) >= 0 and int(drawn.max()) < 32
    assert torch.equal(drawn[1:2], generate_images(quantised, captions()[1:2], seeds=[1], guidance=3.0))
    assert len(caption_images(quantised, drawn, max_tokens=4)) == 4


def test_without_torchao_it_says_so(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"need the package torchao: pip install 'impasto\[int8\]'"):
        quantise_int8(tiny_model())


def test_adapters_have_to_be_merged_first():
    pytest.importorskip("peft")
    model = tiny_model()
    add_adapters(model, 2, 4.0)
    with pytest.raises(ValueError, match="merge the adapters"):
        quantise_int8(model)
