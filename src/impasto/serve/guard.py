"""Around everything that is served: the key, rates, sizes and slowness of bodies, headers, one line of log.

Pure ASGI, so that bodies are refused while they come in. The log holds no prompt, no body and no query.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from impasto.serve.errors import ApiError, busy
from impasto.serve.limits import Keys, RateLimiter
from impasto.serve.metrics import Metrics

log = logging.getLogger("impasto.access")
OPEN = re.compile(r"/health/(live|ready)|/v1/pictures/[\w-]+\.png")  # no key needed
ENDPOINTS = re.compile(
    r"/(v1/(images/generations|chat/completions|interleaved|models|pictures)|health|metrics|gradio_api)\b"
)
# The page's own scripts and styles are inline in part; nothing comes from, or goes to, another place.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "frame-ancestors 'none'; base-uri 'self'; form-action 'self'; object-src 'none'"
)


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """most_bytes of a body; body_seconds to send it."""

    most_bytes: int = 8 * 2**20
    body_seconds: float = 20.0


class Guard:
    """The middleware."""

    def __init__(
        self, app: ASGIApp, *, keys: Keys, rates: RateLimiter, metrics: Metrics, config: GuardConfig
    ):
        self.app, self.keys, self.rates, self.metrics, self.config = app, keys, rates, metrics, config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # nothing here speaks WebSocket
        began, status = time.perf_counter(), 500
        name = secrets.token_hex(8)
        found = ENDPOINTS.match(scope["path"])
        endpoint = found[1] if found else "other"

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _head(MutableHeaders(scope=message), name)
            await send(message)

        try:
            refusal = self._refusal(scope, endpoint)
            if refusal is None:
                await self.app(scope, self._limited(scope, receive), sending)
            else:
                await refusal.response()(scope, receive, sending)
        except Exception:
            log.exception("request %s failed", name)
            raise
        finally:
            seconds = time.perf_counter() - began
            self.metrics.requests.labels(endpoint, str(status)).inc()
            if endpoint != "gradio_api":  # those stay open
                self.metrics.request_seconds.labels(endpoint).observe(seconds)
            log.info("%s %s %s %d %.0f ms", name, scope["method"], endpoint, status, 1000 * seconds)

    def _refusal(self, scope: Scope, endpoint: str) -> ApiError | None:
        headers = Headers(scope=scope)
        if not OPEN.fullmatch(scope["path"]) and not self.keys.opens(headers.get("authorization")):
            api = scope["path"].startswith("/v1/")
            asks = {"WWW-Authenticate": "Bearer" if api else 'Basic realm="impasto; the key is the password"'}
            return ApiError(401, "wrong or missing key", code="invalid_api_key", headers=asks)
        if not scope["path"].startswith("/v1/") or scope["method"] != "POST":
            return None
        length = headers.get("content-length", "0")
        if length.isdecimal() and (len(length) > 18 or int(length) > self.config.most_bytes):
            return ApiError(413, self._too_large, code="request_too_large")
        client = scope.get("client")
        address = client[0] if client else "unknown"
        wait = self.rates.take(headers["authorization"] if self.keys else address)
        if wait:
            told = f"more than {self.rates.a_minute} requests a minute; try again in {wait} s"
            return busy(wait, told, "rate_limit_exceeded")
        return None

    @property
    def _too_large(self) -> str:
        return f"the body is larger than {self.config.most_bytes:,} bytes"

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        """The same, but a body of the API that is too large or comes too slowly raises."""
        if not scope["path"].startswith("/v1/"):
            return receive
        deadline = time.monotonic() + self.config.body_seconds
        size, complete = 0, False

        async def limited() -> Message:
            nonlocal size, complete
            if complete:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                raise HTTPException(408, "the body came too slowly", {"Connection": "close"}) from None
            if message["type"] == "http.request":
                size += len(message.get("body", b""))
                complete = not message.get("more_body", False)
                if size > self.config.most_bytes:
                    raise HTTPException(413, self._too_large, {"Connection": "close"})
            return message

        return limited


def _head(headers: Any, name: str) -> None:
    headers["X-Request-ID"] = name
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Referrer-Policy"] = "no-referrer"
    headers["Content-Security-Policy"] = POLICY
