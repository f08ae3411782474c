"""A server in a thread of the tests, and one as a process of its own."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from impasto.serve.api import ApiConfig, create_app, guarded
from impasto.serve.engine import Engine, EngineConfig
from impasto.serve.metrics import Metrics
from impasto.serve.running import make_server

START_SECONDS = 180.0  # loading, on a busy machine


@dataclass
class Running:
    """Where a server is; `engine` of one in this process, `process` of another."""

    url: str
    engine: Any = None
    process: Any = None
    server: Any = None


def wait_until_ready(url: str, alive: Any = lambda: True) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert alive(), "the server ended"
        try:
            if httpx.get(f"{url}/health/ready", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError("not ready in time")


@contextmanager
def served(engine: EngineConfig, api: ApiConfig | None = None, safety: Any = None) -> Iterator[Running]:
    """In this process; ends as SIGTERM ends it."""
    metrics = Metrics()
    made = Engine(engine, safety, metrics.batch)
    app = guarded(create_app(made, api or ApiConfig(), metrics))
    server = make_server(app, made.batcher, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    running = Running(f"http://127.0.0.1:{port}", engine=made, server=server)
    try:
        wait_until_ready(running.url, thread.is_alive)
        yield running
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


@contextmanager
def process(log: Path, *arguments: str, **environment: str) -> Iterator[Running]:
    """`impasto serve` as a user starts it."""
    command = [sys.executable, "-m", "impasto.cli", "serve", "--port", "0", *arguments]
    with open(log, "w") as output:
        started = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **environment}
        )
    try:
        end = time.monotonic() + START_SECONDS
        while (found := re.search(r"running on (http://\S+)", log.read_text())) is None:
            assert started.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        wait_until_ready(found[1], lambda: started.poll() is None)
        yield Running(found[1], process=started)
    finally:
        if started.poll() is None:
            started.terminate()
        started.wait(60)
