"""The model's invariants (section 15 of the notes): what equals what, what learns, what must never change."""

import math
from dataclasses import dataclass, replace
from operator import attrgetter

import pytest
import torch
import torch.nn.functional as F

from impasto.config import ConfigError
from impasto.mars.analysis import measure_drift
from impasto.mars.convert import from_hf
from impasto.mars.initial import calibrate_query_key_norm, carry_codebook, new_model
from impasto.mars.prefix import PrefixStore
from impasto.mars.routing import (
    LANGUAGE_ONLY,
    VISUAL_ONLY,
    IndexRouting,
    Routing,
    Segment,
    SegmentRouting,
    UniformRouting,
    routing_for,
)
from impasto.mars.semvie import is_visual, train_only
from impasto.mars.sequence import image_to_text, interleaved, text_to_image
from impasto.nn.rotary import root_mean_square
from tests.conftest import relative_difference
from tests.mars.models import CODES, LENGTH, captions, hf_model, random_codes, tiny_config, tiny_model

SWITCHES = [
    {},
    {"output_projection": "shared"},
    {"norms": "per_modality"},
    {"softmax": "joint"},
    {"query_key_norm": True},
    {"experts": "shared"},
    {"experts": "shared", "norms": "per_modality"},
]


def name_of(switches: dict) -> str:
    return " ".join(f"{k}={v}" for k, v in switches.items()) or "defaults"


def t2i_batch(model, **options):
    return text_to_image(model.config, captions(), random_codes(4), **options)


def i2t_batch(model, **options):
    return image_to_text(model.config, captions(), random_codes(4), **options)


def train(model, steps: int = 3) -> None:
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        (model.t2i_loss(t2i_batch(model)) + model.i2t_loss(i2t_batch(model))).backward()
        optimiser.step()


@pytest.mark.parametrize("switches", [s for s in SWITCHES if "experts" not in s], ids=name_of)
def test_text_is_the_base_model_bit_for_bit_after_training(switches):
    """Invariant 1."""
    theirs = hf_model("qwen2")
    visual = tiny_config(**switches).visual
    model = from_hf(theirs.state_dict(), theirs.config.to_dict(), CODES, visual=visual, grids=(3,))
    tokens = torch.randint(0, 96, (2, 13))
    with torch.no_grad():
        before, expected = model.text_logits(tokens), theirs(tokens).logits
    assert relative_difference(before, expected) < 2e-5
    train(model)
    with torch.no_grad():
        assert torch.equal(model.text_logits(tokens), before)


def test_an_all_visual_pass_at_the_start_is_the_base_model_on_the_same_embeddings():
    """Invariant 2."""
    theirs = hf_model("llama")
    model = from_hf(theirs.state_dict(), theirs.config.to_dict(), CODES)
    x = torch.randn(2, 11, 48)
    with torch.no_grad():
        visual, language = model(x, VISUAL_ONLY), model(x, LANGUAGE_ONLY)
        expected = theirs.model(inputs_embeds=x).last_hidden_state
    assert torch.equal(visual, language)
    assert relative_difference(visual, expected) < 2e-5


@dataclass(frozen=True)
class MaskRouting(Routing):
    """Boolean indexing: the plainest form, for the others to be held against."""

    mask: torch.Tensor

    def route(self, inputs, language, visual):
        text, image = language(*(x[~self.mask] for x in inputs)), visual(*(x[self.mask] for x in inputs))
        results = []
        for text_rows, image_rows in zip(text, image, strict=True):
            merged = text_rows.new_zeros(*self.mask.shape, *text_rows.shape[1:])
            merged[~self.mask], merged[self.mask] = text_rows, image_rows
            results.append(merged)
        return tuple(results)

    def modality(self, batch, length):
        return self.mask


@pytest.mark.parametrize("switches", SWITCHES, ids=name_of)
def test_the_routing_implementations_agree(switches):
    """Invariant 3, first part; gradients too."""
    model = tiny_model(**switches)
    tokens = torch.cat((torch.randint(0, 96, (2, 4)), torch.randint(96, 96 + CODES, (2, 5))), dim=1)
    tokens = torch.cat((tokens, torch.randint(0, 96, (2, 3))), dim=1)
    modality = (tokens >= 96).clone()
    segments = SegmentRouting((Segment(0, 4, False), Segment(4, 9, True), Segment(9, 12, False)))
    results = []
    for routing in (segments, IndexRouting(modality), MaskRouting(modality)):
        model.zero_grad()
        hidden = model(tokens, routing)
        hidden.square().sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        results.append((hidden.detach(), gradient))
        assert torch.equal(routing.modality(2, 12), modality)
    for hidden, gradient in results[1:]:
        assert relative_difference(hidden, results[0][0]) < 1e-5
        assert relative_difference(gradient, results[0][1]) < 1e-5
    assert torch.allclose(model(tokens, modality), results[0][0], atol=1e-5)


