"""One step of drawing a picture, eager or as a captured CUDA graph, and where the language expert stays."""

import torch
from torch import Tensor, nn

from impasto.mars.routing import VISUAL_ONLY
from impasto.mars.semvie import MarsModel
from impasto.nn.kv_cache import KeyValueCache, KeyValuePrefix

WARM_UP_STEPS = 2  # before a capture, so that libraries have chosen their kernels


class ImageStep:
    """Feeds one token per row to the visual expert and gives logits over the codes."""

    def __init__(self, model: MarsModel, prefix: KeyValuePrefix, steps: int, *, capture: bool = False):
        """prefix: what all rows have read; steps: at most so many. capture needs a CUDA device."""
        self.model = model
        self._graph: torch.cuda.CUDAGraph | None = None
        self.cache = KeyValueCache.after(prefix, steps, static=capture)
        self._position = prefix.lengths[:, None].clone()
        if capture:
            self._capture(prefix)

    def __call__(self, token: Tensor) -> Tensor:
        """token [R, 1] ids of new rows -> logits [R, codes]; with capture the result is overwritten by the
        next step. Raises ValueError after the last step."""
        if self._graph is None:
            return self._eager(token)
        if self.cache.length >= self.cache.capacity:
            raise ValueError(f"the cache holds {self.cache.capacity} tokens, no more")
        self.cache.length += 1
        self._token.copy_(token)
        self._graph.replay()
        return self._logits

    def _eager(self, token: Tensor) -> Tensor:
        hidden = self.model(token, VISUAL_ONLY, positions=self._position, memory=self.cache)
        self._position += 1
        return self.model.code_logits(hidden[:, -1])

    def _capture(self, prefix: KeyValuePrefix) -> None:
        device = self.model.device
        first = self.model.tokens.text
        self._token = torch.full((len(prefix.mask), 1), first, dtype=torch.int64, device=device)
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(min(WARM_UP_STEPS, self.cache.capacity - prefix.length)):
                self._eager(self._token)
        torch.cuda.current_stream(device).wait_stream(stream)
        self._restart(prefix)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._logits = self._eager(self._token)
        self._restart(prefix)
        self._graph = graph

    def _restart(self, prefix: KeyValuePrefix) -> None:
        self.cache.rewind(prefix.length)
        self._position.copy_(prefix.lengths[:, None])


def move_language(model: MarsModel, device: torch.device | str) -> None:
    """Move those language weights that no image token needs: embedding, head, QKV, FFN and, unless it is
    shared, W_O. Norms stay. With experts="shared" there are none, and only the tables move."""
    parts: list[nn.Module | None] = [model.language.embedding, model.language.head]
    for layer in model.layers:
        parts.append(layer.language.feed_forward)
        attention = layer.language.attention
        if attention is not None:
            parts += [attention.query, attention.key, attention.value]
            if model.config.visual.output_projection == "per_modality":
                parts.append(attention.output)
    for part in parts:
        if part is not None and next(part.parameters()).device != torch.device(device):
            part.to(device)
