"""What the tests of the releases in memory share."""

from pathlib import Path

from prometheus_client import CollectorRegistry

from faiss_server.holder import ReleaseHolder
from releases.layout import Part
from releases.local import local_releases

__all__ = ["GOLDEN_FAILS", "A", "B", "C", "D", "locally", "metric", "ready"]

A, B, C, D = 1_700_000_101, 1_700_000_102, 1_700_000_103, 1_700_000_104

GOLDEN_FAILS = {"golden_queries": [{"vector": [1.0] * 8, "article_ids": [1], "scores": [99.0]}]}
"""Makes a release whose index does not answer as its manifest says."""


def metric(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    """Read one metric."""
    return registry.get_sample_value(name, labels)


def ready(holder: ReleaseHolder) -> list[int]:
    """List the releases in memory."""
    return sorted(holder.held.ready)


def locally(tmp_path: Path) -> set[int]:
    """List the releases on local disk."""
    return local_releases(tmp_path / "local", [Part.INDEX])