def test_no_token_passes_through_both_experts():
    seen = []
    count = {False: 0, True: 0}

    def expert(side: bool):
        def run(x):
            count[side] += x.shape[:-1].numel()
            seen.append(side)
            return (x,)

        return run

    modality = torch.tensor([[False, True, True, False], [True, False, True, False]])
    x = torch.randn(2, 4, 3)
    for routing in (IndexRouting(modality), MaskRouting(modality)):
        count.update({False: 0, True: 0})
        (result,) = routing.route((x,), expert(False), expert(True))
        assert torch.equal(result, x) and count == {False: 4, True: 4}
    assert routing_for(modality[:1]) == SegmentRouting(
        (Segment(0, 1, False), Segment(1, 3, True), Segment(3, 4, False))
    )
    assert routing_for(torch.ones(2, 3, dtype=torch.bool)) == UniformRouting(True)
    assert isinstance(routing_for(modality), IndexRouting)


def test_only_the_listed_tensors_learn_and_their_number_is_that_of_the_table():
    """Invariant 4, with the table of section 4.3 at this size."""
    for switches in ({}, {"output_projection": "shared"}):
        model = tiny_model(**switches)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        train(model, steps=1)
        changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
        assert changed == {name for name in before if is_visual(name)}
        width, keys, hidden = 48, 16, 80
        projections = width * width + width + 2 * (width * keys + keys)
        output = width * width if not switches else 0
        rows = 2 * width * model.tokens.rows
        count = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert count == 3 * (projections + output + 3 * width * hidden) + rows


@torch.no_grad()
def test_the_first_loss_is_the_logarithm_of_the_choices():
    """Invariant 5: with rows at the mean and no noise every image logit is the same."""
    config = tiny_config(initial_noise=0.0)
    model = new_model(replace(config, visual=replace(config.visual, codes=8192)))
    codes = torch.randint(0, 8192, (4, LENGTH))
    batch = text_to_image(model.config, captions(), codes, end_token_loss=False)
    assert float(model.t2i_loss(batch)) == pytest.approx(math.log(8192), abs=1e-5)
    with_end = text_to_image(model.config, captions(), codes)
    assert float(model.t2i_loss(with_end)) == pytest.approx(math.log(8193), abs=1e-5)


@torch.no_grad()
def test_the_noise_of_new_rows_is_a_fraction_of_the_text_rows():
    model = new_model(replace(tiny_config(), visual=replace(tiny_config().visual, codes=4096)))
    text, rows = model.language.output_rows, model.visual.output_rows
    assert torch.allclose(rows.mean(0), text.mean(0), atol=2e-4)
    assert float(rows.std(0).mean() / text.std(0, correction=0).mean()) == pytest.approx(0.1, rel=0.02)


@torch.no_grad()
def test_the_codebook_gives_alike_codes_alike_rows():
    """Rows move by the tokenizer's vectors: as far as asked, angles kept, in two unrelated directions; marker
    rows stay. Without `initial_codebook` nothing moves."""
    codebook = torch.randn(CODES, 8, generator=torch.Generator().manual_seed(1)) + 2.0
    plain, carried = (new_model(tiny_config(initial_codebook=share)) for share in (0.0, 0.5))
    for model in (plain, carried):
        carry_codebook(model, codebook)
    again = new_model(tiny_config())
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), again.parameters(), strict=True))
    centred = codebook - codebook.mean(0)
    moves = []
    for module in ("embedding.weight", "output_rows"):
        language, before, after = (
            attrgetter(f"{side}.{module}")(model)
            for side, model in (("language", plain), ("visual", plain), ("visual", carried))
        )
        assert torch.equal(before[CODES:], after[CODES:])
        moved = (after - before)[:CODES]
        length = 0.5 * language.std(0, correction=0).square().sum().sqrt()
        assert torch.allclose(moved.square().sum(1).mean().sqrt(), length, rtol=1e-3)
        scale = centred.square().sum() / moved.square().sum()
        assert torch.allclose(scale * moved @ moved.T, centred @ centred.T, atol=1e-3)
        moves.append(moved)
    assert F.cosine_similarity(*(move.flatten() for move in moves), dim=0).abs() < 0.5
    with pytest.raises(ValueError, match="a codebook of 3 vectors for a model of 32 codes"):
        carry_codebook(plain, codebook[:3])


