"""Frozen EfficientNet features: against a plain transcription with its batch normalisation, and frozen."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from impasto import assets
from impasto.vision.efficientnet import EFFICIENTNETS, KERNELS, STRIDES, ImageFeatures
from tests.conftest import relative_difference


@pytest.fixture(scope="module")
def lite0() -> ImageFeatures:
    return ImageFeatures("efficientnet-lite0", 64)


def plain(name: str, images: torch.Tensor) -> torch.Tensor:
    """[B,1280] computed from the file as it is: convolution, batch normalisation, ReLU6."""
    spec = EFFICIENTNETS[name]
    file = next((assets.require(spec.package) / "models").glob("*.pth"))
    state = torch.load(file, weights_only=True)

    def layer(x, convolution, norm, stride=1, relu=True):
        weight = state[f"{convolution}.weight"]
        groups = 1 if weight.shape[1] > 1 or x.shape[1] == 1 else x.shape[1]
        total = max((-(-x.shape[2] // stride) - 1) * stride + weight.shape[2] - x.shape[2], 0)
        x = F.pad(x, (total // 2, total - total // 2) * 2)
        x = F.conv2d(x, weight, stride=stride, groups=groups)
        values = (state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        x = F.batch_norm(x, *values, eps=1e-3)
        return F.relu6(x) if relu else x

    x = layer(((images + 1) * 127.5 - 127) / 128, "_conv_stem", "_bn0", 2)
    number = 0
    for stage, repeats in enumerate(spec.repeats):
        for repeat in range(repeats):
            key, y = f"_blocks.{number}", x
            if stage:
                y = layer(y, f"{key}._expand_conv", f"{key}._bn0")
            stride = STRIDES[stage] if repeat == 0 else 1
            assert state[f"{key}._depthwise_conv.weight"].shape[2] == KERNELS[stage]
            y = layer(y, f"{key}._depthwise_conv", f"{key}._bn1", stride)
            y = layer(y, f"{key}._project_conv", f"{key}._bn2", relu=False)
            x, number = (x + y if repeat else y), number + 1
    return layer(x, "_conv_head", "_bn1").mean((2, 3))


@pytest.mark.parametrize(("name", "side"), [("efficientnet-lite0", 64), ("efficientnet-lite2", 90)])
def test_folding_changes_nothing(name: str, side: int) -> None:
    images = torch.rand(2, 3, side, side) * 2 - 1
    features = ImageFeatures(name, side)
    assert relative_difference(features.pooled(images), plain(name, images)) < 1e-5


def test_the_library_of_the_weights_agrees() -> None:
    library = pytest.importorskip("efficientnet_lite_pytorch")
    spec = EFFICIENTNETS["efficientnet-lite2"]
    file = next((assets.require(spec.package) / "models").glob("*.pth"))
    network = library.EfficientNet.from_pretrained("efficientnet-lite2", weights_path=str(file)).eval()
    images = torch.rand(1, 3, spec.side, spec.side) * 2 - 1
    with torch.no_grad():
        wanted = network.extract_features(((images + 1) * 127.5 - 127) / 128).mean((2, 3))
        assert relative_difference(ImageFeatures("efficientnet-lite2").pooled(images), wanted) < 1e-5


def test_shapes_at_any_size(lite0: ImageFeatures) -> None:
    for height, width in ((64, 64), (32, 32), (100, 70)):
        maps, pooled = lite0(torch.zeros(2, 3, height, width))
        assert [tuple(x.shape[1:]) for x in maps] == [(24, 16, 16), (40, 8, 8), (112, 4, 4), (320, 2, 2)]
        assert lite0.map_channels == tuple(x.shape[1] for x in maps) and pooled.shape == (2, lite0.width)
    assert ImageFeatures("efficientnet-lite0").side == 224 and ImageFeatures("efficientnet-lite2").side == 260


def test_gradients_reach_the_picture_and_nothing_else(lite0: ImageFeatures) -> None:
    images = (torch.rand(1, 3, 32, 32) * 2 - 1).requires_grad_()
    maps, pooled = lite0(images)
    (gradient,) = torch.autograd.grad(sum(x.square().mean() for x in maps) + pooled.square().mean(), images)
    assert gradient.isfinite().all() and (gradient.abs().amax((0, 1)) > 0).float().mean() > 0.9
    assert not any(parameter.requires_grad for parameter in lite0.parameters())


def test_training_mode_changes_nothing(lite0: ImageFeatures) -> None:
    images = torch.rand(4, 3, 64, 64)
    before, weights = lite0.pooled(images), {k: v.clone() for k, v in lite0.state_dict().items()}
    lite0.train()
    assert not lite0.training and torch.equal(lite0.pooled(images), before)
    assert all(torch.equal(value, weights[name]) for name, value in lite0.state_dict().items())
    assert len(list(lite0.buffers())) == 0  # no statistics


def test_fingerprints(lite0: ImageFeatures) -> None:
    others = [ImageFeatures("efficientnet-lite0", 96), ImageFeatures("efficientnet-lite2", 64)]
    prints = {lite0.fingerprint, *(other.fingerprint for other in others)}
    assert len(prints) == 3 and all(len(value) == 64 and int(value, 16) for value in prints)
    assert ImageFeatures("efficientnet-lite0", 64).fingerprint == lite0.fingerprint


def test_half_precision(lite0: ImageFeatures) -> None:
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    wanted = lite0.pooled(images)
    with torch.autocast("cpu", torch.bfloat16):
        maps, pooled = lite0(images.requires_grad_())
    assert maps[0].dtype == torch.bfloat16 and pooled.dtype == torch.float32
    assert torch.autograd.grad(pooled.sum(), images)[0].isfinite().all()
    cast = ImageFeatures("efficientnet-lite0", 64).to(torch.bfloat16)
    for found in (pooled, cast.pooled(images)):
        assert F.cosine_similarity(found, wanted).min() > 0.99 and found.dtype == torch.float32


def test_refusals(lite0: ImageFeatures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="unknown image network 'efficientnet-lite1'; did you mean"):
        ImageFeatures("efficientnet-lite1")
    with pytest.raises(ValueError, match="side=16 should be at least 32"):
        ImageFeatures("efficientnet-lite0", 16)
    for wrong in (torch.zeros(1, 1, 64, 64), torch.zeros(3, 64, 64), torch.zeros(1, 3, 8, 8).byte()):
        with pytest.raises(ValueError, match=r"^images must be floating point \[B,3,H,W\], not .*$"):
            lite0.maps(wrong)
    monkeypatch.setattr(assets, "require", lambda _: tmp_path)
    with pytest.raises(FileNotFoundError, match=r"holds 0 files efficientnet-lite0-\*\.pth, not one"):
        ImageFeatures("efficientnet-lite0")
    (tmp_path / "models").mkdir()
    file = tmp_path / "models" / "efficientnet-lite0-1.pth"
    torch.save({"_conv_stem.weight": torch.zeros(32, 3, 3, 3)}, file)
    with pytest.raises(ValueError, match=r"not the weights of efficientnet-lite0: _bn0.weight is missing"):
        ImageFeatures("efficientnet-lite0")
