"""The discriminator: its predictions, independence of levels and samples, text branch, second derivatives."""

from dataclasses import replace

import pytest
import torch

from impasto.aurora.discriminator import Discriminator, DiscriminatorConfig, Features, box_pyramid
from impasto.aurora.discriminator_blocks import append_deviation
from impasto.aurora.losses import score_step
from impasto.config import ConfigError, from_dict, to_dict
from tests.conftest import relative_difference

PUBLISHED_PARAMETERS = 381.4e6  # GigaGAN, 64 px
TINY = DiscriminatorConfig(
    resolution=16,
    channel_base=64,
    channel_max=8,
    blocks={4: 2, 8: 2, 16: 1},
    attention_depth={4: 0, 8: 1, 16: 1},
    heads=2,
    head_layers=2,
    input_dim=6,
    text_layers=2,
    text_width=8,
)


def build(config: DiscriminatorConfig = TINY) -> Discriminator:
    """In fp64, with every parameter off its initial value, so that nothing is hidden by a zero."""
    torch.manual_seed(1)
    discriminator = Discriminator(config).double()
    with torch.no_grad():
        for parameter in discriminator.parameters():
            parameter.add_(0.2 * parameter.std(correction=0).clamp_min(0.5) * torch.randn_like(parameter))
    return discriminator


def text_inputs(batch: int = 3, tokens: int = 7, width: int = 6):
    """Features, EOT positions and masks of captions of different lengths."""
    eot = torch.tensor([tokens - 1, 3, 4]).repeat(3)[:batch]
    return torch.randn(batch, tokens, width).double(), eot, torch.arange(tokens) <= eot[:, None]


def independent_pyramid(batch: int = 3, sides=(16, 8, 4)) -> dict[int, torch.Tensor]:
    return {side: torch.randn(batch, 3, side, side).double() for side in sides}


def test_the_published_size_is_near_the_published_count():
    with torch.device("meta"):
        discriminator = Discriminator(DiscriminatorConfig())
    total, text = (
        sum(parameter.numel() for parameter in part.parameters())
        for part in (discriminator, discriminator.text)
    )
    assert total - text == 369_547_530
    assert total == 420_719_882
    for count in (total - text, total):
        assert abs(count / PUBLISHED_PARAMETERS - 1) < 0.12


def test_five_levels_give_fifteen_predictions():
    config = DiscriminatorConfig(channel_base=512, channel_max=16, heads=2, text_width=16, input_dim=6)
    discriminator = Discriminator(config)
    scores = discriminator(torch.randn(2, 3, 64, 64), torch.randn(2, 5, 6), torch.tensor([4, 4]))
    sides, outputs = (64, 32, 16, 8, 4), (32, 16, 8, 4, 1)
    assert list(scores) == [(i, j) for n, i in enumerate(sides) for j in outputs[n:]]
    assert len(scores) == 15
    assert all(logits.shape == (2, 1, pair[1], pair[1]) for pair, logits in scores.items())


def test_levels_apart_are_the_same_to_rounding():
    discriminator, inputs = build(replace(TINY, deviation_group=3)), text_inputs()
    pyramid = independent_pyramid()
    together = discriminator(pyramid, *inputs)
    discriminator.apart = True
    alone = discriminator(pyramid, *inputs)
    assert list(alone) == list(together)
    assert all(relative_difference(alone[pair], together[pair]) < 1e-12 for pair in together)


def test_logits_start_at_a_moderate_size():
    config = DiscriminatorConfig(
        resolution=32,
        channel_base=1024,
        channel_max=64,
        attention_depth=1,
        heads=4,
        text_width=64,
        input_dim=6,
    )
    scores = Discriminator(config)(
        torch.rand(8, 3, 32, 32) * 2 - 1, torch.randn(8, 4, 6), torch.full((8,), 3)
    )
    spread = {pair: float(logits.detach().square().mean().sqrt()) for pair, logits in scores.items()}
    assert all(0.02 < value < 2 for value in spread.values()), spread


def test_the_pyramid_is_made_of_box_means():
    image = torch.randn(2, 3, 16, 16)
    pyramid = build().pyramid_of(image)
    assert list(pyramid) == [16, 8, 4]
    assert torch.equal(pyramid[16], image)
    expected = image.unflatten(3, (4, 4)).unflatten(2, (4, 4)).mean((3, 5))
    assert relative_difference(pyramid[4], expected) < 1e-6


def test_stacked_levels_equal_separate_ones():
    discriminator, pyramid = build(), independent_pyramid()
    together = discriminator.features(pyramid)
    for side, image in pyramid.items():
        alone = discriminator.features({side: image})
        assert alone.pairs == [pair for pair in together.pairs if pair[0] == side]
        for pair in alone.pairs:
            assert relative_difference(alone.map(pair), together.map(pair)) < 1e-12


