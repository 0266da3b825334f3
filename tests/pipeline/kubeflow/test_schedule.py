from datetime import UTC, datetime, time

import pytest

from pipeline.errors import PipelineError
from pipeline.kubeflow.schedule import cron_in_utc

NOW = datetime(2026, 11, 25, tzinfo=UTC)
TWICE = (time(6), time(18))


@pytest.mark.parametrize(
    ("zone", "times", "cron"),
    [
        ("UTC", TWICE, "0 0 6,18 * * *"),
        ("Asia/Seoul", TWICE, "0 0 9,21 * * *"),
        ("Asia/Seoul", (time(5, 30), time(17, 30)), "0 30 8,20 * * *"),
        ("Asia/Kolkata", (time(6),), "0 30 0 * * *"),
    ],
)
def test_times_of_day_become_a_cron_in_utc(zone, times, cron):
    assert cron_in_utc(times, zone, NOW) == cron


@pytest.mark.parametrize(
    ("zone", "times", "reason"),
    [
        ("Europe/Berlin", TWICE, "Europe/Berlin: its clock changes by 2027-03-2"),
        ("Mars/Olympus", TWICE, "there is no such zone"),
        ("UTC", (time(6), time(18, 30)), "the same minute"),
        ("UTC", (time(6, 0, 5),), "no seconds"),
    ],
)
def test_what_a_cron_in_utc_cannot_say_is_refused(zone, times, reason):
    with pytest.raises(PipelineError, match=reason):
        cron_in_utc(times, zone, NOW)
