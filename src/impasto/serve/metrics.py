"""What Prometheus reads. Labels are names of ours alone: nothing that a client sends can add a series."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from impasto.serve.work import Alone, Describing, Drawing

if TYPE_CHECKING:
    from impasto.serve.engine import Engine

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
ROWS = (1, 2, 4, 8, 16, 32, 64)
NAMES = {Drawing: "draw", Describing: "describe", Alone: "other"}


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("impasto_requests", "HTTP requests", ["endpoint", "status"], **own)
        self.request_seconds = Histogram(
            "impasto_request_seconds", "From request to answer", ["endpoint"], buckets=SECONDS, **own
        )
        self.rows = Counter("impasto_rows", "Pictures drawn, or described", ["model", "work"], **own)
        self.batch_rows = Histogram("impasto_batch_rows", "Rows of a batch", ["work"], buckets=ROWS, **own)
        self.batch_seconds = Histogram(
            "impasto_batch_seconds", "Seconds of a batch", ["work"], buckets=SECONDS, **own
        )
        self.waiting = Gauge("impasto_queue_rows", "Pictures that wait", **own)
        self.ready = Gauge("impasto_ready", "1 once every model has answered", **own)
        self.stored = Gauge("impasto_stored_bytes", "Pictures kept for their addresses", **own)
        self.refused = Counter("impasto_refused", "By the safety filter", ["what"], **own)

    def batch(self, work: Any, rows: int, seconds: float) -> None:
        """One batch was computed."""
        name = NAMES.get(type(work), "other")
        self.rows.labels(work.served.name, name).inc(rows)
        self.batch_rows.labels(name).observe(rows)
        self.batch_seconds.labels(name).observe(seconds)

    def text(self, engine: Engine, stored_bytes: int) -> bytes:
        """In Prometheus' format."""
        self.waiting.set(engine.batcher.waiting)
        self.ready.set(engine.ready.is_set())
        self.stored.set(stored_bytes)
        return generate_latest(self.registry)
