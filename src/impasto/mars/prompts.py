"""Text to token ids and back, such that no text can become a special token.

The markers of pictures are not in any text tokeniser: their ids lie behind the text vocabulary. The text
tokeniser's own special tokens (`<|endoftext|>`, `<|im_start|>`, ...) are another matter: a prompt that spells
one out has to come out as ordinary pieces (peer: Qwen's note on prompt injection), and is checked for it.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from tokenizers import Tokenizer
from torch import Tensor

Language = Literal["en", "zh"]
FIRST_IDEOGRAPH = "\u2e80"  # Chinese writing begins about here; parts of characters decode to U+FFFD


class PromptTokeniser:
    """Over a `tokenizers.Tokenizer` or a tokeniser of transformers, which stays as it is."""

    def __init__(self, tokeniser: Any, vocabulary: int):
        """vocabulary: rows of the language model's text table. Raises ValueError for other things."""
        if not isinstance(tokeniser, Tokenizer) and not callable(tokeniser):
            raise ValueError(f"a {type(tokeniser).__name__} is not a tokeniser of tokenizers or transformers")
        self.tokeniser, self.vocabulary = tokeniser, vocabulary
        self.special = _special_ids(tokeniser)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text, without begin or end tokens. Raises ValueError if a special token came out, or
        an id that the language model does not have."""
        if isinstance(self.tokeniser, Tokenizer):
            before = self.tokeniser.encode_special_tokens
            self.tokeniser.encode_special_tokens = True  # encode them as the text they are
            try:
                ids = list(self.tokeniser.encode(text, add_special_tokens=False).ids)
            finally:
                self.tokeniser.encode_special_tokens = before
        else:
            options = {"add_special_tokens": False, "split_special_tokens": True}
            ids = list(self.tokeniser(text, **options)["input_ids"])
        for token in ids:
            if token in self.special:
                raise ValueError(f"this tokeniser turns text into its special token {token}; use another one")
            if not 0 <= token < self.vocabulary:
                raise ValueError(f"token {token} is outside the model's {self.vocabulary} text rows")
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special tokens are left out."""
        return self.tokeniser.decode(list(ids), skip_special_tokens=True)

    def beginnings(self, language: Language) -> Tensor:
        """[vocabulary] bool: the pieces that a sentence of a language may begin with. ValueError for another
        language."""
        if language not in ("en", "zh"):
            raise ValueError(f"language='{language}' should be 'en' or 'zh'")
        chosen = torch.zeros(self.vocabulary, dtype=torch.bool)
        for token in range(min(self.vocabulary, _size(self.tokeniser))):
            text = self.tokeniser.decode([token], skip_special_tokens=False)
            chinese = any(letter >= FIRST_IDEOGRAPH for letter in text)
            chosen[token] = token not in self.special and bool(text.strip()) and chinese == (language == "zh")
        return chosen


def _special_ids(tokeniser: Any) -> frozenset[int]:
    if isinstance(tokeniser, Tokenizer):
        added = tokeniser.get_added_tokens_decoder()
        return frozenset(index for index, token in added.items() if token.special)
    unknown = getattr(tokeniser, "unk_token_id", None)  # may stand for text that it has no piece for
    added = getattr(tokeniser, "added_tokens_decoder", {})
    marked = {index for index, token in added.items() if token.special}
    return frozenset((marked | set(tokeniser.all_special_ids)) - {unknown})


def _size(tokeniser: Any) -> int:
    return tokeniser.get_vocab_size() if isinstance(tokeniser, Tokenizer) else len(tokeniser)
