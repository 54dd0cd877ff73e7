"""Metrics for Prometheus. Labels come from short fixed lists, never from what a client sends."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ccmb.serving.batching import Observe

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128)
_METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "ccmb_requests", "Requests answered.", ["route", "method", "status"], registry=self.registry
        )
        self._request_seconds = Histogram(
            "ccmb_request_seconds", "Seconds of a request.", ["route"], buckets=_SECONDS, registry=self.registry
        )
        self._call_items = Histogram(
            "ccmb_batch_items", "Items of one call of the network.", ["work"], buckets=_ITEMS, registry=self.registry
        )
        self._call_seconds = Histogram(
            "ccmb_batch_seconds", "Seconds of one call, waiting for the worker included.", ["work"],
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self._stage_seconds = Histogram(
            "ccmb_search_stage_seconds", "Seconds of a part of a search.", ["stage"], buckets=_SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self._waiting = Gauge("ccmb_queue_items", "Items that wait for the network.", ["work"], registry=self.registry)
        self._inside = Gauge("ccmb_requests_in_flight", "Requests in the house.", registry=self.registry)
        self._images = Gauge("ccmb_pictures", "Images of the index.", registry=self.registry)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count an answered request; status 499 is a client that went away."""
        method = method if method in _METHODS else "other"
        self._requests.labels(route, method, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def calls_of(self, work: str, waiting: Callable[[], int]) -> Observe:
        """The observer for a batcher of this kind of work; `waiting` returns the length of its queue."""
        self._waiting.labels(work).set_function(waiting)
        items, seconds = self._call_items.labels(work), self._call_seconds.labels(work)

        def observe(count: int, took: float) -> None:
            items.observe(count)
            seconds.observe(took)

        return observe

    def search(self, seconds: Mapping[str, float]) -> None:
        """Record the seconds of each part of one search."""
        for stage, took in seconds.items():
            self._stage_seconds.labels(stage).observe(took)

    def watch_requests(self, inside: Callable[[], int]) -> None:
        """Read the number of requests in flight whenever metrics are asked for."""
        self._inside.set_function(inside)

    def watch_images(self, images: Callable[[], int]) -> None:
        """Read the number of images whenever metrics are asked for."""
        self._images.set_function(images)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
