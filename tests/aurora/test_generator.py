"""The three forms of the generator, its switches, truncation, and what must never depend on what."""

from dataclasses import replace

import pytest
import torch

from impasto.aurora.analysis import measure
from impasto.aurora.config import GeneratorConfig
from impasto.aurora.generator import Generator
from impasto.aurora.presets import PRESETS
from impasto.config import override
from tests.conftest import relative_difference

WIDTH = 384


def build(*changes: str, preset: str = "aurora-debug") -> Generator:
    """A small generator with every parameter off its initial value, so that nothing is hidden by a zero."""
    torch.manual_seed(1)
    generator = Generator(override(PRESETS[preset].build(), [f"generator.{c}" for c in changes]).generator)
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            scale = 0.1 if "deformation.scale" in name else 0.3
            parameter.add_(scale * parameter.std().nan_to_num(0).clamp_min(0.3) * torch.randn_like(parameter))
    return generator.eval()


def small_paper_form() -> GeneratorConfig:
    """The paper's switches at toy widths."""
    paper, debug = PRESETS["aurora-64-paper"].build().generator, PRESETS["aurora-debug"].build().generator
    return replace(
        debug,
        z_dim=paper.z_dim,
        mapping=replace(debug.mapping, normalize_inputs=paper.mapping.normalize_inputs),
        convolution=replace(
            paper.convolution, blocks=debug.convolution.blocks, kernels=debug.convolution.kernels
        ),
        attention=replace(paper.attention, heads=2, head_dim=16),
        moe=replace(paper.moe, experts={4: 2, 8: 2, 16: 4}),
    )


def inputs(generator: Generator, batch: int = 3, tokens: int = 7):
    config = generator.config
    eot = torch.tensor([tokens - 1, 3, 4])[:batch]
    mask = torch.arange(tokens) <= eot[:, None]
    width = config.text_head.input_dim
    return torch.randn(batch, config.z_dim), torch.randn(batch, tokens, width), eot, mask


SWITCHES = [
    "text_head.attention=values_only",
    "mapping.normalize_inputs=false",
    "mapping.style_per_layer=true",
    "convolution.input=constant",
    "convolution.deform=none",
    "convolution.deform=both",
    "convolution.kernel_selection=everywhere",
    "convolution.kernels=1",
    "convolution.residual_gain=1.0",
    "convolution.demodulate=false",
    "attention.distance=dot",
    "attention.distance=l2_squared",
    "attention.tie_query_key=true",
    "attention.pre_norm=false",
    "attention.text_tokens=none",
    "attention.text_tokens=all",
    "attention.mask_padding=false",
    "attention.style_token=true",
    "attention.feed_forward=false",
    "attention.head_dim=8",
    "moe.experts=1",
    "moe.kind=gelu",
    "moe.expert_scale=none",
    "moe.router_input=feature",
    "moe.router_input=w",
    "pyramid=false",
    "final_tanh=true",
    "equalized=false",
]


def matching_state(source: Generator, target: Generator) -> None:
    """Copy every tensor the two share."""
    own = target.state_dict()
    shared = {k: v for k, v in source.state_dict().items() if k in own and own[k].shape == v.shape}
    target.load_state_dict(shared, strict=False)


@pytest.mark.parametrize("switch", SWITCHES)
def test_every_switch_changes_the_picture_and_trains(switch):
    plain, changed = build(), build(switch)
    matching_state(plain, changed)
    arguments = inputs(plain)
    with torch.no_grad():
        assert relative_difference(changed(*arguments).image, plain(*arguments).image) > 1e-3
    output = changed(*arguments)
    (sum(level.square().mean() for level in output.pyramid.values()) + output.moe_loss).backward()
    for name, parameter in changed.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name


def test_the_papers_form_runs_and_trains():
    torch.manual_seed(0)
    generator = Generator(small_paper_form())
    arguments = inputs(generator)
    output = generator(*arguments)
    assert output.image.shape == (3, 3, 16, 16) and len(output.routing) == 3
    assert output.local_text.shape[1] == arguments[1].shape[1]  # the whole token sequence
    (output.image.square().mean() + output.moe_loss).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in generator.parameters())


