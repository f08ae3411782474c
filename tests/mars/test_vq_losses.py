"""Losses of the tokenizer against hand computations."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from impasto.config import ConfigError
from impasto.mars.vq import VQLosses
from impasto.mars.vq_losses import (
    ObjectiveConfig,
    PatchDiscriminator,
    PatchDiscriminatorConfig,
    PerceptualDistance,
    adaptive_weight,
    adversarial_loss,
    discriminator_losses,
    hinge_discriminator_losses,
    peak_signal_to_noise,
    reconstruction_loss,
    tokenizer_losses,
)


class SmallNetwork(nn.Module):
    """A random frozen convnet with two maps."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, stride=2)

    def maps(self, images):
        first = F.relu(self.first(images))
        return [first, F.relu(self.second(first))]


def pair(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.rand(2, 3, 8, 8, generator=generator) * 2 - 1 for _ in range(2))


def test_pixel_losses_and_psnr():
    a, b = pair()
    assert float(reconstruction_loss(a, b, "l2")) == pytest.approx(float(((a - b) ** 2).mean()))
    assert float(reconstruction_loss(a, b, "l1")) == pytest.approx(float((a - b).abs().mean()))
    flat = torch.zeros(1, 3, 4, 4)
    assert float(peak_signal_to_noise(flat + 0.2, flat)) == pytest.approx(20.0, abs=1e-3)
    assert float(peak_signal_to_noise(flat + 5, flat + 1)) == pytest.approx(
        106.02, abs=0.01
    )  # clipped, then the floor


def test_perceptual_distance_by_hand():
    network = SmallNetwork()
    distance = PerceptualDistance(network)
    a, b = pair()
    expected = 0.0
    for x, y in zip(network.maps(a), network.maps(b), strict=True):
        x, y = (t / t.norm(dim=1, keepdim=True).clamp_min(1e-5) for t in (x, y))
        expected += float((x - y).square().sum(1).mean()) / 2
    assert float(distance(a, b)) == pytest.approx(expected, rel=1e-4)
    assert float(distance(a, a)) == 0.0


def test_perceptual_distance_trains_the_picture_alone():
    network = SmallNetwork()
    distance = PerceptualDistance(network)
    a, b = pair()
    a.requires_grad_()
    distance(a, b).backward()
    assert torch.isfinite(a.grad).all() and a.grad.abs().sum() > 0
    assert not network.training and all(p.grad is None for p in network.parameters())
    dark = torch.full((1, 3, 8, 8), -1.0, requires_grad=True)
    with torch.no_grad():
        network.first.bias.fill_(-100.0)  # maps of zeros have no direction
    distance(dark, -dark.detach()).backward()
    assert torch.isfinite(dark.grad).all()


def test_patch_discriminator_shapes_and_independence():
    model = PatchDiscriminator(PatchDiscriminatorConfig(channels=8, layers=2))
    images = torch.randn(3, 3, 32, 32)
    logits = model(images)
    assert logits.shape == (3, 1, 6, 6)
    torch.testing.assert_close(model(images[:1]), logits[:1])
    assert PatchDiscriminator(PatchDiscriminatorConfig(channels=8))(torch.randn(1, 3, 64, 64)).shape[-1] == 6
    with pytest.raises(ConfigError):
        PatchDiscriminatorConfig(channels=12)


def test_hinge_losses_by_hand():
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 1.0])
    as_real, as_fake = hinge_discriminator_losses(real, fake)
    assert float(as_real) == pytest.approx(0.5 * (0 + 0.5 + 2) / 3)
    assert float(as_fake) == pytest.approx(0.5 * (0 + 1 + 2) / 3)
    assert float(adversarial_loss(fake)) == pytest.approx(2 / 3)


def test_adaptive_weight_equals_the_ratio_of_gradients():
    layer = nn.Linear(3, 2, bias=False)
    output = layer(torch.randn(5, 3))
    fidelity, adversarial = output.square().mean(), output[:, 0].mean()
    weight = adaptive_weight(fidelity, adversarial, layer.weight)
    norms = [
        torch.autograd.grad(loss, layer.weight, retain_graph=True)[0].norm()
        for loss in (fidelity, adversarial)
    ]
    assert float(weight) == pytest.approx(float(norms[0] / (norms[1] + 1e-4)), rel=1e-6)
    assert not weight.requires_grad
    halved = adaptive_weight(fidelity, adversarial, layer.weight, lambda gradient: gradient / 2)
    assert float(halved) == pytest.approx(float(norms[0] / 2 / (norms[1] / 2 + 1e-4)), rel=1e-6)
    assert float(adaptive_weight(fidelity, 0.0 * adversarial, layer.weight)) <= 1e4
    (fidelity + weight * adversarial).backward()  # the graphs are still there


def test_all_terms_add_up():
    layer = nn.Conv2d(3, 3, 1)
    a, b = pair()
    reconstruction = layer(a)
    codes = VQLosses(torch.tensor(0.3), torch.tensor(0.7))
    judge = PatchDiscriminator(PatchDiscriminatorConfig(channels=8, layers=1))
    config = ObjectiveConfig(
        reconstruction="l1", reconstruction_weight=2.0, perceptual_weight=0.5, adversarial_weight=0.8,
        adaptive_weight=False,
    )  # fmt: skip
    distance = PerceptualDistance(SmallNetwork())
    terms = tokenizer_losses(reconstruction, b, codes, config, perceptual=distance, judge=judge)
    expected = (
        2.0 * (reconstruction - b).abs().mean()
        + 0.5 * distance(reconstruction, b)
        + (0.3 + 0.25 * 0.7)
        - 0.8 * judge(reconstruction).mean()
    )
    torch.testing.assert_close(terms["loss/tokenizer"], expected)
    plain = tokenizer_losses(reconstruction, b, codes, config)
    assert plain.keys() == {"loss/reconstruction", "loss/codebook", "loss/commitment", "loss/tokenizer"}
    adaptive = tokenizer_losses(
        reconstruction, b, codes, ObjectiveConfig(), judge=judge, last_layer=layer.weight
    )
    assert float(adaptive["weight/adversarial"]) != pytest.approx(0.5)
    theirs = discriminator_losses(judge, b, reconstruction)
    assert theirs["loss/discriminator"].requires_grad
    theirs["loss/discriminator"].backward()
    assert layer.weight.grad is None and judge.layers[0].weight.grad is not None


def test_the_discriminator_waits_for_its_image():
    config = ObjectiveConfig(adversarial_from=100)
    assert not config.adversarial_at(99) and config.adversarial_at(100)
    assert not ObjectiveConfig(adversarial_weight=0.0, adversarial_from=0).adversarial_at(5)