def test_a_smaller_pyramid_keeps_the_function_of_its_pairs():
    discriminator, text = build(), text_inputs()
    pyramid = independent_pyramid()
    full = discriminator(pyramid, *text)
    for side in (4, 8):
        small = {r: x for r, x in pyramid.items() if r <= side}
        by_input, by_argument = discriminator(small, *text), discriminator(pyramid, *text, resolution=side)
        assert list(by_input) == list(by_argument) == [pair for pair in full if pair[0] <= side]
        for pair, logits in by_input.items():
            assert torch.equal(logits, by_argument[pair])
            assert relative_difference(logits, full[pair]) < 1e-12


def test_a_level_depends_on_no_other_level():
    discriminator, pyramid = build(), independent_pyramid()
    for image in pyramid.values():
        image.requires_grad_()
    scores = discriminator(pyramid, *text_inputs())
    for pair, logits in scores.items():
        gradients = torch.autograd.grad(
            logits.sum(), list(pyramid.values()), retain_graph=True, allow_unused=True
        )
        for side, gradient in zip(pyramid, gradients, strict=True):
            touched = gradient is not None and bool(gradient.any())
            assert touched == (side == pair[0])


def test_nothing_leaks_from_one_sample_to_another():
    discriminator, pyramid, (tokens, eot, mask) = build(), independent_pyramid(), text_inputs()
    before = discriminator(pyramid, tokens, eot, mask)
    for image in pyramid.values():
        image[1] = 10 * torch.randn_like(image[1])
    tokens[1] = 10 * torch.randn_like(tokens[1])
    after = discriminator(pyramid, tokens, eot, mask)
    for pair, logits in before.items():
        assert torch.allclose(logits[::2], after[pair][::2], rtol=1e-12, atol=1e-14)
        assert not torch.allclose(logits[1], after[pair][1], rtol=1e-3)


def test_the_deviation_of_a_group_is_seen_and_stays_in_the_group():
    x = torch.randn(8, 3, 4, 4)
    x[4:] = x[4]  # the second group is four times the same
    seen = append_deviation(x, 4)
    by_hand = (x[:4].var(0, unbiased=False) + 1e-8).sqrt().mean()
    assert torch.equal(seen[:, :3], x)
    assert torch.allclose(seen[:4, 3], by_hand.expand(4, 4, 4)) and float(seen[4:, 3].abs().max()) < 1e-3
    discriminator = build(replace(TINY, deviation_group=2))
    pyramid, text = independent_pyramid(4), discriminator.embed_text(*text_inputs(4))
    before = discriminator.score(discriminator.features(pyramid), text)
    changed = {side: torch.cat((image[:2], image[2:].flip(0) + 1)) for side, image in pyramid.items()}
    after = discriminator.score(discriminator.features(changed), text)
    for pair, logits in before.items():
        assert torch.allclose(logits[:2], after[pair][:2], atol=1e-5)
    with pytest.raises(ValueError, match="3 pictures do not divide"):
        discriminator.features(independent_pyramid(3))


def test_real_and_generated_pictures_never_share_a_group():
    discriminator = build(replace(TINY, deviation_group=4))
    text = discriminator.embed_text(*text_inputs(6))  # 6 and 6 would make three groups of four
    with pytest.raises(ValueError, match="real pictures must not share"):
        score_step(discriminator, independent_pyramid(6), independent_pyramid(6), text, None)


def test_features_are_scored_with_other_captions_and_selected_by_sample():
    discriminator, pyramid, (tokens, eot, mask) = build(), independent_pyramid(), text_inputs()
    features, text = discriminator.features(pyramid), discriminator.embed_text(tokens, eot, mask)
    rolled = discriminator.score(features, text.roll(1, 0))
    direct = discriminator(pyramid, tokens.roll(1, 0), eot.roll(1, 0), mask.roll(1, 0))
    index = torch.tensor([2, 0])
    chosen = features[index]
    assert isinstance(chosen, Features)
    assert len(chosen) == 2
    for pair, logits in discriminator.score(chosen, text[index]).items():
        assert relative_difference(rolled[pair], direct[pair]) < 1e-12
        assert relative_difference(logits, discriminator.score(features, text)[pair][index]) < 1e-12


def test_the_unconditional_part_is_added_to_the_logit():
    """GigaGAN eq. 7: psi(phi(x), t) + u(phi(x))."""
    discriminator, pyramid, text = build(), independent_pyramid(), torch.randn(3, 8).double()
    features = discriminator.features(pyramid)
    with_both = discriminator.score(features, text)
    plain = {}
    for side, head in zip(TINY.resolutions, discriminator.score_heads, strict=True):
        layer, output = head.unconditional, TINY.output(side)
        for entry in features.inputs[output]:
            kernel = (layer.weight * layer.weight_gain)[:, :, None, None]
            plain[entry, output] = torch.nn.functional.conv2d(
                features.map((entry, output)), kernel, layer.bias
            )
        with torch.no_grad():
            layer.weight.zero_()
            layer.bias.zero_()
    conditional = discriminator.score(features, text)
    for pair, logits in with_both.items():
        assert relative_difference(conditional[pair] + plain[pair], logits) < 1e-12