@pytest.mark.parametrize("form", ["repaired", "paper"])
def test_padding_cannot_change_a_result(form):
    generator = build() if form == "repaired" else Generator(small_paper_form()).eval()
    z, tokens, eot, mask = inputs(generator)
    longer = torch.cat((tokens, 100 * torch.randn(3, 5, WIDTH)), dim=1)
    longer_mask = torch.cat((mask, torch.zeros(3, 5, dtype=torch.bool)), dim=1)
    noisy = torch.where(longer_mask[..., None], longer, 50 * torch.randn_like(longer))
    with torch.no_grad():
        expected = generator(z, tokens, eot, mask)
        for padded in (longer, noisy):
            actual = generator(z, padded, eot, longer_mask)
            assert relative_difference(actual.image, expected.image) < 1e-4
            assert relative_difference(actual.w, expected.w) < 1e-4


@pytest.mark.parametrize("form", ["repaired", "paper", "values_only"])
def test_a_sample_does_not_depend_on_its_neighbours(form):
    if form == "paper":
        generator = Generator(small_paper_form()).eval()
    else:
        generator = build(*([f"text_head.attention={form}"] if form == "values_only" else []))
    z, tokens, eot, mask = inputs(generator)
    with torch.no_grad():
        together = generator(z, tokens, eot, mask)
        for i in range(3):
            alone = generator(z[i : i + 1], tokens[i : i + 1], eot[i : i + 1], mask[i : i + 1])
            assert relative_difference(together.image[i : i + 1], alone.image) < 1e-4


def test_text_and_noise_both_reach_the_router_and_the_picture():
    generator = build()
    z, tokens, eot, mask = inputs(generator)
    with torch.no_grad():
        base = generator(z, tokens, eot, mask)
        other_noise = generator(-z, tokens, eot, mask)
        other_text = generator(z, -tokens, eot, mask)
    for other in (other_noise, other_text):
        assert relative_difference(other.image, base.image) > 1e-2
        pairs = zip(base.routing, other.routing, strict=True)
        assert any(not torch.equal(a.probability, b.probability) for a, b in pairs)


def test_a_prompt_of_padding_alone_is_finite():
    generator = build()
    z, tokens, eot, mask = inputs(generator)
    mask[:] = False
    mask[torch.arange(3), eot] = True
    with torch.no_grad():
        assert bool(generator(z, tokens, eot, mask).image.isfinite().all())


def test_local_tokens_are_all_but_eot_in_order():
    generator = build("text_head.layers=0", "context_dim=384", "attention.heads=2")
    _, tokens, eot, mask = inputs(generator)
    global_text, local, local_mask = generator.encode_text(tokens, eot, mask)
    for i in range(3):
        keep = [t for t in range(7) if t != eot[i]]
        assert torch.equal(global_text[i], tokens[i, eot[i]])
        assert torch.equal(local[i], tokens[i, keep]) and torch.equal(local_mask[i], mask[i, keep])


@pytest.mark.parametrize("per_layer", ["false", "true"])
def test_truncation_pulls_the_first_slots_towards_the_mean(per_layer):
    generator = build(f"mapping.style_per_layer={per_layer}")
    generator.w_avg.normal_()
    arguments = inputs(generator)
    with torch.no_grad():
        full = generator(*arguments)
        half = generator(*arguments, truncation_psi=0.5, truncation_layers=2)
        none = generator(*arguments, truncation_psi=0.0, truncation_layers=2)
    mean = generator.w_avg.view(1, -1, 32).expand(3, full.wp.shape[1], -1)
    assert torch.allclose(none.wp[:, :2], mean[:, :2], atol=1e-5)
    assert torch.allclose(half.wp[:, :2], (mean[:, :2] + full.wp[:, :2]) / 2, atol=1e-4)
    assert torch.equal(half.wp[:, 2:], full.wp[:, 2:])
    if per_layer == "true":  # as published, w then shows the truncation
        assert torch.equal(half.w, half.wp.flatten(1))
    else:
        assert torch.equal(half.w, full.w)
    with pytest.raises(ValueError, match="at most 1"):
        generator(*arguments, truncation_psi=1.5, truncation_layers=2)


