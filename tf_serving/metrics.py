"""What Prometheus is told about models."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from tf_serving.errors import Code

__all__ = ["ModelMetrics"]


class ModelMetrics:
    """Releases in service, versions in memory, loads that failed."""

    def __init__(self, registry: CollectorRegistry, models: tuple[str, ...]) -> None:
        release = Gauge(
            "recsys_release", "Newest release in service; 0: none.", ["kind"], registry=registry
        )
        self._release = release.labels("model")
        self._loaded = Gauge(
            "recsys_model_versions_available", "Versions in service.", ["model"], registry=registry
        )
        self._failures = Counter(
            "recsys_model_load_failures_total",
            "Versions that could not be loaded, by status code.",
            ["model", "code"],
            registry=registry,
        )
        for name in models:
            self.set_available(name, 0)
            for code in (Code.NOT_FOUND, Code.INVALID_ARGUMENT, Code.DATA_LOSS):
                self._failures.labels(name, code.name)

    def set_release(self, version: int) -> None:
        """Tell the newest version that every model has in service."""
        self._release.set(version)

    def set_available(self, model: str, count: int) -> None:
        """Tell how many versions of a model are in service."""
        self._loaded.labels(model).set(count)

    def count_failure(self, model: str, code: Code) -> None:
        """Count one load that failed."""
        self._failures.labels(model, code.name).inc()
