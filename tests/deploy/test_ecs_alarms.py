"""Alarms on ECS: of which metrics they are, and at which values they go off."""

import fnmatch
import operator
import re
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from recsys.recommender.v1 import recommender_service_pb2_grpc as stubs
from recsys.recommender.v1.recommender_service_pb2 import GetHistoryRequest

from service_runtime import cloudwatch
from service_runtime.errors import BackendUnavailableError
from service_runtime.interceptor import CallInterceptor
from service_runtime.metrics import CallMetrics
from tests.support.cloudformation import SERVICES, platform, serving

stack, below = serving(), platform()
ALARMS: dict[str, dict] = {
    **stack.of_type("AWS::CloudWatch::Alarm"),
    **below.of_type("AWS::CloudWatch::Alarm"),
}
OPERATORS = {"GreaterThanThreshold": operator.gt, "LessThanThreshold": operator.lt}
LOAD_BALANCER = {
    "LoadBalancer": "LoadBalancer.LoadBalancerFullName",
    "TargetGroup": "Recommenders.TargetGroupFullName",
}

each_service = pytest.mark.parametrize("name", SERVICES)


def goes_off(alarm: str, value: Any = None, **values: float | None) -> bool:
    """Judge an alarm of one metric by its value, of several by theirs; None: there is no value."""
    told = ALARMS[alarm]
    if values:
        value = calculated(told["Metrics"][0]["Expression"], values)
    return bool(OPERATORS[told["ComparisonOperator"]](value, told["Threshold"]))


def calculated(expression: str, values: dict[str, float | None]) -> Any:
    """Calculate CloudWatch's metric math, as far as it is used here."""
    functions: dict[str, Any] = {
        "IF": lambda condition, yes, no: yes if condition else no,
        "FILL": lambda value, instead: instead if value is None else value,
        "MAX": max,
    }
    spelled = expression.replace(" AND ", " and ").replace(" OR ", " or ")
    numbers = {name: None if each is None else np.float64(each) for name, each in values.items()}
    with np.errstate(all="ignore"):  # both branches of IF are calculated
        return eval(spelled, {"__builtins__": {}}, {**functions, **numbers})


def metrics_of(alarm: str) -> dict[str, tuple[str, str, str, dict[str, str]]]:
    """Of each metric of an alarm: namespace, name, statistic and dimensions; `""`: the only one."""
    told = ALARMS[alarm]
    if "MetricName" in told:
        statistic = told.get("Statistic") or told["ExtendedStatistic"]
        return {"": metric_of(told, statistic)}
    expression, *metrics = told["Metrics"]
    assert "ReturnData" not in expression
    assert not any(each["ReturnData"] for each in metrics)
    assert len({each["MetricStat"]["Period"] for each in metrics}) == 1
    return {
        each["Id"]: metric_of(each["MetricStat"]["Metric"], each["MetricStat"]["Stat"])
        for each in metrics
    }


def metric_of(told: dict, statistic: str) -> tuple[str, str, str, dict[str, str]]:
    dimensions = {each["Name"]: each["Value"] for each in told.get("Dimensions", [])}
    return told["Namespace"], told["MetricName"], statistic, dimensions


def of_service(name: str) -> dict[str, str]:
    service = stack.one(name)
    return {"ClusterName": service["Cluster"], "ServiceName": service["ServiceName"]}


def of_server(name: str) -> dict[str, str]:
    return {"Service": stack.one(name)["ServiceName"], "Stack": stack.name}


@pytest.mark.parametrize("alarm", ALARMS)
def test_each_alarm_notifies_the_topic_and_says_what_it_means(alarm):
    assert ALARMS[alarm]["AlarmActions"] == ["Alarms"]
    assert ALARMS[alarm]["OKActions"] == ["Alarms"]
    assert len(ALARMS[alarm]["AlarmDescription"]) > 30


