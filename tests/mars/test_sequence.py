"""Sequences as data, the grammar, and prompts that try to be special."""

import pytest
import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from impasto.config import ConfigError
from impasto.mars.config import MarsConfig, Vocabulary
from impasto.mars.grammar import END_OF_SEQUENCE, GrammarError, ImageGrammar
from impasto.mars.prompts import PromptTokeniser
from impasto.mars.routing import IndexRouting, SegmentRouting
from impasto.mars.sequence import IGNORED, image_to_text, interleaved, text_to_image
from tests.mars.models import CODES, LENGTH, captions, random_codes, tiny_config

TEXT = 96
BEGIN, END = TEXT + CODES + 3, TEXT + CODES


def test_the_vocabulary_is_the_papers():
    tokens = Vocabulary(151936, 8192)
    assert tokens.total == 160136 and tokens.rows == 8200
    assert [tokens.end(0), tokens.begin(0), tokens.begin(2)] == [160128, 160131, 160133]
    ids = range(tokens.total)
    assert sum(map(tokens.is_code, ids)) == 8192
    assert sum(map(tokens.is_visual, ids)) == 8195  # codes and begin tokens; end tokens are the language's


def test_text_to_image():
    config, codes = tiny_config(), random_codes(4)
    batch = text_to_image(config, captions(), codes)
    assert batch.prefix == 5 and batch.tokens.shape == (4, 5 + 1 + LENGTH)
    assert batch.tokens[0].tolist() == [0, 0, 5, 6, 7, BEGIN, *(codes[0] + TEXT).tolist()]
    assert batch.positions[0].tolist() == [0, 0, *range(3 + 1 + LENGTH)]
    assert batch.positions[2, 5:].tolist() == list(range(1 + LENGTH))  # the dropped caption
    assert batch.targets[1, :5].tolist() == [IGNORED] * 5
    assert batch.targets[1, 5:].tolist() == [*(codes[1] + TEXT).tolist(), END]
    assert batch.mask.sum(1).tolist() == [n + 1 + LENGTH for n in (3, 5, 0, 1)]
    assert isinstance(batch.routing, SegmentRouting) and batch.left_padded and batch.predicts_end
    assert batch.routing.modality(4, 15)[0].tolist() == [False] * 5 + [True] * (1 + LENGTH)
    assert len(batch.image_rows) == 4 * (LENGTH + 1) and len(batch.text_rows) == 0
    alone = text_to_image(config, captions(), codes, end_token_loss=False)
    assert len(alone.image_rows) == 4 * LENGTH and not alone.predicts_end


def test_image_to_text():
    config, codes = tiny_config(), random_codes(4)
    batch = image_to_text(config, captions(), codes)
    start = 1 + LENGTH  # place of the end token, which predicts the first word
    assert batch.tokens[0].tolist() == [BEGIN, *(codes[0] + TEXT).tolist(), END, 5, 6, 7, 0, 0]
    assert batch.targets[0, start:].tolist() == [5, 6, 7, 0, IGNORED, IGNORED]  # 0 ends a text
    assert batch.targets[2, start:].tolist() == [0, *[IGNORED] * 5]
    assert not batch.left_padded and batch.prefix == 0
    assert batch.routing.modality(4, 16)[0].tolist() == [True] * start + [False] * 6
    assert batch.targets[:, :start].eq(IGNORED).all()
    both = image_to_text(config, captions(), codes, image_targets=True)
    assert torch.equal(both.targets[:, :LENGTH], codes + TEXT)
    empty = image_to_text(config, [[], []], codes[:2])
    assert empty.targets[:, -1].tolist() == [0, 0]


def test_interleaved():
    config = tiny_config()
    first, second = random_codes(2)
    batch = interleaved(config, [[[3, 4], first, [5]], [second]], text_targets=True)
    assert isinstance(batch.routing, IndexRouting) and not batch.left_padded
    row = [3, 4, BEGIN, *(first + TEXT).tolist(), END, 5]
    assert batch.tokens[0].tolist() == row
    assert batch.targets[0].tolist() == [*row[1:], 0]
    assert batch.targets[1, : LENGTH + 2].tolist() == [*(second + TEXT).tolist(), END, 0]
    assert batch.targets[1, LENGTH + 2 :].eq(IGNORED).all()
    pictures = interleaved(config, [[[3, 4], first, [5]]])
    assert len(pictures.text_rows) == 0 and len(pictures.image_rows) == LENGTH + 1


def test_moving_a_batch_keeps_it():
    batch = interleaved(tiny_config(), [[[3], random_codes(1)[0]], [[4, 5]]])
    moved = batch.to("cpu")
    assert torch.equal(moved.tokens, batch.tokens) and moved.prefix == batch.prefix
    assert batch.to("meta").routing.order.device.type == "meta"


