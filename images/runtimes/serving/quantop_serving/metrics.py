"""The server's Prometheus metrics. Names and meanings follow those of the large engines."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

_PREFIX = "quantop_serving_"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class Metrics:
    """Everything on `/metrics`, in a registry of its own; every sample has the model's name."""

    def __init__(self, model_name: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

        labels, registry = ["model_name"], self.registry

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(_PREFIX + name, text, labels, registry=registry).labels(model_name)

        def counter(name: str, text: str) -> Counter:
            return Counter(_PREFIX + name, text, labels, registry=registry).labels(model_name)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            family = Histogram(_PREFIX + name, text, labels, registry=registry, buckets=buckets)
            return family.labels(model_name)

        self.running = gauge("requests_running", "Requests that generate now.")
        self.waiting = gauge("requests_waiting", "Requests in the queue.")
        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens read.")
        self.generated_tokens = counter("generation_tokens", "Tokens generated.")
        self.queue_seconds = histogram("queue_seconds", "Time in the queue.", _SECONDS)
        self.first_token_seconds = histogram(
            "time_to_first_token_seconds", "From admission to the first token.", _SECONDS
        )
        self.inter_token_seconds = histogram(
            "inter_token_latency_seconds", "Between two tokens of one request.", _TOKEN_SECONDS
        )
        self.request_seconds = histogram(
            "e2e_request_latency_seconds", "From admission to the last token.", _SECONDS
        )
        self._requests = Counter(
            _PREFIX + "requests",
            "Requests ended; the finish reason is stop, length, abort, error or none.",
            ["model_name", "route", "code", "finish_reason"],
            registry=self.registry,
        )
        self._model_name = model_name

    def request_ended(self, route: str, code: int, finish_reason: str) -> None:
        """Count one request; 499 is the code of a client that left before the answer."""
        self._requests.labels(self._model_name, route, str(code), finish_reason).inc()
