"""What the faiss server counts besides its calls."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from faiss_server.errors import RefusalReason
from service_runtime.metrics import LATENCY_BUCKETS

__all__ = ["FaissServerMetrics"]


_RECALL_BUCKETS = (0.5, 0.8, 0.9, 0.95, 0.97, 0.98, 0.985, 0.99, 0.995, 0.9999, 1.0)


class FaissServerMetrics:
    """Releases held and refused, failed polls of the store, time in search, and its recall."""

    def __init__(self, registry: CollectorRegistry) -> None:
        newest = Gauge(
            "recsys_release", "Newest release that is ready; 0: none.", ["kind"], registry=registry
        )
        resident = Gauge(
            "recsys_releases_resident", "Releases in memory.", ["state"], registry=registry
        )
        refused = Counter(
            "recsys_release_refused_total",
            "Releases that could not be served.",
            ["reason"],
            registry=registry,
        )
        stages = Histogram(
            "recsys_stage_duration_seconds",
            "Time in one stage of a call, waiting for a thread left out.",
            ["stage"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.recall = Histogram(
            "recsys_recall_at_200",
            "Share of the 200 best articles, or of as many as were asked for, that a live search "
            "found; of the sampled ones.",
            buckets=_RECALL_BUCKETS,
            registry=registry,
        )
        self.recall_dropped = Counter(
            "recsys_recall_samples_dropped_total",
            "Sampled searches whose recall was not measured: too many were waiting.",
            registry=registry,
        )
        self.taken_down = Gauge(
            "recsys_taken_down_articles", "Articles taken down.", registry=registry
        )
        self.taken_down_unconfirmed = Gauge(
            "recsys_taken_down_unconfirmed",
            "1 while Redis does not answer, and what was known last counts.",
            registry=registry,
        )
        self.newest = newest.labels("index")
        self.ready = resident.labels("ready")
        self.loading = resident.labels("loading")
        self.refused = {reason: refused.labels(reason.value) for reason in RefusalReason}
        self.search = stages.labels("search")
        self.poll_failures = Counter(
            "recsys_store_poll_failures_total",
            "Polls of the store that failed; the releases held stay in service.",
            registry=registry,
        )
