"""CLIP's two towers against transformers' own features."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel

from impasto.text.clip_tokeniser import byte_vocabulary
from impasto.vision import ImageTextModel, load_image_text_model
from impasto.vision.clip import DEVIATION, MEAN, ClipImageText
from impasto.vision.features import resize_square
from tests.conftest import relative_difference

PAIRS = ["a p", "ap p", "l e</w>", "app le</w>", "r e", "re d</w>"]
MERGES = [(pair.split()[0], pair.split()[1]) for pair in PAIRS]
TEXTS = ["a red apple", "", "apple " * 90]
SIDE = 32


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    size = len(byte_vocabulary(MERGES))
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {**tower, "vocab_size": size, "bos_token_id": size - 2, "eos_token_id": size - 1}
    vision = {**tower, "image_size": SIDE, "patch_size": 8}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(byte_vocabulary(MERGES)))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(PAIRS) + "\n")
    return folder


@pytest.fixture(scope="module")
def clip(directory: Path) -> ClipImageText:
    found = load_image_text_model(f"clip:{directory}")
    assert isinstance(found, ImageTextModel) and isinstance(found, ClipImageText)
    return found


def test_equal_to_transformers(clip: ClipImageText, directory: Path) -> None:
    model = CLIPModel.from_pretrained(directory).eval()
    images = torch.rand(3, 3, SIDE, SIDE)
    mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, DEVIATION))
    with torch.no_grad():
        pixels = model.get_image_features(pixel_values=(images - mean) / deviation).pooler_output
        texts = model.get_text_features(input_ids=clip.tokeniser(TEXTS)).pooler_output
    assert relative_difference(clip.embed_images(images * 2 - 1), pixels) < 1e-5
    assert relative_difference(clip.embed_texts(TEXTS), texts) < 1e-5
    assert clip.scale == pytest.approx(float(model.logit_scale.detach().exp()))
    assert relative_difference(clip.embed_texts(TEXTS[:1]), texts[:1]) < 1e-5


def test_resizing_is_that_of_pillow() -> None:
    picture = np.random.default_rng(0).random((50, 40), dtype=np.float32)
    wanted = Image.fromarray(picture).resize((16, 16), Image.Resampling.BICUBIC)
    images = torch.from_numpy(picture).expand(1, 3, -1, -1)
    found = resize_square(images, 16, "bicubic")[0, 0]
    assert torch.allclose(found, torch.from_numpy(np.array(wanted)), atol=1e-5)


def test_frozen_and_differentiable(clip: ClipImageText) -> None:
    images = (torch.rand(2, 3, 48, 40) * 2 - 1).requires_grad_()
    embedded = clip.embed_images(images)
    assert embedded.shape == (2, 24) and embedded.dtype == torch.float32
    (gradient,) = torch.autograd.grad(embedded.square().sum(), images)
    assert gradient.isfinite().all() and (gradient != 0).float().mean() > 0.9
    assert not clip.embed_texts(TEXTS).requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.cosine_similarity(clip.embed_images(images), embedded).min() > 0.99


def test_fingerprint_follows_the_weights(clip: ClipImageText, directory: Path, tmp_path: Path) -> None:
    shutil.copytree(directory, tmp_path / "other")
    file = tmp_path / "other" / "model.safetensors"
    state = load_file(file)
    state["visual_projection.weight"] += 1
    save_file(state, file, metadata={"format": "pt"})
    other = ClipImageText.from_name(str(tmp_path / "other"))
    assert len(clip.fingerprint) == 64 and other.fingerprint != clip.fingerprint
    assert ClipImageText.from_name(str(directory)).fingerprint == clip.fingerprint


def test_incomplete_weights_are_refused(directory: Path, tmp_path: Path) -> None:
    shutil.copytree(directory, tmp_path / "other")
    file = tmp_path / "other" / "model.safetensors"
    state = load_file(file)
    del state["visual_projection.weight"]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"^not the weights of its config\.json, .*visual_projection\.weight"
    ):
        load_image_text_model(f"clip:{tmp_path / 'other'}")
    file.rename(file.with_name("pytorch_model.bin"))  # a pickle is never opened
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors in"):
        load_image_text_model(f"clip:{tmp_path / 'other'}")
    (tmp_path / "other" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="holds a bert model, not a whole CLIP"):
        load_image_text_model(f"clip:{tmp_path / 'other'}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("two-towr:x", "unknown image-text model 'two-towr:x'; did you mean 'two-tower'?"),
        ("clip", "'clip' needs its weights: clip:DIRECTORY or clip:OWNER/MODEL"),
        ("two-tower:", "'two-tower' needs its weights: two-tower:DIRECTORY"),
        ("clip:./absent", "no such directory, and not a hub name (owner/model): ./absent"),
        ("two-tower:absent", "no such directory: absent, nor a shipped scorer (openglyphs-64)"),
    ],
)
def test_wrong_names_are_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError)) as refusal:
        load_image_text_model(name)
    assert str(refusal.value) == message