def test_keys_of_a_caption_do_not_see_the_picture():
    """Invariant 6: in the whole sequence and alone."""
    model = tiny_model()
    caption = [5, 6, 7, 8]
    batch = text_to_image(model.config, [caption], random_codes(1))
    with torch.no_grad():
        alone = model.text_prefix([caption])
        whole = model.new_cache(*batch.tokens.shape)
        model(batch.tokens, batch.routing, memory=whole)
    for layer in range(3):
        torch.testing.assert_close(whole.keys[layer][:, :, :4], alone.keys[layer], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(whole.values[layer][:, :, :4], alone.values[layer], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("switches", [s for s in SWITCHES if "experts" not in s], ids=name_of)
def test_a_prefix_apart_from_its_picture_gives_the_same_loss_and_gradients(switches):
    model = tiny_model(**switches)
    batch = t2i_batch(model)
    store = PrefixStore(model, max_bytes=1 << 20)
    whole = replace(batch, prefix=0)
    results = []
    for loss in (
        model.t2i_loss(whole),
        model.t2i_loss(batch),
        model.t2i_loss(batch, store.get(captions())),
        model.t2i_loss(batch, store.get(captions())),
    ):
        model.zero_grad()
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        results.append((loss.detach(), gradient))
    for loss, gradient in results[1:]:
        torch.testing.assert_close(loss, results[0][0], rtol=1e-5, atol=0)
        assert relative_difference(gradient, results[0][1]) < 1e-4
    assert (store.hits, store.misses) == (4, 4)
    dropped = text_to_image(model.config, [[], []], random_codes(2))
    torch.testing.assert_close(model.t2i_loss(dropped, store.get([[], []])), model.t2i_loss(dropped))


def test_the_prefix_store_forgets_the_oldest():
    model = tiny_model()
    one = PrefixStore(model, max_bytes=1 << 20)
    one.get([[1, 2]])
    store = PrefixStore(model, max_bytes=2 * one.bytes)
    store.get([[1, 2], [3, 4]])
    store.get([[1, 2]])
    store.get([[5, 6]])
    assert len(store) == 2 and store.bytes <= store.max_bytes
    store.get([[1, 2]])
    assert store.misses == 3
    with pytest.raises(ValueError, match="nothing can be kept"):
        PrefixStore(tiny_model(experts="shared"), 1)


def test_a_picture_of_captions_trains_all_but_the_last_layer():
    """Section 7: text queries read visual keys of every layer, but nothing reads the last layer's results."""
    model = tiny_model()
    model.i2t_loss(i2t_batch(model)).backward()

    def largest(name: str) -> float:
        gradient = dict(model.named_parameters())[name].grad
        return 0.0 if gradient is None else float(gradient.abs().max())

    for part in ("attention.output.weight", "feed_forward.gate.weight", "feed_forward.down.weight"):
        assert largest(f"layers.2.visual.{part}") == 0
        assert largest(f"layers.1.visual.{part}") > 0
    assert largest("layers.2.visual.attention.key.weight") > 0
    assert largest("visual.head.weight") == 0 and largest("visual.embedding.weight") > 0
    assert all(p.grad is None for name, p in model.named_parameters() if not is_visual(name))


@pytest.mark.parametrize("switches", SWITCHES, ids=name_of)
def test_every_switch_trains(switches):
    model = tiny_model(**switches)
    batches = t2i_batch(model), i2t_batch(model)
    before = model.t2i_loss(batches[0]) + model.i2t_loss(batches[1])
    train(model, steps=4)
    after = model.t2i_loss(batches[0]) + model.i2t_loss(batches[1])
    assert after < before - 0.5


def test_the_joint_softmax_covers_the_vocabulary_without_its_padding():
    model = tiny_model(softmax="joint")
    logits = model.joint_logits(torch.randn(2, 48))
    assert logits.shape == (2, model.tokens.total) and model.tokens.total % 8 == 0
    assert logits.isneginf().sum() == 2 * (model.tokens.total - 96 - CODES - 6)
    hidden = torch.randn(3, 48)
    assert torch.equal(model.joint_logits(hidden)[:, :96], model.text_logits_of(hidden))
    for level in range(3):
        part = model.image_logits(hidden, level)
        assert part.shape == (3, CODES + 1)
        torch.testing.assert_close(part[:, -1], model.joint_logits(hidden)[:, model.tokens.end(level)])


def test_the_image_loss_of_captioning_is_an_option():
    model = tiny_model()
    plain = model.i2t_loss(i2t_batch(model))
    both = model.i2t_loss(i2t_batch(model, image_targets=True), image_loss_weight=0.5)
    image = model.losses(i2t_batch(model, image_targets=True)).image
    torch.testing.assert_close(both, plain + 0.5 * image)
    with pytest.raises(ValueError, match="image_targets=True"):
        model.i2t_loss(i2t_batch(model), image_loss_weight=0.5)
    with pytest.raises(ValueError, match="no image targets"):
        model.t2i_loss(i2t_batch(model))
    with pytest.raises(ValueError, match="no text targets"):
        model.i2t_loss(t2i_batch(model))


def test_interleaved_documents_give_both_losses():
    model = tiny_model()
    first, second = random_codes(2)
    batch = interleaved(model.config, [[[3, 4], first, [5], second, [6, 7]], [first, [8]]], text_targets=True)
    losses = model.losses(batch)
    assert losses.image_tokens == 3 * (LENGTH + 1) and losses.image is not None
    # "4 <img>", "5 <img>", "6 7 end" and "8 end".
    assert losses.text_tokens == 9 and losses.text is not None
    (losses.image + losses.text).backward()
    assert model.visual.head.weight.grad[model.tokens.begin(0) - 96].abs().max() > 0


def test_recomputed_activations_change_nothing():
    gradients = []
    for recompute in (False, True):
        model = tiny_model()
        model.checkpoint_activations = recompute
        (model.t2i_loss(t2i_batch(model)) + model.i2t_loss(i2t_batch(model))).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.equal(*gradients)


def test_sixteen_bit_losses_are_close():
    """As weights, and by autocast over fp32 weights."""
    model = tiny_model()
    losses = [model.t2i_loss(t2i_batch(model)), model.i2t_loss(i2t_batch(model))]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = [model.t2i_loss(t2i_batch(model)), model.i2t_loss(i2t_batch(model))]
    sum(mixed).backward()
    assert model.visual.embedding.weight.grad.dtype == torch.float32
    model.to(torch.bfloat16)
    narrow = [model.t2i_loss(t2i_batch(model)), model.i2t_loss(i2t_batch(model))]
    for wide, *others in zip(losses, mixed, narrow, strict=True):
        assert all(loss.dtype == torch.float32 for loss in others)
        assert [loss.item() for loss in others] == pytest.approx([wide.item()] * 2, rel=0.05)


def test_one_shared_set_of_weights():
    """The ablation of the paper's table 3: the base model at first, and no longer once it has learned."""
    theirs = hf_model("qwen2")
    visual = tiny_config(experts="shared").visual
    model = from_hf(theirs.state_dict(), theirs.config.to_dict(), CODES, visual=visual, grids=(3,))
    tokens = torch.randint(0, 96, (2, 13))
    before = model.text_logits(tokens)
    assert relative_difference(before, theirs(tokens).logits) < 2e-5
    split = from_hf(theirs.state_dict(), theirs.config.to_dict(), CODES, grids=(3,))
    batch = text_to_image(model.config, captions(), random_codes(4))
    torch.testing.assert_close(model.t2i_loss(batch), split.t2i_loss(batch))
    train(model, steps=1)
    assert not torch.equal(model.text_logits(tokens), before)
    with pytest.raises(ValueError, match="a prefix needs"):
        model.t2i_loss(batch, model.text_prefix(captions()))
    with pytest.raises(ConfigError, match="one output projection"):
        tiny_config(experts="shared", output_projection="shared")


def test_a_language_of_ones_own_trains_first():
    model = tiny_model(apart=False)
    train_only(model, "language")
    model.text_logits(torch.randint(0, 96, (1, 5))).sum().backward()
    assert all((p.grad is not None) <= (not is_visual(name)) for name, p in model.named_parameters())
    assert model.layers[0].language.attention.query.weight.grad is not None


def test_drift_is_measured_per_modality():
    model = tiny_model()
    batch = t2i_batch(model)
    drift = measure_drift(model, batch)
    assert drift.text_rms.shape == drift.image_rms.shape == (4,)
    image = model.embed(batch.tokens)[:, 5:]
    expected = root_mean_square(image).square().mean().sqrt()
    torch.testing.assert_close(drift.image_rms[0], expected)
    assert 0 < drift.first_entropy < math.log(CODES) and drift.largest_image_logit > 0


def test_query_key_norms_start_at_the_size_they_meet():
    model = tiny_model(apart=False, query_key_norm=True)
    plain = tiny_model(apart=False)
    batch = t2i_batch(model)
    with torch.no_grad():
        expected, raw = plain.t2i_loss(batch), model.t2i_loss(batch)
        calibrate_query_key_norm(model, batch.tokens, batch.routing)
        gain = model.layers[1].visual.attention.query_norm.weight
        assert (gain == gain[0]).all() and gain[0] != 1
        assert abs(model.t2i_loss(batch) - expected) < abs(raw - expected)
    with pytest.raises(ValueError, match="no query_key_norm"):
        calibrate_query_key_norm(plain, batch.tokens, batch.routing)


def test_the_same_seed_makes_the_same_model():
    a, b, c = (new_model(tiny_config(), seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["visual.embedding.weight"], c["visual.embedding.weight"])
