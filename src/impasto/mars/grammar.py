"""What may follow what: the grammar of mixed sequences as an explicit state machine.

A begin token opens a picture of one resolution, exactly N codes follow, then its end token and nothing else.
A sampler asks `allowed` for a few ranges of ids and never looks back at the sequence.
"""

from dataclasses import dataclass

from impasto.mars.config import MarsConfig

END_OF_SEQUENCE = -1  # not an id: says that a sequence stops here


class GrammarError(ValueError):
    """A token that cannot stand where it does; the message is one line."""


@dataclass(frozen=True)
class GrammarState:
    """Outside a picture (level None), or inside one of a resolution level with so many codes drawn."""

    level: int | None = None
    drawn: int = 0


@dataclass(frozen=True)
class IdRange:
    """Ids start to stop, stop excluded."""

    start: int
    stop: int

    def __contains__(self, token: int) -> bool:
        return self.start <= token < self.stop


class ImageGrammar:
    """The machine of one model; `interleaved` allows a text to open a picture by itself."""

    start = GrammarState()

    def __init__(self, config: MarsConfig, *, interleaved: bool = False):
        self.config, self.tokens, self.interleaved = config, config.tokens, interleaved

    def allowed(self, state: GrammarState) -> tuple[IdRange, ...]:
        """Ranges of ids that may come next."""
        tokens = self.tokens
        if state.level is None:
            text = IdRange(0, tokens.text)
            levels = len(self.config.grids) if self.interleaved else 0
            return (text, IdRange(tokens.begin(0), tokens.begin(0) + levels)) if levels else (text,)
        if state.drawn < self.config.image_length(state.level):
            return (IdRange(tokens.text, tokens.text + tokens.codes),)
        end = tokens.end(state.level)
        return (IdRange(end, end + 1),)

    def advance(self, state: GrammarState, token: int) -> GrammarState:
        """The state after a token. Raises GrammarError for one that is not allowed, or when the sequence
        stops (END_OF_SEQUENCE) inside a picture."""
        if token == END_OF_SEQUENCE:
            if state.level is not None:
                count = self.config.image_length(state.level)
                raise GrammarError(f"the sequence ends inside a picture: {state.drawn} of {count} codes")
            return state
        if not any(token in part for part in self.allowed(state)):
            raise GrammarError(f"{self.name(token)} cannot stand {self._place(state)}")
        if state.level is None:
            return GrammarState(self.tokens.level_of_begin(token))
        if self.tokens.is_code(token):
            return GrammarState(state.level, state.drawn + 1)
        return self.start

    def opened(self, level: int) -> GrammarState:
        """The state after the begin token of a level, which a request for a picture puts there."""
        self.config.grid(level)
        return GrammarState(level)

    def name(self, token: int) -> str:
        """A token as a reader would call it."""
        tokens = self.tokens
        if 0 <= token < tokens.text:
            return f"text token {token}"
        if tokens.is_code(token):
            return f"image code {token - tokens.text}"
        suffixes = ("", "_m", "_h")
        for level, suffix in enumerate(suffixes):
            if token == tokens.begin(level):
                return f"<img{suffix}>"
            if token == tokens.end(level):
                return f"</img{suffix}>"
        return f"padding row {token}" if token < tokens.total else f"unknown token {token}"

    def _place(self, state: GrammarState) -> str:
        if state.level is None:
            return "outside a picture"
        return f"inside a picture, after {state.drawn} of {self.config.image_length(state.level)} codes"
