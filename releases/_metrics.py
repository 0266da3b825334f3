"""What a side-car tells Prometheus: with TensorFlow Serving beside it, nobody else would."""

from collections.abc import Collection

from prometheus_client import CollectorRegistry, Counter, Gauge

__all__ = ["SideCarMetrics"]


class SideCarMetrics:
    """The newest release on local disk, releases refused, looks at the store that failed."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._newest = Gauge(
            "recsys_release",
            "Newest release on local disk; 0: none.",
            ["kind"],
            registry=registry,
        ).labels("pulled")
        self._refused_total = Counter(
            "recsys_release_refused_total",
            "Releases that could not be pulled as their manifests say.",
            ["reason"],
            registry=registry,
        ).labels("mirror")
        self.poll_failures = Counter(
            "recsys_store_poll_failures_total",
            "Looks at the store that failed; the releases held stay.",
            registry=registry,
        )
        self._refused: frozenset[int] = frozenset()

    def note_refused(self, refused: Collection[int]) -> None:
        """Count the releases that were not refused at the look before."""
        new = frozenset(refused)
        self._refused_total.inc(len(new - self._refused))
        self._refused = new

    def note_held(self, releases: Collection[int]) -> None:
        """Tell what is on local disk now."""
        self._newest.set(max(releases, default=0))
