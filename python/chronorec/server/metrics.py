"""What ``/metrics`` says: latency, who answered, what was refused, what waits, sessions, models."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from chronorec.server.service import Service

_BOUNDS = (2e-4, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3, 1e-2, 1.5e-2, 2.5e-2, 5e-2, 0.1, 0.25, 1, 5)


class Metrics:
    """Everything that is counted, of one server.

    Attributes:
        seconds: from the head of a request to the end of its answer, by route.
        answers: recommendations by who spoke (``source``: session, history, or the fallback) and variant.
        refused: answers other than 200, by route and status.
        waiting: requests that are not answered yet.
        batch_sizes: how many recommendations were made at a time.
        snapshots: attempts to write the sessions down, by result.
    """

    def __init__(self, service: Service) -> None:
        self.registry = registry = CollectorRegistry()
        self.seconds = Histogram(
            "chronorec_request_seconds",
            "Time from the head of a request to the end of its answer.",
            ["route"],
            buckets=_BOUNDS,
            registry=registry,
        )
        self.answers = Counter(
            "chronorec_answers", "Recommendations.", ["source", "variant"], registry=registry
        )
        self.refused = Counter(
            "chronorec_refusals", "Answers other than 200.", ["route", "status"], registry=registry
        )
        self.waiting = Gauge(
            "chronorec_waiting_requests", "Requests not answered yet: the queue.", registry=registry
        )
        self.batch_sizes = Histogram(
            "chronorec_batch_size",
            "Recommendations made at a time.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )
        self.snapshots = Counter(
            "chronorec_snapshots", "Attempts to write the sessions down.", ["result"], registry=registry
        )
        self._answers_of = functools.cache(self.answers.labels)
        registry.register(_OfService(service))

    def count_answer(self, source: str, variant: str) -> None:
        """One more recommendation."""
        self._answers_of(source, variant).inc()

    def text(self) -> bytes:
        """All of it in Prometheus' format."""
        return generate_latest(self.registry)


class _OfService:
    """What the service knows itself, read when somebody asks."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        models = GaugeMetricFamily("chronorec_model", "What answers.", labels=["variant", "model", "version"])
        for one in self._service.models().models:
            models.add_metric([one.variant, one.model, one.version], 1)
        yield models
        counts = {name: one.sessions.counts() for name, one in self._service.variants.items()}
        for key in next(iter(counts.values())):
            family = GaugeMetricFamily(f"chronorec_sessions_{key}", f"Sessions: {key}.", labels=["variant"])
            for name, found in counts.items():
                family.add_metric([name], found[key])
            yield family
