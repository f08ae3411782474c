"""Who may ask, and how often."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

MOST_PICTURES = 10  # of one request, as OpenAI's
MOST_CALLERS = 10_000  # remembered; the one that was silent longest is forgotten


class Keys:
    """The keys that open the server; without any, it is open. Every comparison takes the same time, whatever
    is right about a guess, and all keys are compared."""

    def __init__(self, keys: Sequence[str]):
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def opens(self, authorization: str | None) -> bool:
        """Of a header: "Bearer KEY", or "Basic" with the key as password (browsers)."""
        if not self._digests:
            return True
        digest = hashlib.sha256(_secret(authorization or "")).digest()
        right = False
        for known in self._digests:
            right |= hmac.compare_digest(digest, known)
        return right


def _secret(authorization: str) -> bytes:
    kind, _, value = authorization.partition(" ")
    raw = value.strip().encode("latin-1", "replace")
    if kind.lower() == "bearer":
        return raw
    if kind.lower() == "basic":
        try:
            return base64.b64decode(raw, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return b""


class RateLimiter:
    """A token bucket for each caller: `a_minute` requests, of which as many at once. 0 is no limit."""

    def __init__(self, a_minute: int, clock: Callable[[], float] = time.monotonic):
        self.a_minute, self._clock = a_minute, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # caller: (tokens, when)

    def take(self, caller: str) -> int:
        """0 if the caller may ask now; otherwise in how many seconds."""
        if not self.a_minute:
            return 0
        now, a_second = self._clock(), self.a_minute / 60
        tokens, when = self._buckets.pop(caller, (float(self.a_minute), now))
        tokens = min(float(self.a_minute), tokens + (now - when) * a_second)
        wait = 0 if tokens >= 1 else max(1, math.ceil((1 - tokens) / a_second))
        self._buckets[caller] = (tokens - (not wait), now)
        if len(self._buckets) > MOST_CALLERS:
            self._buckets.popitem(last=False)
        return wait
