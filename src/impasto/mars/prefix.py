"""Keys and values of captions, kept from use to use.

A caption before a picture never sees it, and the language expert is frozen: its keys and values are the same
in every epoch and for every picture (section 5 of the notes). 512 KiB a token at Qwen-7B's shape in 16 bit.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch

from impasto.mars.semvie import MarsModel
from impasto.nn.kv_cache import KeyValuePrefix, join_left_padded

Caption = tuple[int, ...]


class PrefixStore:
    """A bounded store of caption prefixes; the least recently used go first.

    device: where they rest, the CPU by default. Clear it if the language weights ever change.
    """

    def __init__(self, model: MarsModel, max_bytes: int, device: torch.device | str = "cpu"):
        if model.config.visual.experts != "split":
            raise ValueError("with experts='shared' training changes the keys of text; nothing can be kept")
        self.model, self.max_bytes, self.device = model, max_bytes, torch.device(device)
        self.bytes = self.hits = self.misses = 0
        self._kept: OrderedDict[Caption, KeyValuePrefix] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, captions: Sequence[Sequence[int]]) -> KeyValuePrefix:
        """The prefix of a batch of captions, padded on the left, on the model's device. Those not kept are
        computed together, in one pass of the language expert."""
        wanted = [tuple(caption) for caption in captions]
        missing = [caption for caption in dict.fromkeys(wanted) if caption not in self._kept]
        self.misses += len(missing)
        self.hits += len(wanted) - len(missing)
        found = {caption: self._kept[caption] for caption in wanted if caption in self._kept}
        if missing:
            found |= self._compute(missing)
        for caption in dict.fromkeys(wanted):
            self._keep(caption, found[caption])
        return join_left_padded([found[caption] for caption in wanted], self.model.device)

    def clear(self) -> None:
        self._kept.clear()
        self.bytes = 0

    def _compute(self, captions: list[Caption]) -> dict[Caption, KeyValuePrefix]:
        batch = self.model.text_prefix(captions)
        single = {}
        for row, caption in enumerate(captions):
            start = batch.length - len(caption)
            keys, values = (
                tuple(t[row : row + 1, :, start:].to(self.device, copy=True) for t in tensors)
                for tensors in (batch.keys, batch.values)
            )
            single[caption] = KeyValuePrefix(keys, values, batch.mask[row : row + 1, start:].to(self.device))
        return single

    def _keep(self, caption: Caption, prefix: KeyValuePrefix) -> None:
        if caption not in self._kept:
            self._kept[caption] = prefix
            self.bytes += _size(prefix)
        self._kept.move_to_end(caption)
        while self.bytes > self.max_bytes and len(self._kept) > 0:
            _, dropped = self._kept.popitem(last=False)
            self.bytes -= _size(dropped)


def _size(prefix: KeyValuePrefix) -> int:
    return sum(t.numel() * t.element_size() for t in (*prefix.keys, *prefix.values))