def test_w_avg_follows_the_batch_mean():
    generator = build()
    w = torch.randn(4, 32)
    before = generator.w_avg.clone()
    generator.update_w_avg(w, decay=0.9)
    assert torch.allclose(generator.w_avg, 0.9 * before + 0.1 * w.mean(0), atol=1e-6)


def test_progressive_stages_share_their_function():
    """A network stopped early gives the same small pictures, and leaves later levels without gradients."""
    full, early = build(), build("trained_resolutions=4,8")
    early.load_state_dict(full.state_dict())
    arguments = inputs(full)
    whole, part = full(*arguments), early(*arguments)
    assert torch.equal(part.image, whole.pyramid[8]) and set(part.pyramid) == {4, 8}
    part.image.sum().backward()
    assert all(p.grad is None for p in early.levels[2].parameters())
    single = build("pyramid=false", "trained_resolutions=8")
    assert set(single(*inputs(single)).pyramid) == {8}


def test_pyramid_is_the_running_sum():
    from impasto.nn.resample import upsample_fir

    summed, alone = build(), build("pyramid=false")
    alone.load_state_dict(summed.state_dict())
    arguments = inputs(summed)
    with torch.no_grad():
        sums, parts = summed(*arguments).pyramid, alone(*arguments).pyramid
    assert torch.allclose(sums[8], parts[8] + upsample_fir(parts[4]), atol=1e-5)
    assert torch.allclose(sums[16], parts[16] + upsample_fir(sums[8]), atol=1e-5)


def test_bfloat16_weights_and_autocast_stay_near_single_precision():
    generator = build()
    z, tokens, eot, mask = inputs(generator)
    with torch.no_grad():
        expected = generator(z, tokens, eot, mask).image
        with torch.autocast("cpu", torch.bfloat16):
            autocast = generator(z, tokens, eot, mask).image
        for parameter in generator.parameters():
            parameter.data = parameter.data.bfloat16()
        low = generator(z.bfloat16(), tokens.bfloat16(), eot, mask).image
    assert low.dtype == torch.float32 and bool(low.isfinite().all())
    # A routing decision may flip, so the mean is what must be near.
    assert float((low - expected).abs().mean() / expected.abs().mean()) < 0.1
    assert float((autocast - expected).abs().mean() / expected.abs().mean()) < 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z, t, e, m: (z[:, :3], t, e, m), r"z has shape \(3, 3\)"),
        (lambda z, t, e, m: (z, t[:, :, :5], e, m), "text_tokens has shape"),
        (lambda z, t, e, m: (z, t, e[:2], m), "eot_index has shape"),
        (lambda z, t, e, m: (z, t, e, m[:, :3]), "text_mask has shape"),
    ],
)
def test_wrong_shapes_are_named(change, message):
    generator = build()
    with pytest.raises(ValueError, match=message):
        generator(*change(*inputs(generator)))


DECLARED_PARAMETERS = {
    "aurora-64": 1_166_329_387,
    "aurora-64-release": 1_166_329_387,
    "aurora-64-paper": 898_709_885,
    "aurora-openglyphs-64": 11_038_043,
    "aurora-scenes-32": 3_662_350,
    "aurora-openglyphs-32": 3_662_350,
    "aurora-debug": 231_963,
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_their_declared_size(name):
    with torch.device("meta"):
        generator = Generator(PRESETS[name].build().generator)
    assert sum(p.numel() for p in generator.parameters()) == DECLARED_PARAMETERS[name]


def test_measured_size_counts_one_expert_per_layer():
    config = PRESETS["aurora-debug"].build()
    size = measure(config)
    generator = Generator(config.generator)
    assert size.parameters == sum(p.numel() for p in generator.parameters())
    width, hidden = 32, 128
    expert = 2 * hidden * width + 2 * hidden + hidden * width + width
    assert size.parameters - size.activated == expert * (1 + 3)  # 2 experts at 8, 4 at 16: 1 and 3 idle
    dense = measure(override(config, ["generator.moe.experts=1"]))
    assert abs(dense.flops - size.flops) / size.flops < 0.1
    assert 0 < size.inference_bytes < size.training_bytes
