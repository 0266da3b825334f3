"""From the results of a scenario and the record of what happened to its figures."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.load import DEADLINE_SECONDS
from tests.chaos.results import (
    HUNG,
    ReleaseFigures,
    Result,
    SplitWindow,
    compare_releases,
    first_full_second,
    percentile_ms,
    tally,
)
from tests.chaos.stage import Record, Rule, Scenario
from tests.chaos.standstills import Standstill
from tests.chaos.verify import Verdict

__all__ = ["Outcome", "judge"]

_GRACE_SECONDS = 1.0
_LATE_SEND_SECONDS = 0.01
_CLIENT_SECONDS = 0.01
_SHARE_TOLERANCE = 0.05
_LEAST_PERSONALIZED = 0.99
_LEAST_IN_TIME = 0.999


@dataclass(frozen=True)
class Outcome:
    """The figures of one scenario."""

    name: str
    rule: Rule
    requests: int
    sources: dict[str, int]
    errors: dict[str, int]
    reasons: dict[str, int]
    releases: dict[str, int]
    handed: int
    """Failed in the hands of a recommender that was itself killed or stopped."""
    hung: int
    late_sends: int
    """Requests that the load process itself sent more than 10 ms late: the machine was busy."""
    in_time: int
    """Answered inside the deadline."""
    after_grace: int
    """Requests later than one second after each fault."""
    after_grace_personalized: int
    p50_ms: float | None
    p99_ms: float | None
    swap_p50_ms: float | None
    swap_p99_ms: float | None
    full_service_seconds: float | None
    """From the fault (where a kind was away altogether: from its end) to the first full second."""
    checked: int
    wrong: int
    problems: tuple[str, ...]
    crashes: tuple[str, ...]
    figures: dict[str, float]
    lacking: int
    """Requests not answered in time, or not PERSONALIZED; `handed` left out."""
    lacking_in_standstills: int
    """Of those, how many were under way while the machine stood still, or one deadline later."""
    standstills_ms: tuple[int, ...]
    """How long the host took a processor away, each time."""
    split: tuple[ReleaseFigures, ...] = ()
    """The two releases that users were divided between."""

    @property
    def judged(self) -> int:
        """Requests that were not in the hands of a recommender that was killed or stopped."""
        return self.requests - self.handed

    @property
    def failed(self) -> int:
        """Requests not answered in time, those handed to a dying recommender left out."""
        return self.judged - self.in_time

    @property
    def degraded(self) -> int:
        """Answers that were not PERSONALIZED."""
        return sum(self.sources.values()) - self.sources.get("PERSONALIZED", 0)

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong with it; counts that are judged over all are left to that."""
        if self.wrong or self.hung or self.problems or self.crashes or not self.requests:
            return False
        if self.rule is Rule.SMOOTH:
            return not self.failed and not self.degraded
        if self.rule is Rule.UNDISTURBED:
            personalized = self.judged - self.failed - self.degraded
            return (
                self.in_time >= _LEAST_IN_TIME * self.judged
                and personalized >= _LEAST_PERSONALIZED * self.judged
            )
        if self.rule is Rule.ONE_HEALTHY:
            return self.after_grace_personalized >= _LEAST_PERSONALIZED * self.after_grace
        return True

    @property
    def spoilt(self) -> bool:
        """Whether nothing speaks against it but requests that met a standstill of the machine."""
        if self.wrong or self.hung or self.problems or self.crashes or not self.lacking:
            return False
        return self.rule is Rule.SMOOTH and self.lacking == self.lacking_in_standstills