def test_operations_says_what_to_do_about_each_alarm():
    text = Path("docs/operations.md").read_text()
    chapter = text[text.index("## Alarms on ECS") : text.index("## Traces and logs")]
    told = re.findall(r"^\| (`.*?) \|", chapter, re.MULTILINE)
    named = {name for cell in told for name in re.findall(r"`(\w+)`", cell)}
    assert named == {*ALARMS, *stack.of_type("AWS::Events::Rule")}


@each_service
def test_missing_tasks_are_told(name):
    alarm = f"{name}TasksMissing"
    insights = ("ECS/ContainerInsights", "Average", of_service(name))
    assert metrics_of(alarm) == {
        each: (insights[0], metric, *insights[1:])
        for each, metric in (("desired", "DesiredTaskCount"), ("running", "RunningTaskCount"))
    }
    assert goes_off(alarm, desired=3, running=2)
    assert not goes_off(alarm, desired=3, running=3)
    assert not goes_off(alarm, desired=3, running=4)  # a deployment
    assert ALARMS[alarm]["TreatMissingData"] == "breaching"


@each_service
def test_a_service_that_cannot_grow_is_told_by_whatever_it_scales_by(name):
    alarm, targets = f"{name}AtItsMaximum", stack.scaling(name)
    cpu = targets["cpu"]["TargetValue"]
    most = stack.one(f"{name}Scaling")["MaxCapacity"]
    found = metrics_of(alarm)
    assert found.pop("running")[1:] == ("RunningTaskCount", "Average", of_service(name))
    assert found.pop("cpu") == ("AWS/ECS", "CPUUtilization", "Average", of_service(name))
    idle = dict.fromkeys(found, 0.0)
    assert goes_off(alarm, running=most, cpu=cpu + 1, **idle)
    assert not goes_off(alarm, running=most, cpu=cpu, **idle)
    assert not goes_off(alarm, running=most - 1, cpu=cpu + 1, **idle)
    assert goes_off(alarm, running=most, cpu=cpu + 1, **dict.fromkeys(idle))
    if "calls-in-flight" in targets:
        calls = targets["calls-in-flight"]["TargetValue"]
        assert found == {
            "in_flight": (cloudwatch.NAMESPACE, cloudwatch.IN_FLIGHT, "Average", of_server(name))
        }
        assert goes_off(alarm, running=most, cpu=0, in_flight=calls * 1.1)
        assert not goes_off(alarm, running=most, cpu=0, in_flight=calls)
        assert not goes_off(alarm, running=most - 1, cpu=0, in_flight=calls * 1.1)
    assert set(targets) == {"cpu"} | ({"calls-in-flight"} if found else set())


@pytest.mark.parametrize(
    "name", [name for name in SERVICES if "calls-in-flight" in stack.scaling(name)]
)
def test_servers_that_do_not_tell_their_load_are_told(name):
    alarm = f"{name}LoadUnknown"
    found = {"": (cloudwatch.NAMESPACE, cloudwatch.IN_FLIGHT, "SampleCount", of_server(name))}
    assert metrics_of(alarm) == found
    assert goes_off(alarm, 0)
    assert not goes_off(alarm, 1)
    assert ALARMS[alarm]["TreatMissingData"] == "breaching"


def test_slow_calls_are_told_by_the_budget():
    found = {"": ("AWS/ApplicationELB", "TargetResponseTime", "p99", LOAD_BALANCER)}
    assert metrics_of("CallsSlow") == found
    assert goes_off("CallsSlow", 0.011)
    assert not goes_off("CallsSlow", 0.010)


def test_calls_that_fail_or_are_refused_are_told_by_their_share():
    (transformation,) = stack.one("FailedCallsInLog")["MetricTransformations"]
    logged = (transformation["MetricNamespace"], transformation["MetricName"], "Sum", {})
    assert metrics_of("CallsFail") == {
        "failed": logged,
        "shed": (cloudwatch.NAMESPACE, cloudwatch.SHED, "Sum", of_server("Recommender")),
        "calls": ("AWS/ApplicationELB", "RequestCount", "Sum", LOAD_BALANCER),
    }
    assert goes_off("CallsFail", failed=2, shed=None, calls=100)
    assert goes_off("CallsFail", failed=None, shed=2, calls=100)
    assert goes_off("CallsFail", failed=1, shed=1, calls=100)
    assert not goes_off("CallsFail", failed=1, shed=0, calls=100)
    assert not goes_off("CallsFail", failed=0, shed=0, calls=0)