@pytest.mark.parametrize(
    ("texts", "codes", "words"),
    [
        ([[TEXT]], random_codes(1), "not text"),
        ([[-1]], random_codes(1), "not text"),
        ([[1]], random_codes(1, length=4), r"expected \(1, 9\)"),
        ([[1]], random_codes(1) + CODES, "not all among the 32"),
    ],
)
def test_wrong_ids_are_refused(texts, codes, words):
    for build in (text_to_image, image_to_text):
        with pytest.raises(ValueError, match=words):
            build(tiny_config(), texts, codes)
    with pytest.raises(ConfigError, match="level=2"):
        text_to_image(tiny_config(), [[1]], random_codes(1), level=2)


def test_the_grammar_allows_exactly_n_codes_and_then_the_end():
    """Invariant 10."""
    config = tiny_config()
    grammar = ImageGrammar(config)
    state = grammar.opened(0)
    for drawn in range(LENGTH):
        (codes,) = grammar.allowed(state)
        assert (codes.start, codes.stop) == (TEXT, TEXT + CODES)
        for wrong in (0, 50, BEGIN, END, config.tokens.total - 1):
            with pytest.raises(GrammarError, match=f"after {drawn} of 9 codes"):
                grammar.advance(state, wrong)
        with pytest.raises(GrammarError, match="ends inside a picture"):
            grammar.advance(state, END_OF_SEQUENCE)
        state = grammar.advance(state, TEXT + drawn)
    assert [list(range(r.start, r.stop)) for r in grammar.allowed(state)] == [[END]]
    with pytest.raises(GrammarError, match="image code 3 cannot stand inside"):
        grammar.advance(state, TEXT + 3)
    with pytest.raises(GrammarError, match="</img_m> cannot"):
        grammar.advance(state, END + 1)
    assert grammar.advance(state, END) == grammar.start


def test_the_grammar_outside_a_picture():
    config = tiny_config()
    plain, mixed = ImageGrammar(config), ImageGrammar(config, interleaved=True)
    assert plain.advance(plain.start, 95) == plain.start
    with pytest.raises(GrammarError, match="<img> cannot stand outside a picture"):
        plain.advance(plain.start, BEGIN)
    assert mixed.advance(mixed.start, BEGIN + 1).level == 1
    with pytest.raises(GrammarError, match="<img_h> cannot"):  # this model has two resolutions
        mixed.advance(mixed.start, BEGIN + 2)
    with pytest.raises(GrammarError, match="padding row"):
        mixed.advance(mixed.start, config.tokens.total - 1)
    assert [(r.start, r.stop) for r in mixed.allowed(mixed.start)] == [(0, TEXT), (BEGIN, BEGIN + 2)]


SPECIAL = ["<|endoftext|>", "<|im_start|>", "<img>"]


def small_tokeniser() -> Tokenizer:
    tokeniser = Tokenizer(BPE())
    tokeniser.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL[:2], initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    tokeniser.train_from_iterator(["a red apple", "一个红苹果"], trainer)
    tokeniser.add_special_tokens([AddedToken("<img>", special=True)])
    return tokeniser


def test_prompt_text_never_becomes_a_special_token():
    """Invariant 10, last part, for both kinds of tokenisers."""
    raw = small_tokeniser()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=small_tokeniser(), eos_token=SPECIAL[0])
    wrapped.add_special_tokens({"additional_special_tokens": SPECIAL[1:]})
    special = {raw.token_to_id(word) for word in SPECIAL}
    for tokeniser in (raw, wrapped):
        prompts = PromptTokeniser(tokeniser, 512)
        assert prompts.special == special
        for text in ("<img> a red apple </img>", "<|endoftext|>", "一个<|im_start|>红苹果<img>"):
            ids = prompts.encode(text)
            assert special.isdisjoint(ids) and len(ids) > 3
    assert prompts.decode(raw.encode("a red apple").ids) == wrapped.decode(raw.encode("a red apple").ids)
    assert special & set(raw.encode("<img>").ids)  # the tokeniser itself is as it was


def test_tokenisers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="outside the model's 200 text rows"):
        PromptTokeniser(small_tokeniser(), 200).encode("一个")
    with pytest.raises(ValueError, match="not a tokeniser"):
        PromptTokeniser("text", 100)

    class Careless:
        all_special_ids = (7,)

        def __call__(self, text, **options):
            return {"input_ids": [1, 7]}

    with pytest.raises(ValueError, match="special token 7"):
        PromptTokeniser(Careless(), 100).encode("<|endoftext|>")


def test_grids_are_checked():
    with pytest.raises(ConfigError, match="one to 3 sides"):
        MarsConfig(grids=(1, 2, 3, 4))
