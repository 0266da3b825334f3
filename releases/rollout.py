"""Whether the release before is in service, so that the next one takes nobody's place."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from releases.errors import NotInServiceError, StoreError
from releases.serving import ServingReport, current_reports
from releases.split import Split
from releases.store import ReleaseStore

__all__ = ["Wait", "hindrance", "refuse_in_split", "wait_for_service"]

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
                f"{store.url}: release {release} is not published: {why}; wait and repeat it, or "
                "withdraw what is in the way (`python -m releases withdraw`)"
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
    older = _older(store, release)
    if not older:
        return None
    previous, split = older[0], _split_between(store, older)
    if split is not None:
        return _goes_on(split) if split.share else None  # given to nobody, it makes room
    reports = current_reports(store)
    if any(previous in report.refused for report in reports):
        return None  # it will never be in service everywhere
    reasons = (_not_in_service(report, previous) for report in reports)
    return next((reason for reason in reasons if reason is not None), None)


def refuse_in_split(store: ReleaseStore, release: int) -> None:
    """Raise NotInServiceError while a split is in the way of publishing `release`.

    No waiting ends that, so whoever has hours of work before publishing may look first.
    """
    split = _split_between(store, _older(store, release))
    if split is not None and split.share:
        raise NotInServiceError(f"{store.url}: {_goes_on(split)}; no release is published before")


def _older(store: ReleaseStore, release: int) -> list[int]:
    """Usable releases, newest first; none where one of them is newer than `release`."""
    others = [usable for usable in store.usable() if usable != release]
    return [] if others and others[0] > release else others


def _split_between(store: ReleaseStore, usable: list[int]) -> Split | None:
    """Read the split between the newest two of these; None where there is none, or it is done."""
    split = store.split() if len(usable) > 1 else None
    if split is None or split.release != usable[0] or split.share == 1:
        return None
    return split


def _goes_on(split: Split) -> str:
    return (
        f"{split.share:.1%} of the users get release {split.release}, until that split is ended by "
        f"`python -m releases split {split.release}=100%` or "
        f"`python -m releases withdraw {split.release}`"
    )


def _not_in_service(report: ServingReport, previous: int) -> str | None:
    if previous not in report.held:
        return f"{report.server} does not hold release {previous} yet"
    if others := sorted(report.in_use - {previous}):
        return f"callers of {report.server} still answer from release {others[-1]}"
    return None
