"""When the workflow runs: times of day in a time zone, as the cron line of Kubeflow's."""

from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pipeline.errors import PipelineError

__all__ = ["cron_in_utc"]

_DAYS = 366


def cron_in_utc(times: Sequence[time], zone_name: str, now: datetime | None = None) -> str:
    """Translate times of day into Kubeflow's cron: six fields, seconds first, always in UTC.

    Raises PipelineError for an unknown zone, for one whose clock changes within a year of `now`
    (one line of UTC can't follow it), and for times that one line can't say.
    """
    zone = _zone(zone_name)
    today = (now or datetime.now(UTC)).astimezone(UTC)
    offset = today.astimezone(zone).utcoffset()
    for days in range(_DAYS):
        day = today + timedelta(days)
        if day.astimezone(zone).utcoffset() != offset:
            raise PipelineError(
                f"--time-zone {zone_name}: its clock changes by {day:%Y-%m-%d}, and Kubeflow "
                "triggers in UTC; give --at in UTC and leave --time-zone out"
            )
    utc = sorted(
        datetime.combine(today.date(), each, tzinfo=zone).astimezone(UTC).time() for each in times
    )
    minutes = {each.minute for each in utc}
    if len(minutes) != 1 or any(each.second for each in utc):
        raise PipelineError("--at: all times must have the same minute, and no seconds")
    hours = ",".join(str(each.hour) for each in utc)
    return f"0 {minutes.pop()} {hours} * * *"


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise PipelineError(
            f"--time-zone {name}: there is no such zone; give one such as Asia/Seoul"
        ) from None
