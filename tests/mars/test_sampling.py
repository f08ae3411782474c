"""Drawing: cache against full passes, guidance, streams of random numbers, off-loading, captions."""

import copy

import pytest
import torch

from impasto.mars.convert import from_hf
from impasto.mars.decoding import ImageStep, move_language
from impasto.mars.grammar import ImageGrammar
from impasto.mars.prefix import PrefixStore
from impasto.mars.routing import LANGUAGE_ONLY
from impasto.mars.sampling import (
    GREEDY,
    SamplingSettings,
    caption_images,
    choose,
    draw_uniforms,
    generate_images,
    generate_text,
    kept_probabilities,
)
from impasto.mars.sequence import image_to_text, text_to_image
from impasto.nn.kv_cache import KeyValueCache
from tests.mars.models import CODES, LENGTH, captions, hf_model, random_codes, tiny_model


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("switches", [{}, {"norms": "per_modality"}, {"experts": "shared"}], ids=str)
def test_cached_steps_equal_the_whole_sequence(static, switches):
    """Invariant 3, second part."""
    model, codes = tiny_model(**switches), random_codes(4)
    batch = text_to_image(model.config, captions(), codes)
    with torch.no_grad():
        hidden = model(batch.tokens, batch.routing, mask=batch.mask)
        expected = model.code_logits(hidden[:, batch.prefix : batch.prefix + LENGTH])
        prefix = model.text_prefix(captions())
        step = ImageStep(model, prefix, LENGTH)
        step.cache = KeyValueCache.after(prefix, LENGTH, static=static)
        tokens = batch.tokens[:, batch.prefix :]
        actual = torch.stack([step(tokens[:, i : i + 1]) for i in range(LENGTH)], dim=1)
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
        with pytest.raises(ValueError, match="the cache holds"):
            step(tokens[:, :1])


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_guidance_in_one_batch_equals_two_runs(guidance):
    """Invariant 3, third part: logits of every step, given the codes that were drawn."""
    model = tiny_model()
    texts = [caption for caption in captions() if caption]
    settings = SamplingSettings(temperature=0.7, top_k=0)
    codes = generate_images(model, texts, [1, 2, 3], guidance=guidance, settings=settings)
    logits = []
    with torch.no_grad():
        for branch in (texts, [[]] * 3):
            batch = text_to_image(model.config, branch, codes)
            hidden = model(batch.tokens, batch.routing, mask=batch.mask)
            logits.append(model.code_logits(hidden[:, batch.prefix : batch.prefix + LENGTH]))
    mixed = logits[1] + guidance * (logits[0] - logits[1])
    uniforms = draw_uniforms([1, 2, 3], LENGTH)
    expected = [choose(mixed[:, i], uniforms[:, i], settings) for i in range(LENGTH)]
    assert torch.equal(codes, torch.stack(expected, dim=1))


def test_a_picture_does_not_depend_on_its_batch():
    """Invariant 7: tokens equal at batch 1 and batch 8, with captions of other lengths beside it."""
    model = tiny_model()
    texts = (captions() * 2)[:8]
    together = generate_images(model, texts, range(8))
    for index in (0, 2, 5):
        alone = generate_images(model, [texts[index]], [index])
        assert torch.equal(alone[0], together[index])
    assert torch.equal(generate_images(model, texts, range(8)), together)
    assert not torch.equal(generate_images(model, texts, range(8, 16)), together)
    assert together.shape == (8, LENGTH)
    grammar, tokens = ImageGrammar(model.config), model.tokens
    for picture in together.tolist():
        state = grammar.opened(0)
        for token in (*(code + tokens.text for code in picture), tokens.end(0)):
            state = grammar.advance(state, token)
        assert state == grammar.start


def test_pictures_arrive_row_by_row_and_at_every_resolution():
    model, rows = tiny_model(), []
    codes = generate_images(model, [[1, 2]], [0], on_row=lambda row, part: rows.append((row, part.clone())))
    assert [row for row, _ in rows] == [0, 1, 2]
    for row, part in rows:
        assert torch.equal(part, codes[:, : 3 * (row + 1)])
    assert generate_images(model, [[1, 2]], [0], level=1).shape == (1, 4)


