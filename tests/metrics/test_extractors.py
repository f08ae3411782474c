"""Extractors by name: one protocol, nothing downloaded, nothing guessed."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model

from impasto.config import ConfigError
from impasto.metrics.extractors import EXTRACTORS, Extractor, load_extractor, to_bytes
from impasto.metrics.features import EXTRACTOR
from impasto.vision.dinov2 import DEVIATION, MEAN
from impasto.vision.efficientnet import ImageFeatures

IMAGES = torch.linspace(-1, 1, 2 * 3 * 40 * 40).reshape(2, 3, 40, 40)


def test_the_default_is_the_extractor_of_the_other_reports():
    found, network = load_extractor(), ImageFeatures(EXTRACTOR, 64)
    assert isinstance(found, Extractor) and found.distance == "FD-EffNetLite0"
    assert found.fingerprint == network.fingerprint and found.settings["side"] == 64
    assert torch.equal(found.features(IMAGES), network.pooled(IMAGES))
    json.dumps(found.settings)
    larger = load_extractor("efficientnet-lite0:96")
    assert larger.distance == "FD-EffNetLite0-96px" and larger.fingerprint != found.fingerprint


def test_a_dinov2_directory(tmp_path):
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=56, patch_size=14
    )
    model = Dinov2Model(config).eval()
    model.save_pretrained(tmp_path)
    found = load_extractor(f"dinov2:{tmp_path}")
    images = torch.rand(2, 3, 224, 224)
    mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, DEVIATION))
    with torch.no_grad():
        expected = model(pixel_values=(images - mean) / deviation).last_hidden_state[:, 0]
    assert torch.allclose(found.features(images * 2 - 1), expected, atol=1e-4)
    assert found.distance == "FD-DINOv2" and len(found.fingerprint) == 64
    assert found.features(IMAGES).shape == (2, 24)
    state = load_file(tmp_path / "model.safetensors")
    del state["layernorm.weight"]
    from safetensors.torch import save_file

    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"missing_keys, such as layernorm\.weight"):
        load_extractor(f"dinov2:{tmp_path}")
    with pytest.raises(ValueError, match="dinov2 model, not a whole CLIP"):
        load_extractor(f"clip:{tmp_path}")


def test_a_clip_directory(tmp_path):
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**tower, "image_size": 32, "patch_size": 16}
    model = CLIPModel(CLIPConfig(text_config=tower, vision_config=vision, projection_dim=12)).eval()
    model.save_pretrained(tmp_path)
    found = load_extractor(f"clip:{tmp_path}")
    assert found.distance == "FD-CLIP" and found.settings["side"] == 32
    assert found.features(IMAGES).shape == (2, 12) and not found.features(IMAGES).requires_grad


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("efficientnet-lit0", ConfigError, "did you mean 'efficientnet-lite0'"),
        ("inceptoin:x", ConfigError, "did you mean 'inception'"),
        ("vgg", ConfigError, "choose from"),
        ("efficientnet-lite0:small", ConfigError, "lite0:SIDE"),
        ("clip", ConfigError, "clip:DIRECTORY"),
        ("clip:openai/clip-vit-base-patch32", FileNotFoundError, "no such directory"),
        ("dinov2:/absent", FileNotFoundError, "no such directory"),
        ("inception", ConfigError, "inception:FILE"),
        ("inception:/absent.pth", FileNotFoundError, "no such file"),
    ],
)
def test_mistakes_are_named(spec, error, message):
    with pytest.raises(error, match=message):
        load_extractor(spec)


def test_inception_says_what_it_needs(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    (tmp_path / "weights.pth").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"pip install 'impasto\[fidelity\]'"):
        load_extractor(f"inception:{tmp_path / 'weights.pth'}")


def test_inception_is_torch_fidelitys(tmp_path, monkeypatch):
    fidelity = pytest.importorskip("torch_fidelity", exc_type=ImportError)
    monkeypatch.setattr(
        fidelity.feature_extractor_inceptionv3, "load_state_dict_from_url", lambda *a, **k: {}
    )
    kind = fidelity.FeatureExtractorInceptionV3
    with monkeypatch.context() as patch:
        patch.setattr(kind, "load_state_dict", lambda self, state: None)
        network = kind("random", ["2048"])
    file = tmp_path / "weights.pth"
    torch.save(network.state_dict(), file)
    found = load_extractor(f"inception:{file}")
    assert found.distance == "FD-Inception"  # FID is that of the published file alone
    assert torch.equal(found.features(IMAGES), network(to_bytes(IMAGES))[0])
    torch.save({"x": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match="does not hold the weights of Inception"):
        load_extractor(f"inception:{file}")
    assert set(EXTRACTORS) == {"efficientnet-lite0", "efficientnet-lite2", "clip", "dinov2", "inception"}
