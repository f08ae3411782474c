"""The tokenizer itself: shapes, the lookup and its losses by hand, gradients, code statistics and revival."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from impasto.config import ConfigError
from impasto.mars.vq import (
    CodeUsage,
    Quantizer,
    VQConfig,
    VQTokenizer,
    vq_16,
    vq_nano_32,
)

LLAMAGEN_8 = VQConfig(channels=(128, 256, 256, 512), attention_levels=(3,))  # the levels of its VQ-8
SMALL = VQConfig(
    channels=(8, 16), blocks=1, attention_levels=(1,), norm_groups=4, latent_channels=8, codes=16, code_dim=4
)

OPENMUSE = VQConfig(code_dim=256, normalize="none")  # openMUSE/vqgan-f16-8192-laion
AMUSED = VQConfig(  # aMUSEd's VQModel (diffusers, scripts/convert_amused.py): no attention at all
    channels=(128, 256, 256, 512, 768),
    attention_levels=(),
    middle_attention=False,
    latent_channels=64,
    code_dim=64,
    normalize="none",
)


def build(**changes) -> VQTokenizer:
    torch.manual_seed(0)
    return VQTokenizer(dataclasses.replace(SMALL, **changes))


def pictures(batch: int = 2, side: int = 8) -> torch.Tensor:
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_shapes_types_and_factors():
    model = build()
    images = pictures(2, 8)
    ids = model.encode(images)
    assert ids.shape == (2, 4, 4) and ids.dtype == torch.int64
    assert model.decode(ids).shape == images.shape
    output = model(images)
    assert torch.equal(output.ids, ids) and output.inputs.shape == (32, 4)
    torch.testing.assert_close(output.reconstruction, model.decode(ids), rtol=0, atol=1e-6)
    wide = model.encode(torch.zeros(1, 3, 8, 16))
    assert wide.shape == (1, 4, 8)
    assert (vq_16().factor, LLAMAGEN_8.factor, vq_nano_32().factor) == (16, 8, 4)
    with pytest.raises(ValueError, match="7x8 px do not divide by f=2"):
        model.encode(torch.zeros(1, 3, 7, 8))


def test_four_and_eight_pixels_a_code_by_configuration():
    for channels, factor in (((8, 8, 16), 4), ((8, 8, 8, 16), 8)):
        model = build(channels=channels, attention_levels=())
        assert model.config.factor == factor
        assert model.encode(pictures(1, 16)).shape == (1, 16 // factor, 16 // factor)
    folded = build(channels=(8, 16), patch=4, attention_levels=())
    assert folded.config.factor == 8 and folded.decode(folded.encode(pictures(1, 16))).shape == (1, 3, 16, 16)


@pytest.mark.parametrize(
    ("config", "millions"), [(vq_16(), 71.8), (LLAMAGEN_8, 70.0), (OPENMUSE, 74.0), (AMUSED, 146.2)]
)
def test_published_shapes_have_their_sizes(config, millions):
    with torch.device("meta"):
        model = VQTokenizer(config)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_the_nano_preset_is_small():
    with torch.device("meta"):
        model = VQTokenizer(vq_nano_32())
    assert sum(p.numel() for p in model.parameters()) < 1_000_000


@pytest.mark.parametrize("normalize", ["both", "decode", "none"])
def test_lookup_and_losses_by_hand(normalize):
    model = Quantizer(dataclasses.replace(SMALL, normalize=normalize))
    with torch.no_grad():
        model.embedding.weight.copy_(torch.randn(16, 4) * torch.rand(16, 1) * 3)
    latents = torch.randn(2, 4, 3, 5)
    found = model(latents)
    codebook = commitment = 0.0
    for b in range(2):
        for y in range(3):
            for x in range(5):
                z, table = latents[b, :, y, x], model.embedding.weight.detach()
                unit = table / table.norm(dim=1, keepdim=True)
                if normalize == "both":
                    z = z / z.norm()
                searched = unit if normalize == "both" else table
                index = int(((searched - z) ** 2).sum(1).argmin())
                assert int(found.ids[b, y, x]) == index
                decoded = table[index] if normalize == "none" else unit[index]
                torch.testing.assert_close(found.vectors[b, :, y, x], decoded)
                codebook += float(((decoded - z) ** 2).mean()) / 30
                commitment += float(((decoded - z) ** 2).mean()) / 30
    assert found.losses.codebook.item() == pytest.approx(codebook, rel=1e-5)
    assert found.losses.total().item() == pytest.approx(codebook + 0.25 * commitment, rel=1e-5)


def test_beta_weighs_the_term_that_trains_the_encoder():
    """The trap of diffusers' and transformers' ports: there the codes move at a quarter of the speed."""
    model = Quantizer(dataclasses.replace(SMALL, normalize="none"))
    latents = torch.randn(1, 4, 2, 2, requires_grad=True)
    found = model(latents)
    found.losses.total().backward()
    difference = found.inputs - model.embedding.weight.detach()[found.ids.flatten()]
    per_number = 2 * difference / difference.numel()
    torch.testing.assert_close(
        latents.grad.permute(0, 2, 3, 1).reshape(4, 4), 0.25 * per_number, rtol=1e-5, atol=1e-7
    )
    expected = torch.zeros(16, 4).index_add_(0, found.ids.flatten(), -per_number)
    torch.testing.assert_close(model.embedding.weight.grad, expected, rtol=1e-5, atol=1e-7)


def test_the_estimator_is_straight_through():
    model = Quantizer(dataclasses.replace(SMALL, normalize="none"))
    latents = torch.randn(1, 4, 3, 3, requires_grad=True)
    found = model(latents)
    assert torch.equal(found.vectors, model.entries()[found.ids].permute(0, 3, 1, 2))
    gradient = torch.randn_like(found.vectors)
    found.vectors.backward(gradient)
    assert torch.equal(latents.grad, gradient)
    assert model.embedding.weight.grad is None


def test_every_parameter_learns():
    model = build()
    output = model(pictures())
    (output.reconstruction.square().mean() + output.losses.total()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_lookup_stays_in_float32_under_autocast():
    model = build(codes=64)
    images = pictures()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(images)
        ids = model.encode(images)
    assert output.losses.codebook.dtype == output.inputs.dtype == torch.float32
    assert output.reconstruction.dtype == torch.bfloat16
    assert torch.equal(ids, output.ids)
    assert torch.equal(ids.flatten(), model.quantizer.nearest(output.inputs))
    (output.reconstruction.float().square().mean() + output.losses.total()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_a_large_lookup_runs_in_parts(monkeypatch):
    model = build()
    inputs = F.normalize(torch.randn(50, 4), dim=1)
    whole = model.quantizer.nearest(inputs)
    monkeypatch.setattr("impasto.mars.vq.LOOKUP_NUMBERS", 16 * 7)
    assert torch.equal(model.quantizer.nearest(inputs), whole)


def test_usage_counts_and_merges():
    usage, other = CodeUsage(8), CodeUsage(8)
    assert (usage.used, usage.perplexity) == (0, 0.0)
    usage.update(torch.tensor([[0, 1], [2, 3]]))
    assert usage.used == 4 and usage.perplexity == pytest.approx(4)
    other.update(torch.tensor([0, 0, 0, 7]))
    usage.merge(other)
    share = torch.tensor([4, 1, 1, 1, 1]) / 8
    assert usage.used == 5
    assert usage.perplexity == pytest.approx(math.exp(-float((share * share.log()).sum())), rel=1e-6)
    whole = CodeUsage(8)
    whole.update(torch.tensor([0, 1, 2, 3, 0, 0, 0, 7]))
    assert torch.equal(whole.counts, usage.counts)
    again = CodeUsage(8)
    again.load_state_dict(usage.state_dict())
    usage.reset()
    assert again.used == 5 and usage.used == 0


def test_dead_codes_are_revived_from_outputs_and_only_they():
    inputs = F.normalize(torch.randn(40, 4, generator=torch.Generator().manual_seed(3)), dim=1)
    dead = torch.zeros(16, dtype=torch.bool)
    dead[[2, 5, 11]] = True
    tables = []
    for seed in (1, 1, 2):
        model = build().quantizer
        before = model.embedding.weight.detach().clone()
        revived = model.revive(dead, inputs, torch.Generator().manual_seed(seed))
        assert revived.tolist() == [2, 5, 11]
        table = model.embedding.weight.detach()
        assert torch.equal(table[~dead], before[~dead])
        assert all((inputs == row).all(1).any() for row in table[dead])
        tables.append(table)
    assert torch.equal(tables[0], tables[1]) and not torch.equal(tables[0], tables[2])


def test_revival_prefers_what_the_codes_serve_worst_and_never_takes_nan():
    model = build().quantizer
    dead = torch.zeros(16, dtype=torch.bool)
    dead[3] = True
    served = model.entries()[4].detach()
    far = -served
    inputs = torch.stack([served] * 20 + [far] + [torch.full((4,), float("nan"))] * 20)
    with torch.no_grad():
        model.embedding.weight.copy_(served.expand(16, 4) + 1e-4 * torch.randn(16, 4))
    model.revive(dead, inputs, torch.Generator().manual_seed(0))
    assert torch.equal(model.embedding.weight[3], far)
    bad = torch.full((5, 4), float("nan"))
    assert len(model.revive(dead, bad, torch.Generator())) == 0
    everything = torch.ones(16, dtype=torch.bool)
    assert len(model.revive(everything, inputs[:6], torch.Generator())) == 6  # no more than there are


@pytest.mark.parametrize(
    "changes",
    [{"channels": (6, 16)}, {"attention_levels": (2,)}, {"codes": 1}, {"channels": ()}, {"code_dim": 1}],
)
def test_impossible_configurations_are_refused(changes):
    with pytest.raises(ConfigError):
        dataclasses.replace(SMALL, **changes)