def test_text_does_not_depend_on_padding():
    discriminator, (tokens, eot, mask) = build(), text_inputs()
    expected = discriminator.embed_text(tokens, eot, mask)
    garbage = torch.cat((tokens, torch.full((3, 4, 6), float("nan")).double()), dim=1)
    garbage[1, 4:] = 1e6
    longer = torch.cat((mask, torch.zeros(3, 4, dtype=torch.bool)), dim=1)
    assert relative_difference(discriminator.embed_text(garbage, eot, longer), expected) < 1e-12
    alone = discriminator.embed_text(tokens[1:2, :4], eot[1:2])
    assert relative_difference(alone, expected[1:2]) < 1e-12
    assert torch.allclose(expected.square().mean(1), torch.ones(3).double())


def test_text_reads_every_token_and_survives_an_empty_caption():
    discriminator, (tokens, eot, mask) = build(), text_inputs()
    tokens.requires_grad_()
    vector = discriminator.embed_text(tokens, eot, mask)
    (gradient,) = torch.autograd.grad((vector * torch.randn_like(vector)).sum(), tokens)
    assert torch.equal(gradient.abs().sum(2) > 0, mask)
    empty = discriminator.embed_text(tokens, torch.zeros_like(eot), torch.zeros_like(mask))
    assert empty.isfinite().all()


def test_second_derivatives_are_right_with_compared_samples():
    x = torch.randn(4, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda t: append_deviation(t, 2).square(), (x,))


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_second_derivatives_are_right(pooling):
    discriminator = build(replace(TINY, pooling=pooling))
    text = torch.randn(1, 8).double()

    def logits(image: torch.Tensor) -> torch.Tensor:
        scores = discriminator.score(discriminator.features(discriminator.pyramid_of(image)), text)
        return torch.stack([score.mean() for score in scores.values()])

    image = torch.randn(1, 3, 16, 16).double().requires_grad_()
    assert torch.autograd.gradcheck(logits, image, fast_mode=True)
    assert torch.autograd.gradgradcheck(logits, image, fast_mode=True)


def test_second_derivatives_are_finite_where_all_tokens_coincide():
    """A constant image puts queries and keys at distance zero (away from the border)."""
    discriminator = build()
    image = torch.zeros(2, 3, 16, 16).double().requires_grad_()
    scores = discriminator(image, *text_inputs(2))
    (gradient,) = torch.autograd.grad(sum(s.mean() for s in scores.values()), image, create_graph=True)
    gradient.square().sum().backward()
    reached = [p.grad for p in discriminator.parameters() if p.grad is not None]
    assert len(reached) > 50
    assert all(gradient.isfinite().all() for gradient in reached)


def test_no_fused_attention_is_used(monkeypatch):
    """Its kernels on CUDA have no second derivative."""

    def refuse(*_args, **_options):
        raise AssertionError("fused attention in the discriminator")

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", refuse)
    assert len(build()(independent_pyramid(), *text_inputs())) == 6


def test_logits_are_fp32_under_autocast():
    discriminator = Discriminator(TINY)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = discriminator(torch.randn(2, 3, 16, 16), torch.randn(2, 4, 6), torch.tensor([3, 3]))
    assert all(s.dtype == torch.float32 and s.isfinite().all() for s in scores.values())


def test_without_equalised_rates_the_start_is_alike():
    torch.manual_seed(5)
    equalised = Discriminator(TINY)
    torch.manual_seed(5)
    plain = Discriminator(from_dict(DiscriminatorConfig, {**to_dict(TINY), "equalized": False}))
    text = (torch.randn(2, 4, 6), torch.tensor([3, 3]))
    pyramid = box_pyramid(torch.randn(2, 3, 16, 16), 4)
    a, b = equalised(pyramid, *text), plain(pyramid, *text)
    assert all(relative_difference(a[pair], b[pair]) < 1e-4 for pair in a)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 48}, "power of two"),
        ({"smallest_resolution": 32}, "larger"),
        ({"blocks": 0}, "at least 1"),
        ({"heads": 3}, "does not divide"),
        ({"attention_depth": {4: 0, 8: 1}}, "no entry for resolution 16"),
    ],
)
def test_impossible_configurations_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        from_dict(DiscriminatorConfig, {**to_dict(TINY), **changes})


def test_inputs_that_do_not_fit_are_refused():
    discriminator, image = build(), torch.randn(2, 3, 16, 16).double()
    with pytest.raises(ValueError, match="no level of side 32"):
        discriminator.pyramid_of(torch.randn(1, 3, 32, 32))
    with pytest.raises(ValueError, match="expected"):
        discriminator.features({16: image[:, :1]})
    with pytest.raises(ValueError, match="one batch size"):
        discriminator.features({16: image, 8: image[:1, :, ::2, ::2]})
    with pytest.raises(ValueError, match="at least one level"):
        discriminator.features({16: image}, resolution=8)
    with pytest.raises(ValueError, match="text has shape"):
        discriminator.score(discriminator.features({16: image}), torch.randn(1, 8).double())
    with pytest.raises(ValueError, match="tokens have shape"):
        discriminator.embed_text(torch.randn(2, 4, 5), torch.tensor([3, 3]))
