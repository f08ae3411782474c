"""The two-tower scorer as a model: what it sees, what is frozen, and its directory."""

import json
from pathlib import Path

import pytest
import torch

from impasto.config import ConfigError, override
from impasto.metrics.features import SameNetworkError, refuse_training_networks
from impasto.runtime.model_directory import save_model
from impasto.vision import ImageTextModel, load_image_text_model
from impasto.vision.efficientnet import ImageFeatures
from impasto.vision.features import hashes_by_role
from impasto.vision.two_tower import TwoTower, TwoTowerConfig
from tests.conftest import relative_difference

TINY = TwoTowerConfig(
    backbone="efficientnet-lite0", side=32, grid_width=4, queries=2, token_width=8, attention_heads=2,
    hidden=16, width=12,
)  # fmt: skip
TEXTS = ["a red circle", "two small blue squares to the left of a large green star", ""]


@pytest.fixture(scope="module")
def model() -> TwoTower:
    return TwoTower.fresh(TINY, seed=1)


@pytest.fixture
def directory(model: TwoTower, tmp_path: Path) -> Path:
    model.save(tmp_path / "model", "a card\n")
    return tmp_path / "model"


def test_shapes_and_what_is_differentiable(model: TwoTower) -> None:
    images = (torch.rand(3, 3, 20, 24) * 2 - 1).requires_grad_()
    embedded, texts = model.embed_images(images), model.embed_texts(TEXTS)
    assert isinstance(model, ImageTextModel)
    assert embedded.shape == texts.shape == (3, 12) and embedded.dtype == texts.dtype == torch.float32
    assert not texts.requires_grad and model.scale == pytest.approx(1 / 0.07)
    (gradient,) = torch.autograd.grad(embedded.square().sum(), images)
    assert gradient.isfinite().all() and (gradient != 0).float().mean() > 0.9
    assert not any(parameter.requires_grad for parameter in model.features.parameters())
    assert torch.equal(TwoTower.fresh(TINY, seed=1).embed_texts(TEXTS), texts)


def test_the_image_head_sees_where_things_are(model: TwoTower) -> None:
    maps, pooled = model.observe(torch.rand(2, 3, 32, 32) * 2 - 1)
    here = model.embed_observed(maps, pooled)
    there = model.embed_observed([x.flip(3) for x in maps], pooled)
    assert relative_difference(there, here) > 1e-3
    assert model.heads.name_pairs(here).shape == (2, 64)


def test_neighbours_and_padding_do_not_matter(model: TwoTower) -> None:
    together = model.embed_texts(TEXTS)
    alone = torch.cat([model.embed_texts([text]) for text in TEXTS])
    assert torch.allclose(alone, together, atol=1e-5)


def test_half_precision(model: TwoTower) -> None:
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    wanted = model.embed_images(images)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.embed_images(images)
        assert torch.allclose(model.embed_texts(TEXTS), model.embed_texts(TEXTS))
    cast = TwoTower.fresh(TINY, seed=1).to(torch.bfloat16)
    for half in (found, cast.embed_images(images)):
        assert half.dtype == torch.float32 and torch.cosine_similarity(half, wanted).min() > 0.98
    assert cast.embed_texts(TEXTS).dtype == torch.float32
    assert cast.frozen == model.frozen


def test_a_directory_gives_the_model_back(model: TwoTower, directory: Path) -> None:
    loaded = load_image_text_model(f"two-tower:{directory}")
    images = torch.rand(2, 3, 32, 32)
    state = loaded.heads.state_dict()
    assert all(torch.equal(state[name], value) for name, value in model.heads.state_dict().items())
    # To rounding: torch multiplies in another order where weights want no gradients.
    assert relative_difference(loaded.embed_images(images), model.embed_images(images)) < 1e-6
    assert relative_difference(loaded.embed_texts(TEXTS), model.embed_texts(TEXTS)) < 1e-6
    assert loaded.fingerprint == TwoTower.from_directory(directory).fingerprint
    assert loaded.fingerprint != TwoTower.fresh(TINY, seed=2).fingerprint
    assert not loaded.embed_images(images).requires_grad
    assert (directory / "model.safetensors").stat().st_size < 1e6  # heads only


def test_its_image_networks_are_named_by_their_weights(model: TwoTower) -> None:
    known = hashes_by_role("clip", model)
    assert set(known) == {"clip", "clip, weights of two-tower", f"clip, weights of {TINY.backbone}"}
    other_side = ImageFeatures(TINY.backbone, 64 if TINY.side != 64 else 96)
    assert other_side.fingerprint not in known.values()
    with pytest.raises(SameNetworkError, match=f"as clip, weights of {TINY.backbone}"):
        refuse_training_networks(TINY.backbone, other_side, known)
    another = TwoTower.fresh(TINY, seed=2)
    assert another.networks["two-tower"] != model.networks["two-tower"]
    with pytest.raises(SameNetworkError):
        refuse_training_networks("another", another, known)
    refuse_training_networks("another", another, {"text_encoder": model.encoder.fingerprint})


def test_another_frozen_network_is_refused(directory: Path) -> None:
    document = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**document, "frozen": {"images": "0" * 64}}))
    with pytest.raises(ValueError, match=r"the heads were trained on another frozen network for images"):
        load_image_text_model(f"two-tower:{directory}")
    changed = {**document["model"], "side": 64}
    (directory / "config.json").write_text(json.dumps({**document, "model": changed}))
    with pytest.raises(ValueError, match=r"another frozen network for images \(.*here it is"):
        load_image_text_model(f"two-tower:{directory}")
    changed = {**document["model"], "queries": 3}
    (directory / "config.json").write_text(json.dumps({**document, "model": changed}))
    with pytest.raises(ValueError, match=r"tensor 'image\.pool\.scores\.weight' has shape"):
        load_image_text_model(f"two-tower:{directory}")
    del document["frozen"]
    (directory / "config.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"config\.json has no table 'frozen'"):
        load_image_text_model(f"two-tower:{directory}")


def test_another_family_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path / "model", "aurora", {}, {"x": torch.zeros(1)}, "")
    with pytest.raises(ValueError, match="holds a model of the family 'aurora', not 'two-tower'"):
        load_image_text_model(f"two-tower:{tmp_path / 'model'}")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("strides=8,12", r"strides=\(8, 12\) should be some of"),
        ("attention_heads=3", "token_width=256 should be a multiple of attention_heads"),
        ("backbone=efficientnet-lite1", "is not a choice; did you mean 'efficientnet-lite"),
        ("neighbours=4", "neighbours=4 should be odd"),
        ("grid=0", "grid should be at least 1"),
        ("side=16", "side=16 should be at least 32"),
    ],
)
def test_wrong_configurations_are_refused(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override(TwoTowerConfig(), [setting])