@pytest.mark.parametrize("output_projection", ["per_modality", "shared"])
def test_drawing_needs_no_language_weights_after_the_prefill(output_projection):
    model = tiny_model(output_projection=output_projection)
    expected = generate_images(model, captions(), range(4), offload_language=True)
    without = copy.deepcopy(model)
    prefix = without.text_prefix(captions())
    move_language(without, "meta")  # gone, not only elsewhere
    assert torch.equal(generate_images(without, captions(), range(4), prefix=prefix), expected)
    kept = PrefixStore(model, 1 << 20).get(captions())
    assert torch.equal(generate_images(model, captions(), range(4), prefix=kept), expected)
    with pytest.raises(ValueError, match="4 rows for 1 captions"):
        generate_images(model, [[1]], [0], prefix=kept)


def test_captions_are_the_likeliest_words_of_the_whole_sequence():
    model, codes = tiny_model(), random_codes(3)
    written = caption_images(model, codes, max_tokens=6)
    with torch.no_grad():
        for row, text in enumerate(written):
            batch = image_to_text(model.config, [text], codes[row : row + 1])
            hidden = model(batch.tokens, batch.routing)
            likeliest = model.text_logits_of(hidden[0, LENGTH + 1 :]).argmax(-1).tolist()
            assert likeliest[: len(text)] == text
            assert len(text) == 6 or likeliest[len(text)] == 0
    assert caption_images(model, codes[1:2], max_tokens=6) == written[1:2]
    free = SamplingSettings(temperature=1.0, top_k=0)
    drawn = caption_images(model, codes, max_tokens=6, settings=free, seeds=[1, 2, 3])
    assert caption_images(model, codes[2:], max_tokens=6, settings=free, seeds=[3]) == drawn[2:]
    with pytest.raises(ValueError, match="needs 3 seeds"):
        caption_images(model, codes, settings=free)
    with pytest.raises(ValueError, match=r"expected \[B, 9\]"):
        caption_images(model, codes[:, :4])


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_greedy_text_is_that_of_transformers(family):
    theirs = hf_model(family, eos_token_id=1)
    model = from_hf(theirs.state_dict(), theirs.config.to_dict(), CODES)
    prompts = [[5, 6, 7, 8], [9], [10, 11]]
    written = generate_text(model, prompts, max_tokens=12)
    for prompt, text in zip(prompts, written, strict=True):
        expected = theirs.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, pad_token_id=1, use_cache=True
        )
        words = expected[0, len(prompt) :].tolist()
        assert text == (words[: words.index(1)] if 1 in words else words)
    assert len(model.text_logits(torch.tensor([[5]]))[0]) == 1 and LANGUAGE_ONLY.visual is False
    with pytest.raises(ValueError, match="at least one token"):
        generate_text(model, [[]])


def test_top_k_and_top_p_keep_the_likeliest():
    logits = torch.tensor([[0.5, 0.2, 0.15, 0.1, 0.05]]).log()

    def kept(**settings) -> list[int]:
        return kept_probabilities(logits, SamplingSettings(**settings)).nonzero()[:, 1].tolist()

    assert kept(top_k=0) == [0, 1, 2, 3, 4] and kept(top_k=9) == [0, 1, 2, 3, 4]
    assert kept(top_k=2) == [0, 1]
    assert kept(top_k=0, top_p=0.65) == [0, 1] and kept(top_k=0, top_p=0.01) == [0]
    assert kept(top_k=3, top_p=0.75) == [0, 1]  # 0.5 and 0.2 of what top-k leaves, 0.85
    with pytest.raises(ValueError, match="0 < top_p <= 1"):
        SamplingSettings(top_p=0.0)


def test_draws_follow_their_distribution():
    logits = torch.tensor([0.6, 0.0, 0.3, 0.1]).log().repeat(20000, 1)
    uniforms = torch.rand(20000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    counts = choose(logits, uniforms, SamplingSettings()).bincount(minlength=4) / 20000
    torch.testing.assert_close(counts, torch.tensor([0.6, 0.0, 0.3, 0.1]), atol=0.015, rtol=0)
    edges = choose(logits[:2], torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64), SamplingSettings())
    assert edges.tolist() == [0, 3]
    assert choose(logits[:1], uniforms[:1], GREEDY).tolist() == [0]


def test_lists_that_do_not_fit_are_refused():
    model = tiny_model()
    with pytest.raises(ValueError, match="2 seeds for 1 pictures"):
        generate_images(model, [[1]], [0, 1])
    with pytest.raises(ValueError, match="no caption"):
        generate_images(model, [], [])
