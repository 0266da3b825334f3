"""Whether the release before is in service, so that the next one takes nobody's place."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from releases.errors import NotInServiceError, StoreError
from releases.serving import ServingReport, current_reports
from releases.store import ReleaseStore

__all__ = ["Wait", "hindrance", "wait_for_service"]

_LOOK_SECONDS: Final = 0.5


def _say_nothing(_why: str) -> None:
    return


@dataclass(frozen=True)
class Wait:
    """How long to wait for the release before; `on_hindrance` hears of each reason, once."""

    seconds: float = 300.0
    on_hindrance: Callable[[str], object] = _say_nothing


def wait_for_service(store: ReleaseStore, release: int, wait: Wait) -> None:
    """Return once `release` may be published.

    Raises NotInServiceError when something is still in the way at the end.
    """
    end = time.monotonic() + wait.seconds
    told = None
    while (why := _hindrance_if_known(store, release)) is not None:
        if time.monotonic() >= end:
            raise NotInServiceError(
                f"{store.url}: release {release} is not published: {why}; wait, withdraw what is "
                "in the way, or repeat with --force"
            )
        if why != told:
            wait.on_hindrance(why)
        told = why
        time.sleep(_LOOK_SECONDS)


def _hindrance_if_known(store: ReleaseStore, release: int) -> str | None:
    try:
        return hindrance(store, release)
    except StoreError as error:  # of many looks one may fail
        return f"the store does not tell what is in service: {error}"


def hindrance(store: ReleaseStore, release: int) -> str | None:
    """Say why publishing `release` now would push out one that is answered from; None: go on.

    Nothing is known of servers that do not report; where none does, nothing is in the way.
    """
    older = [usable for usable in store.usable() if usable != release]
    if not older or older[0] > release:
        return None
    previous = older[0]
    split = store.split()
    if split is not None and split.release == previous and split.share < 1 and older[1:]:
        if split.share == 0:
            return None  # nobody gets it, so there is room in its place
        return f"{split.share:.1%} of the users get release {previous}, and the split goes on"
    reports = current_reports(store)
    if any(previous in report.refused for report in reports):
        return None  # it will never be in service everywhere
    reasons = (_not_in_service(report, previous) for report in reports)
    return next((reason for reason in reasons if reason is not None), None)


def _not_in_service(report: ServingReport, previous: int) -> str | None:
    if previous not in report.held:
        return f"{report.server} does not hold release {previous} yet"
    if others := sorted(report.in_use - {previous}):
        return f"callers of {report.server} still answer from release {others[-1]}"
    return None
