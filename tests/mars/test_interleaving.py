"""Documents written by the model: the grammar holds, and each token is the one of the whole sequence."""

import pytest
import torch

from impasto.mars.grammar import GrammarError
from impasto.mars.interleaving import Document, generate_document
from impasto.mars.routing import LANGUAGE_ONLY
from impasto.mars.sampling import GREEDY, SamplingSettings
from impasto.mars.sequence import interleaved, visual_positions
from tests.mars.models import CODES, LENGTH, tiny_model


def eager_model():
    """A model that opens pictures often."""
    model = tiny_model()
    with torch.no_grad():
        hidden = model(torch.tensor([[3]]), LANGUAGE_ONLY)[0, 0]
        model.visual.output_rows[model.tokens.begin(0) - 96] = 0.3 * hidden
    return model


def test_documents_follow_the_grammar():
    model, kinds = eager_model(), set()
    for seed in range(6):
        document = generate_document(
            model, [3, 4], seed, max_words=12, max_pictures=2, settings=SamplingSettings(top_k=0)
        )
        parts = document.parts(model.config)
        pictures = [part for part in parts if isinstance(part, torch.Tensor)]
        texts = [part for part in parts if isinstance(part, list)]
        assert len(pictures) <= 2 and sum(map(len, texts)) <= 12
        assert all(picture.shape == (LENGTH,) and picture.max() < CODES for picture in pictures)
        kinds.add(len(pictures))
        interleaved(model.config, [[[3, 4], *parts]])  # the grammar of training reads it
    assert kinds - {0}


def test_every_token_is_the_likeliest_of_the_whole_sequence():
    model = eager_model()
    parts = generate_document(model, [3], 0, max_words=8, settings=GREEDY).parts(model.config)
    assert any(isinstance(part, torch.Tensor) for part in parts)
    batch = interleaved(model.config, [[[3], *parts]])
    tokens = batch.tokens[0].tolist()
    with torch.no_grad():
        hidden = model(batch.tokens, batch.routing)[0]
    for place, following in enumerate(tokens[1:]):
        if model.tokens.is_code(following):
            assert int(model.code_logits(hidden[place]).argmax()) == following - 96
        elif following < 96:
            seen = sum(token == model.tokens.begin(0) for token in tokens[: place + 1])
            level = 0 if seen == 0 else None
            assert int(model.text_logits_of(hidden[place], level).argmax()) == following
    with pytest.raises(ValueError, match="at least one token"):
        generate_document(model, [], 0)


def test_guidance_is_that_of_two_rows():
    """Each code is the likeliest of the whole document mixed with a picture that nothing comes before."""
    model, guidance = eager_model(), 3.0
    document = generate_document(
        model, [3], 0, max_words=8, max_pictures=2, guidance=guidance, settings=GREEDY
    )
    row, begin = [3, *document.ids], model.tokens.begin(0)
    assert row.count(begin) == 2
    with torch.no_grad():
        for start in [place for place, token in enumerate(row) if token == begin]:
            picture = torch.tensor([row[start : start + 1 + LENGTH]])
            whole = torch.tensor([row[: start + 1 + LENGTH]])
            told = model(whole, visual_positions(model.tokens, whole))[0, start:]
            alone = model(picture, visual_positions(model.tokens, picture))[0]
            logits = torch.lerp(model.code_logits(alone), model.code_logits(told), guidance)
            chosen = logits[:-1].argmax(-1) + 96
            assert chosen.tolist() == row[start + 1 : start + 1 + LENGTH]


def test_a_document_stays_within_the_context():
    model = eager_model()
    prompt = [3] * (128 - LENGTH - 2)
    for seed in range(4):
        document = generate_document(
            model, prompt, seed, max_words=100, max_pictures=9, settings=SamplingSettings(top_k=0)
        )
        assert len(document.ids) <= LENGTH + 2
        document.parts(model.config)  # no picture is cut off


def test_a_document_that_breaks_the_grammar_is_told():
    model = eager_model()
    broken = Document([3, model.tokens.begin(0), 96, 5], ended=False)
    with pytest.raises(GrammarError, match="text token 5 cannot stand inside a picture"):
        broken.parts(model.config)
    with pytest.raises(GrammarError, match="ends inside a picture"):
        Document([model.tokens.begin(0), 96], ended=True).parts(model.config)
