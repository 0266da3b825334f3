"""Taking old releases out of a store."""

from releases.serving import current_reports, remove_old_reports
from releases.store import ReleaseStore

__all__ = ["prune"]


def prune(store: ReleaseStore, keep: int) -> list[int]:
    """Remove everything older than the newest `keep` usable releases; returns what went.

    Withdrawn releases of that age go too, and what an interrupted publish or prune left of one;
    what servers hold or answer from stays. A store without a usable release is left alone. Raises
    ValueError for `keep` below 2: servers hold two releases.
    """
    if keep < 2:
        raise ValueError(f"keep is {keep}, but servers hold two releases")
    listing = store.listing()
    if not listing.usable:
        return []
    oldest_kept = listing.usable[:keep][-1]
    known = {*listing.published, *listing.withdrawn, *store.stored()}
    reports = current_reports(store)
    serving = frozenset().union(*(report.held | report.in_use for report in reports))
    old = sorted((r for r in known - serving if r < oldest_kept), reverse=True)
    for release in old:
        store.remove(release)
    remove_old_reports(store)
    return old