def judge(
    scenario: Scenario,
    results: Sequence[Result],
    record: Record,
    verdict: Verdict,
    crashes: Sequence[str],
    standstills: Sequence[Standstill] = (),
) -> Outcome:
    """Count what became of all requests."""
    handed = [one for one in results if any(down.was_handed(one) for down in record.downs)]
    of_handed = set(map(id, handed))
    judged = [one for one in results if id(one) not in of_handed]
    in_grace = [(begin, begin + _GRACE_SECONDS) for begin in record.faults]
    later = [
        one
        for one in judged
        if record.faults and one.due >= record.faults[0] and not _within(one, in_grace)
    ]
    swaps = [one for one in judged if _within(one, record.swaps)]
    calm = [one for one in judged if not _within(one, record.swaps)]
    lacking = [one for one in judged if not (one.personalized and _in_time(one))]
    return Outcome(
        name=scenario.name,
        rule=scenario.rule,
        requests=len(results),
        sources=tally(results, lambda one: one.source),
        errors=tally(judged, lambda one: "" if one.answered else one.code),
        reasons=tally(results, lambda one: "" if one.reason == "UNSPECIFIED" else one.reason),
        releases=tally(results, lambda one: str(one.release or "")),
        handed=len(handed),
        hung=sum(one.code == HUNG for one in results),
        late_sends=sum(one.sent - one.due > _LATE_SEND_SECONDS for one in results),
        in_time=sum(_in_time(one) for one in judged),
        after_grace=len(later),
        after_grace_personalized=sum(one.personalized for one in later),
        p50_ms=percentile_ms(calm, 50),
        p99_ms=percentile_ms(calm, 99),
        swap_p50_ms=percentile_ms(swaps, 50),
        swap_p99_ms=percentile_ms(swaps, 99),
        full_service_seconds=_full_service_seconds(scenario, judged, record),
        checked=verdict.checked,
        wrong=verdict.wrong,
        problems=(*record.problems, *verdict.examples, *_wrong_releases(results, record)),
        crashes=tuple(crashes),
        figures=record.figures,
        lacking=len(lacking),
        lacking_in_standstills=sum(_met(one, standstills) for one in lacking),
        standstills_ms=tuple(round(1000 * (one.end - one.begin)) for one in standstills),
        split=compare_releases(results, record.splits),
    )


def _full_service_seconds(
    scenario: Scenario, results: Sequence[Result], record: Record
) -> float | None:
    """The longest of all faults; None where there was no fault, or no full second after one."""
    away = scenario.rule is Rule.NOBODY_HEALTHY
    moments = [record.healed] if away and record.healed is not None else record.faults
    seconds = [first_full_second(results, moment) for moment in moments]
    return (
        None if None in seconds else max((one for one in seconds if one is not None), default=None)
    )


def _in_time(result: Result) -> bool:
    # gRPC gave the answer out before the deadline; a little later the client's loop got to it.
    return result.answered and result.latency <= DEADLINE_SECONDS + _CLIENT_SECONDS


def _met(result: Result, standstills: Sequence[Standstill]) -> bool:
    # What waited meanwhile is in the way of what comes within the deadline after it.
    return any(
        result.due <= one.end + DEADLINE_SECONDS and result.finished >= one.begin
        for one in standstills
    )


def _within(result: Result, windows: Sequence[tuple[float, float]]) -> bool:
    return any(begin <= result.due < end for begin, end in windows)


def _wrong_releases(results: Sequence[Result], record: Record) -> list[str]:
    """Answers from withdrawn releases, and users that a split does not treat alike."""
    problems = []
    for release, moment in record.retired.items():
        late = sum(one.release == release and one.due > moment for one in results)
        if late:
            problems.append(f"{late} answers name release {release} long after its withdrawal")
    for window in record.splits:
        problems += _uneven_split(results, window)
    return problems


def _uneven_split(results: Sequence[Result], window: SplitWindow) -> list[str]:
    by_user = defaultdict(set)
    for one in results:
        if one.answered and window.begin <= one.due < window.end:
            by_user[one.user].add(one.release)
    torn = sum(len(releases) > 1 for releases in by_user.values())
    share = sum(window.release in releases for releases in by_user.values()) / max(len(by_user), 1)
    problems = [f"split: {torn} users were answered from two releases"] if torn else []
    if abs(share - window.share) > _SHARE_TOLERANCE:
        problems.append(f"split: {share:.0%} of the users got the release, not {window.share:.0%}")
    return problems
