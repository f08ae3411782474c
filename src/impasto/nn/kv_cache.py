"""Keys and values of tokens already seen: a fixed prefix, and a preallocated cache that grows in place.

Both are a `Memory`, which a decoder asks twice: `admit` once a pass for the mask of all keys, and `extend` in
every layer for the keys and values to attend to.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Memory(Protocol):
    """What came before the tokens of this pass."""

    @property
    def lengths(self) -> Tensor:
        """[B] tokens so far that count: the position of whatever follows."""
        ...

    def admit(self, mask: Tensor) -> Tensor:
        """mask [B, T] bool of the new tokens -> [B, S] of all keys, those of this pass last."""
        ...

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """key, value [B, heads, T, d] of this pass -> those of all keys, [B, heads, S, d]."""
        ...


@dataclass(frozen=True)
class KeyValuePrefix:
    """Keys and values of a prefix that no longer changes; differentiable for what comes after it.

    keys, values: one [B, heads, P, d] per layer; mask [B, P] bool, False for padding. Methods as in `Memory`.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Tensor

    @property
    def lengths(self) -> Tensor:
        """[B] tokens that count, without padding."""
        return self.mask.sum(1)

    @property
    def length(self) -> int:
        """Slots, padding included."""
        return self.mask.shape[1]

    def rows(self, index: Tensor) -> "KeyValuePrefix":
        """The prefix of other rows, [N] int64 into the batch; a row may be taken many times."""
        keys = tuple(k.index_select(0, index) for k in self.keys)
        values = tuple(v.index_select(0, index) for v in self.values)
        return KeyValuePrefix(keys, values, self.mask.index_select(0, index))

    def admit(self, mask: Tensor) -> Tensor:
        return torch.cat((self.mask, mask), dim=1)

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.keys[layer].to(key.dtype), self.values[layer].to(value.dtype)
        return torch.cat((keys, key), dim=2), torch.cat((values, value), dim=2)


class KeyValueCache:
    """Preallocated keys and values, written in place; no gradient passes through it.

    `static` is for single-token steps of unchanging shape, as captured graphs need: attention runs over the
    whole capacity with the unused part masked, and the place to write to is counted on the device. Otherwise
    attention sees only the part in use. keys, values: one [B, heads, capacity, d] per layer; mask
    [B, capacity] bool. Methods as in `Memory`, where S is `capacity` with `static`.
    """

    def __init__(
        self,
        *,
        layers: int,
        batch: int,
        heads: int,
        capacity: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        static: bool = False,
    ):
        shape = (batch, heads, capacity, head_dim)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.mask = torch.zeros(batch, capacity, dtype=torch.bool, device=device)
        self.capacity, self.length, self.static = capacity, 0, static
        self._slot = torch.zeros(1, dtype=torch.int64, device=device)  # static: written to in this pass
        self._next = torch.zeros_like(self._slot)  # static: in the next

    @classmethod
    def after(cls, prefix: KeyValuePrefix, room: int, *, static: bool = False) -> "KeyValueCache":
        """A cache that starts with a prefix and has room for so many more tokens."""
        batch, heads, length, head_dim = prefix.keys[0].shape
        cache = cls(
            layers=len(prefix.keys),
            batch=batch,
            heads=heads,
            capacity=length + room,
            head_dim=head_dim,
            dtype=prefix.keys[0].dtype,
            device=prefix.keys[0].device,
            static=static,
        )
        for layer, (key, value) in enumerate(zip(prefix.keys, prefix.values, strict=True)):
            cache.keys[layer][:, :, :length] = key
            cache.values[layer][:, :, :length] = value
        cache.mask[:, :length] = prefix.mask
        cache.rewind(length)
        return cache

    @property
    def lengths(self) -> Tensor:
        """[B] tokens that count, without padding."""
        return self.mask[:, : self.length].sum(1)

    def prefix(self) -> KeyValuePrefix:
        """What it holds so far, as views."""
        keys, values = ([t[:, :, : self.length] for t in tensors] for tensors in (self.keys, self.values))
        return KeyValuePrefix(tuple(keys), tuple(values), self.mask[:, : self.length])

    def rewind(self, length: int) -> None:
        """Forget what lies behind the first `length` slots."""
        self.mask[:, length:] = False
        self.length = length
        self._next.fill_(length)

    def admit(self, mask: Tensor) -> Tensor:
        """mask [B, T] bool -> [B, S], or [B, capacity] with `static`. Raises ValueError when the tokens do
        not fit, or for several at once with `static`."""
        stop = self.length + mask.shape[1]
        if stop > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} tokens; {stop} were asked of it")
        if self.static:
            if mask.shape[1] != 1:
                raise ValueError("a static cache takes one token at a time; prefill another and copy it")
            self._slot = self._next.clone()
            self._next += 1
            self.mask.index_copy_(1, self._slot, mask)
            self.length = stop
            return self.mask
        self.mask[:, self.length : stop] = mask
        self.length = stop
        return self.mask[:, :stop]

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.keys[layer], self.values[layer]
        if self.static:
            keys.index_copy_(2, self._slot, key.to(keys.dtype))
            values.index_copy_(2, self._slot, value.to(values.dtype))
            return keys.to(key.dtype), values.to(value.dtype)
        start = self.length - key.shape[2]
        keys[:, :, start : self.length] = key
        values[:, :, start : self.length] = value
        return keys[:, :, : self.length].to(key.dtype), values[:, :, : self.length].to(value.dtype)


def join_left_padded(prefixes: Sequence[KeyValuePrefix], device: torch.device) -> KeyValuePrefix:
    """One batch of N single-row prefixes without padding, each pushed to the right end: keys and values
    [N, heads, longest, d], mask [N, longest]."""
    longest = max(prefix.length for prefix in prefixes)
    mask = torch.zeros(len(prefixes), longest, dtype=torch.bool, device=device)
    joined: list[list[Tensor]] = [[], []]
    for row, prefix in enumerate(prefixes):
        mask[row, longest - prefix.length :] = True
    for target, name in zip(joined, ("keys", "values"), strict=True):
        for layer, first in enumerate(getattr(prefixes[0], name)):
            shape = (len(prefixes), first.shape[1], longest, first.shape[3])
            batch = torch.zeros(shape, dtype=first.dtype, device=device)
            for row, prefix in enumerate(prefixes):
                batch[row, :, longest - prefix.length :] = getattr(prefix, name)[layer][0].to(device)
            target.append(batch)
    return KeyValuePrefix(tuple(joined[0]), tuple(joined[1]), mask)
