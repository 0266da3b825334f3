"""Taking old releases, and what was begun and never published, out of a store."""

import time

from releases._claim import DEAD_SECONDS, read_claim
from releases.serving import current_reports, remove_old_reports
from releases.store import ReleaseStore

__all__ = ["prune"]


def prune(store: ReleaseStore, keep: int) -> list[int]:
    """Remove everything older than the newest `keep` usable releases; returns what went.

    Withdrawn releases of that age go too, and what an interrupted publish or prune left of one;
    what servers hold or answer from stays. A release that somebody has begun to copy or publish
    stays for a day, however old its id, and goes after that, however new. A store without a usable
    release is left alone. Raises ValueError for `keep` below 2: servers hold two releases.
    """
    if keep < 2:
        raise ValueError(f"keep is {keep}, but servers hold two releases")
    listing = store.listing()
    if not listing.usable:
        return []
    oldest_kept = listing.usable[:keep][-1]
    begun = _begun_at_ms(store)
    known = {*listing.published, *listing.withdrawn, *store.stored(), *begun}
    oldest_alive = time.time_ns() // 10**6 - DEAD_SECONDS * 1000
    alive = {release for release, at in begun.items() if at >= oldest_alive}
    dead = begun.keys() - alive
    reports = current_reports(store)
    serving = frozenset().union(*(report.held | report.in_use for report in reports))
    old = {release for release in known if release < oldest_kept}
    going = sorted((old | dead) - alive - serving, reverse=True)
    for release in going:
        store.remove(release)
    remove_old_reports(store)
    return going


def _begun_at_ms(store: ReleaseStore) -> dict[int, int]:
    """When the copying of each release began, in ms of Unix time, that is not published yet."""
    # Asked for before what is published: one that is published in between counts as begun no more.
    claimed = store.claimed()
    claims = {release: read_claim(store, release) for release in claimed}
    published = store.published()
    return {
        release: claim.claimed_at_ms
        for release, claim in claims.items()
        if claim is not None and release not in published
    }
