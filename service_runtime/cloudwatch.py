"""A server's load for CloudWatch, by which ECS scales: a line in the log, which takes no right."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import Final

__all__ = ["IN_FLIGHT", "NAMESPACE", "SHED", "tell_load"]

NAMESPACE: Final = "Recsys"
IN_FLIGHT: Final = "CallsInFlight"
SHED: Final = "CallsShed"


async def tell_load(
    dimensions: Mapping[str, str],
    busy_seconds: Callable[[], float],
    calls_shed: Callable[[], float],
    every_seconds: float,
) -> None:
    """Print how many calls were in flight in the mean of each interval, and how many were refused
    in it, for ever.

    By Little's law calls in flight are the seconds which calls took, by second. `busy_seconds`
    and `calls_shed` answer the sums since the start. On standard output, in CloudWatch's embedded
    metric format: the log driver brings it to CloudWatch Logs, and that makes metrics of it.
    """
    busy_before, shed_before, told_at = busy_seconds(), calls_shed(), time.monotonic()
    while True:
        await asyncio.sleep(every_seconds)
        busy, shed, now = busy_seconds(), calls_shed(), time.monotonic()
        in_flight = (busy - busy_before) / (now - told_at)
        figures = {IN_FLIGHT: round(in_flight, 4), SHED: round(shed - shed_before)}
        print(_line(dimensions, figures), flush=True)
        busy_before, shed_before, told_at = busy, shed, now


def _line(dimensions: Mapping[str, str], figures: Mapping[str, float]) -> str:
    """Answer one JSON object, whose form is CloudWatch's:
    https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
    """
    directive = {
        "Namespace": NAMESPACE,
        "Dimensions": [list(dimensions)],
        "Metrics": [{"Name": name, "Unit": "Count"} for name in figures],
    }
    metadata = {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": [directive]}
    return json.dumps({"_aws": metadata, **dimensions, **figures})