def test_a_load_balancer_without_recommenders_is_told():
    of_the_whole = {"LoadBalancer": LOAD_BALANCER["LoadBalancer"]}
    found = ("AWS/ApplicationELB", "HTTPCode_ELB_5XX_Count", "Sum", of_the_whole)
    assert metrics_of("LoadBalancerFails") == {"": found}
    assert goes_off("LoadBalancerFails", 6)
    found = ("AWS/ApplicationELB", "UnHealthyHostCount", "Maximum", LOAD_BALANCER)
    assert metrics_of("RecommendersUnhealthy") == {"": found}
    assert goes_off("RecommendersUnhealthy", 1)
    assert not goes_off("RecommendersUnhealthy", 0)


async def test_the_log_says_which_calls_failed_as_the_filter_reads_it(caplog):
    pattern = stack.one("FailedCallsInLog")["FilterPattern"]
    wanted = re.findall(r'\$\.message = "([^"]+)"', pattern)
    codes = {each.strip("* ") for each in wanted}
    assert codes == {"INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED"}
    said = await refused_call(caplog)
    assert [each for each in wanted if fnmatch.fnmatchcase(said, each)] == ["* UNAVAILABLE *"]


async def refused_call(caplog: pytest.LogCaptureFixture) -> str:
    """Let a call fail in a server of ours; answer what its log says of it."""
    caplog.set_level("INFO", logger="service_runtime.interceptor")

    class Refuses(stubs.RecommenderServiceServicer):
        async def GetHistory(self, request: Any, context: Any) -> Any:  # noqa: N802
            raise BackendUnavailableError("told to")

    interceptor = CallInterceptor(
        CallMetrics(CollectorRegistry()), max_concurrent_calls=1, slow_call_seconds=9
    )
    server = grpc.aio.server(interceptors=[interceptor])
    stubs.add_RecommenderServiceServicer_to_server(Refuses(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await stubs.RecommenderServiceStub(channel).GetHistory(GetHistoryRequest())
    finally:
        await server.stop(0)
    return caplog.messages[-1]


@pytest.mark.parametrize(
    ("alarm", "metric", "statistic", "most"),
    [
        ("RedisMemoryHigh", "DatabaseMemoryUsagePercentage", "Maximum", 75),
        ("RedisEvicts", "Evictions", "Maximum", 0),
        ("RedisCpuHigh", "EngineCPUUtilization", "Average", 60),
    ],
)
def test_each_node_of_redis_is_watched(alarm, metric, statistic, most):
    nodes = [
        f"Redis-{number:03}" for number in range(1, below.one("Redis")["NumCacheClusters"] + 1)
    ]
    found = metrics_of(alarm)
    assert list(found.values()) == [
        ("AWS/ElastiCache", metric, statistic, {"CacheClusterId": node}) for node in nodes
    ]
    well = dict.fromkeys(found, most)
    assert not goes_off(alarm, **well)
    for node in found:
        assert goes_off(alarm, **(well | {node: most + 1}))


def test_failed_deployments_are_told():
    rule = stack.one("DeploymentFailures")
    assert "SERVICE_DEPLOYMENT_FAILED" in rule["EventPattern"]["detail"]["eventName"]
    ((prefix,),) = (each.values() for each in rule["EventPattern"]["resources"])
    cluster = stack.one("Cluster")["ClusterName"]
    assert prefix == f"arn:aws:ecs:eu-central-1:123456789012:service/{cluster}/"
    assert [target["Arn"] for target in rule["Targets"]] == ["Alarms"]
    (statement,) = below.one("AlarmsPolicy")["PolicyDocument"]["Statement"]
    assert set(statement["Principal"]["Service"]) == {
        "cloudwatch.amazonaws.com",
        "events.amazonaws.com",
    }
