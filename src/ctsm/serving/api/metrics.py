"""What Prometheus sees of the service: counts and times, never what people write."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
ROWS = (1, 2, 4, 8, 16, 32, 64)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The service's own registry, so that several services in one process do not mix."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter("ctsm_requests", "Answers by route and status.", ["route", "status"], registry=registry)
        self.seconds = Histogram(
            "ctsm_request_seconds", "From request to end of answer.", ["route"], buckets=SECONDS, registry=registry
        )
        self.waiting = Gauge("ctsm_waiting", "Tasks that wait for the model.", registry=registry)
        self.running = Gauge("ctsm_running", "Tasks that the model works on.", registry=registry)
        self.rows = Histogram("ctsm_batch_rows", "Rows computed together.", buckets=ROWS, registry=registry)
        self.words = Counter("ctsm_reply_words", "Words said.", registry=registry)
        self.dropped = Counter("ctsm_dropped", "Tasks whose client went or that took too long.", registry=registry)
        self.refused = Counter("ctsm_refused", "Tasks refused because too many waited.", registry=registry)
        self.notices = Counter(
            "ctsm_notices", "Conversations that suggest danger: answered with a notice, or flagged.", registry=registry
        )

    def text(self) -> bytes:
        """Return all of it as Prometheus reads it."""
        return generate_latest(self._registry)
