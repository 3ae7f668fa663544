"""The counters of a server in the text format of Prometheus."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import prometheus_client
from prometheus_client.core import GaugeMetricFamily

_RATIOS = ("acceptance_rate", "tokens_per_text_step")  # of the engine's counts
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """The counters of one server. `page` writes them, with the engine's own numbers."""

    content_type = prometheus_client.CONTENT_TYPE_LATEST

    def __init__(self, unfinished: Callable[[], int], statistics: Callable[[], Any]) -> None:
        """Args: functions that return the number of unfinished texts, and the engine's statistics."""
        self._registry = registry = prometheus_client.CollectorRegistry()
        self.requests = prometheus_client.Counter(
            "cairn_requests", "Requests by path and HTTP status.", ["path", "status"], registry=registry
        )
        self.prompt_tokens = prometheus_client.Counter(
            "cairn_prompt_tokens", "Tokens of answered prompts.", registry=registry
        )
        self.generated_tokens = prometheus_client.Counter(
            "cairn_generated_tokens", "New tokens of complete texts.", registry=registry
        )
        self.first_token = prometheus_client.Histogram(
            "cairn_time_to_first_token_seconds",
            "From a request to the first new token of its answer.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.seconds = prometheus_client.Histogram(
            "cairn_request_seconds", "From a request to the end of its answer.", buckets=_SECONDS, registry=registry
        )
        self._unfinished, self._statistics = unfinished, statistics
        registry.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yields the numbers that others keep: called by the library for every page."""
        yield GaugeMetricFamily("cairn_unfinished_texts", "Texts that run or wait.", self._unfinished())
        statistics = self._statistics()
        names = [field.name for field in dataclasses.fields(statistics)] if dataclasses.is_dataclass(statistics) else []
        for name in (*names, *_RATIOS):
            value = getattr(statistics, name, None)
            if isinstance(value, int | float):
                yield GaugeMetricFamily(f"cairn_engine_{name}", f"{name} of the engine.", value)

    def page(self) -> bytes:
        """All numbers in the text format."""
        return prometheus_client.generate_latest(self._registry)
