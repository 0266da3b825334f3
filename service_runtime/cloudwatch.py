"""Calls in flight for CloudWatch, by which ECS scales: a line in the log, which takes no right."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import Final

__all__ = ["METRIC", "NAMESPACE", "tell_calls_in_flight"]

NAMESPACE: Final = "Recsys"
METRIC: Final = "CallsInFlight"


async def tell_calls_in_flight(
    dimensions: Mapping[str, str], busy_seconds: Callable[[], float], every_seconds: float
) -> None:
    """Print how many calls were in flight in the mean of each interval, for ever.

    By Little's law that is the seconds which calls took, by second. `busy_seconds` answers the
    sum of these since the start. On standard output, in CloudWatch's embedded metric format:
    the log driver brings it to CloudWatch Logs, and that makes a metric of it.
    """
    before, told_at = busy_seconds(), time.monotonic()
    while True:
        await asyncio.sleep(every_seconds)
        busy, now = busy_seconds(), time.monotonic()
        print(_line(dimensions, (busy - before) / (now - told_at)), flush=True)
        before, told_at = busy, now


def _line(dimensions: Mapping[str, str], in_flight: float) -> str:
    """Answer one JSON object, whose form is CloudWatch's:
    https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
    """
    directive = {
        "Namespace": NAMESPACE,
        "Dimensions": [list(dimensions)],
        "Metrics": [{"Name": METRIC, "Unit": "Count"}],
    }
    metadata = {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": [directive]}
    return json.dumps({"_aws": metadata, **dimensions, METRIC: round(in_flight, 4)})
