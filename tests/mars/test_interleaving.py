"""Documents written by the model: the grammar holds, and each token is the one of the whole sequence."""

import pytest
import torch

from impasto.mars.interleaving import generate_document
from impasto.mars.routing import LANGUAGE_ONLY
from impasto.mars.sampling import GREEDY, SamplingSettings
from impasto.mars.sequence import interleaved
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
        parts = generate_document(
            model, [3, 4], seed, max_words=12, max_pictures=2, settings=SamplingSettings(top_k=0)
        )
        pictures = [part for part in parts if isinstance(part, torch.Tensor)]
        texts = [part for part in parts if isinstance(part, list)]
        assert len(pictures) <= 2 and sum(map(len, texts)) <= 12
        assert all(picture.shape == (LENGTH,) and picture.max() < CODES for picture in pictures)
        kinds.add(len(pictures))
        interleaved(model.config, [[[3, 4], *parts]])  # the grammar of training reads it
    assert kinds - {0}


def test_every_token_is_the_likeliest_of_the_whole_sequence():
    model = eager_model()
    parts = generate_document(model, [3], 0, max_words=8, settings=GREEDY)
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
