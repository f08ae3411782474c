"""Pictures by address, for a while: what `response_format: "url"` points to."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

MOST_BYTES = 64 * 2**20
SECONDS = 3600.0


class PictureStore:
    """In memory; the oldest go first where there are too many bytes. An address is 128 random bits, and
    whoever knows it may read it. Used from the event loop alone."""

    def __init__(
        self,
        most_bytes: int = MOST_BYTES,
        seconds: float = SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.most_bytes, self.seconds, self._clock = most_bytes, seconds, clock
        self._kept: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self.bytes = 0

    def put(self, png: bytes) -> str:
        """Its name. A picture larger than the whole store is kept until the next one comes."""
        name = secrets.token_urlsafe(16)
        self._kept[name] = (self._clock() + self.seconds, png)
        self.bytes += len(png)
        self._tidy()
        return name

    def get(self, name: str) -> bytes | None:
        """None for one that never was, or is no longer."""
        self._tidy()
        found = self._kept.get(name)
        return None if found is None else found[1]

    def __len__(self) -> int:
        return len(self._kept)

    def _tidy(self) -> None:
        now = self._clock()
        while self._kept:
            expires, png = next(iter(self._kept.values()))
            if expires > now and (self.bytes <= self.most_bytes or len(self._kept) == 1):
                return
            self._kept.popitem(last=False)
            self.bytes -= len(png)
