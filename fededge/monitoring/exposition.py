"""Metrics in the format that Prometheus reads. The one module that needs prometheus-client to be imported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fededge.monitoring.metrics import COMMON, METRICS, Sample


class Samples(Collector):
    """Samples as what a registry collects."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = list(samples)

    def collect(self) -> Iterator[Metric]:
        for metric in METRICS:
            labels = (*COMMON, *metric.labels)
            family = GaugeMetricFamily(metric.name, metric.help, labels=labels)
            for sample in self._samples:
                if sample.name == metric.name:
                    family.add_metric([sample.labels.get(label, "") for label in labels], sample.value)
            if family.samples:
                yield family


def registry(samples: Iterable[Sample]) -> CollectorRegistry:
    """Make a registry with these samples and nothing else."""
    made = CollectorRegistry()
    made.register(Samples(samples))
    return made


def text(samples: Iterable[Sample]) -> str:
    """Write samples as Prometheus reads them."""
    return generate_latest(registry(samples)).decode()
