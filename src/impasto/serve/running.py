"""The process: uvicorn, made patient at the end and impatient with slow requests."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from impasto.serve.batching import Batcher

HEAD_SECONDS = 15.0  # to send a request's line and headers
LAST_WORDS_SECONDS = 2.0  # for answers that are ready to leave when all work is done


class ImpatientProtocol(H11Protocol):
    """Hangs up on a connection whose request does not come whole in time (uvicorn waits for ever)."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._arm()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._arm()  # part of a head
        elif self.conn.their_state is not h11.IDLE:
            self._disarm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def _arm(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.transport.close()


class GracefulServer(uvicorn.Server):
    """On SIGTERM or SIGINT: takes no connection more, finishes what the queue holds, answers it, and goes.
    Open pages, whose connections never end by themselves, are then cut off."""

    def __init__(self, config: uvicorn.Config, batcher: Batcher):
        super().__init__(config)
        self.batcher = batcher

    def handle_exit(self, sig: int, frame: Any) -> None:
        """As uvicorn's, but the process then ends by itself instead of by the signal: status 0."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        dead = self.batcher.finished and not self.should_exit  # the models could not be loaded
        return await super().on_tick(counter) or dead

    async def shutdown(self, sockets: Any = None) -> None:
        self.batcher.close()
        watching = asyncio.create_task(self._when_done())
        try:
            await super().shutdown(sockets)
        finally:
            watching.cancel()

    async def _when_done(self) -> None:
        while not self.batcher.finished:
            await asyncio.sleep(0.05)
        await asyncio.sleep(LAST_WORDS_SECONDS)
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.sleep(LAST_WORDS_SECONDS)
        self.force_exit = True


def make_server(app: Any, batcher: Batcher, host: str, port: int) -> GracefulServer:
    """Ready to `run()`."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=ImpatientProtocol,
        ws="none",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=20,
        backlog=1024,
    )
    return GracefulServer(config, batcher)
