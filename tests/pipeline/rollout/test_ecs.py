"""Restarting services on ECS, and what happens to a release that answers wrongly then."""

import asyncio
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from botocore.stub import Stubber  # type: ignore[import-untyped]
from typer.testing import CliRunner

from pipeline import rollout_command
from pipeline.__main__ import app
from pipeline.errors import RolloutError
from pipeline.rollout import EcsRollout, ecs_client, replay_goldens, roll_out
from releases.store import ReleaseStore
from tests.pipeline.rollout.conftest import EXPECTED, ScriptedRecommender, checking
from tests.support.object_stores import ScriptedS3, s3_server

SERVICES = ("model", "faiss", "recommender")
numbers = itertools.count()


@pytest.fixture(scope="module")
def moto() -> Iterator[ScriptedS3]:
    with s3_server() as server:
        yield server


@dataclass
class Cluster:
    """Three services in moto, and the calls that reached it."""

    client: Any
    name: str
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def rolled(self) -> list[str]:
        return [call["service"] for name, call in self.calls if name == "UpdateService"]


@pytest.fixture
def cluster(moto: ScriptedS3, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("MOTO_ECS_SERVICE_RUNNING", "2")
    client = moto.client("ecs")
    name = f"cluster-{next(numbers)}"
    client.create_cluster(clusterName=name)
    task = [{"name": "main", "image": "recsys", "memory": 128}]
    client.register_task_definition(family="recsys", containerDefinitions=task)
    for service in SERVICES:
        client.create_service(
            cluster=name,
            serviceName=service,
            taskDefinition="recsys",
            desiredCount=2,
        )
    made = Cluster(client, name)

    def note(params: dict[str, Any], model: Any, **_: Any) -> None:
        made.calls.append((model.name, params))

    client.meta.events.register("provide-client-params.ecs.*", note)
    return made


def rollout(cluster: Cluster, **options: Any) -> EcsRollout:
    return EcsRollout(cluster.client, cluster.name, SERVICES, poll_seconds=0.01, **options)


async def test_services_are_restarted_in_order_and_the_goldens_asked(
    cluster: Cluster, store: ReleaseStore, recommender: ScriptedRecommender
) -> None:
    recommender.answers = {8: (*EXPECTED[:3], 99)}
    told: list[str] = []
    done = await asyncio.to_thread(
        roll_out, rollout(cluster), store, checking(recommender), told.append, 8
    )
    assert done.release == 8
    assert [name for name, _ in cluster.calls] == [
        "DescribeServices", "UpdateService", "DescribeServices"
    ] * 3  # fmt: skip
    assert cluster.rolled == list(SERVICES)
    for name, call in cluster.calls:
        if name == "UpdateService":
            assert call["forceNewDeployment"] is True
            breaker = call["deploymentConfiguration"]["deploymentCircuitBreaker"]
            assert breaker == {"enable": True, "rollback": True}
    assert [line for line in told if "steady" in line] == [
        f"{service}: steady, 2 of 2 tasks run" for service in SERVICES
    ]
    assert [(list(r.recent_article_ids), r.release, r.limit) for r in recommender.asked] == [
        ([2, 1], 8, 4),
        ([3, 1], 8, 4),
    ]
    assert store.usable() == [8, 7]


async def test_a_release_that_answers_wrongly_is_withdrawn_and_the_one_before_rolled(
    cluster: Cluster, store: ReleaseStore, recommender: ScriptedRecommender
) -> None:
    recommender.answers = {8: (*EXPECTED[:2], 98, 99), 7: EXPECTED}
    told: list[str] = []
    with pytest.raises(RolloutError) as caught:
        await asyncio.to_thread(
            roll_out, rollout(cluster), store, checking(recommender), told.append
        )
    assert str(caught.value) == (
        "golden history 0 of release 8: 50% of the expected articles were answered, at least 70% "
        "must be; release 8 is withdrawn, and release 7 is in service again"
    )
    assert store.usable() == [7]
    assert cluster.rolled == [*SERVICES, *SERVICES]
    assert any(line.startswith("withdrawing release 8: golden history 0") for line in told)
    assert [request.release for request in recommender.asked] == [8, 7, 7]


async def test_without_a_release_before_it_nothing_is_rolled_again(
    cluster: Cluster, store: ReleaseStore, recommender: ScriptedRecommender
) -> None:
    store.withdraw(7)
    recommender.answers = {8: (1, 2, 3, 4)}
    with pytest.raises(RolloutError, match="withdrawn, and no other is usable: publish one"):
        await asyncio.to_thread(roll_out, rollout(cluster), store, checking(recommender), print)
    assert store.usable() == []
    assert cluster.rolled == list(SERVICES)


def test_a_recommender_that_is_away_withdraws_nothing(
    cluster: Cluster, store: ReleaseStore
) -> None:
    def check(manifest: Any) -> None:
        replay_goldens("127.0.0.1:1", manifest, seconds=0)

    with pytest.raises(RolloutError, match="UNAVAILABLE"):
        roll_out(rollout(cluster), store, check, print)
    assert store.usable() == [8, 7]
    assert cluster.rolled == list(SERVICES)


def test_another_release_than_servers_would_load_is_not_rolled(
    cluster: Cluster, store: ReleaseStore
) -> None:
    with pytest.raises(RolloutError, match="servers would load release 8"):
        roll_out(rollout(cluster), store, print, print, release=7)
    store.withdraw(8)
    store.withdraw(7)
    with pytest.raises(RolloutError, match="has no usable release"):
        roll_out(rollout(cluster), store, print, print)
    assert cluster.rolled == []


def test_a_service_that_is_not_there_ends_before_the_others(cluster: Cluster) -> None:
    ecs = EcsRollout(cluster.client, cluster.name, ("model", "fais", "recommender"))
    with pytest.raises(RolloutError) as caught:
        ecs.roll(print)
    assert str(caught.value) == (
        f"{cluster.name}/fais: no such service: MISSING (not touched: recommender)"
    )
    assert cluster.rolled == ["model"]


def test_an_error_of_ecs_is_one_line(cluster: Cluster) -> None:
    with pytest.raises(RolloutError, match=r"^nowhere/model: [^\n]*Cluster not found"):
        EcsRollout(cluster.client, "nowhere", SERVICES).roll(print)


def deployment(name: str, status: str, state: str, reason: str = "") -> dict[str, Any]:
    return {"id": name, "status": status, "rolloutState": state, "rolloutStateReason": reason}


def described(running: int, *deployments: dict[str, Any]) -> dict[str, Any]:
    service = {"runningCount": running, "desiredCount": 2, "deployments": list(deployments)}
    return {"services": [service]}


OLD = deployment("old", "ACTIVE", "COMPLETED")
NEW = deployment("new", "PRIMARY", "IN_PROGRESS")
COMPLETED = deployment("new", "PRIMARY", "COMPLETED")
FAILED = deployment("new", "ACTIVE", "FAILED", "tasks failed to start.")
ROLLED_BACK = deployment("back", "PRIMARY", "IN_PROGRESS", "circuit breaker: rolling back.")


def roll_through(moto: ScriptedS3, states: list[dict[str, Any]], **options: Any) -> list[str]:
    """Roll one service while ECS describes it as these states, one after the other."""
    client = moto.client("ecs")
    told: list[str] = []
    with Stubber(client) as stubber:
        before = described(2, OLD)
        before["services"][0]["deploymentConfiguration"] = {"maximumPercent": 150}
        stubber.add_response("describe_services", before)
        stubber.add_response(
            "update_service",
            {"service": described(2, OLD, NEW)["services"][0]},
            {
                "cluster": "c",
                "service": "model",
                "forceNewDeployment": True,
                "deploymentConfiguration": {
                    "maximumPercent": 150,  # what the service had is kept
                    "deploymentCircuitBreaker": {"enable": True, "rollback": True},
                },
            },
        )
        for state in states:
            stubber.add_response("describe_services", state)
        EcsRollout(client, "c", ["model"], poll_seconds=0.0, **options).roll(told.append)
        stubber.assert_no_pending_responses()
    return told


def test_steady_is_one_completed_deployment_with_all_its_tasks(moto: ScriptedS3) -> None:
    told = roll_through(
        moto,
        [
            described(3, OLD, NEW),
            described(3, OLD, COMPLETED),
            described(2, NEW),
            described(1, COMPLETED),
            described(2, COMPLETED),
        ],
    )
    assert told == [
        "model: new has begun",
        "model: 3 of 2 tasks run",
        "model: 2 of 2 tasks run",
        "model: 1 of 2 tasks run",
        "model: steady, 2 of 2 tasks run",
    ]


@pytest.mark.parametrize(
    ("states", "told"),
    [
        ([described(2, NEW, OLD), described(2, ROLLED_BACK, FAILED)], "tasks failed to start."),
        (
            [described(2, ROLLED_BACK)],
            "new was replaced by back: circuit breaker: rolling back.",
        ),
    ],
)
def test_a_failed_deployment_ends_with_the_reason_of_ecs(
    moto: ScriptedS3, states: list[dict[str, Any]], told: str
) -> None:
    with pytest.raises(RolloutError) as caught:
        roll_through(moto, states)
    assert str(caught.value) == f"c/model: {told}"


def test_a_deployment_that_never_ends_is_given_up(moto: ScriptedS3) -> None:
    with pytest.raises(RolloutError, match="c/model: not steady after 0 s: 1 of 2 tasks run"):
        roll_through(moto, [described(1, NEW)], seconds=0.0)


async def test_the_command_exits_with_one_line(
    cluster: Cluster,
    store: ReleaseStore,
    recommender: ScriptedRecommender,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rollout_command, "ecs_client", lambda: cluster.client)
    command = ["rollout", "--store", store.url, "--cluster", cluster.name]
    command += ["--recommender", recommender.address, "--services", *SERVICES]
    recommender.answers = {8: EXPECTED, 7: EXPECTED}
    passed = await asyncio.to_thread(CliRunner().invoke, app, command)
    assert (passed.exit_code, passed.stdout) == (
        0,
        f"release 8 is in service on {cluster.name}\n",
    )
    recommender.answers[8] = (1, 2, 3, 4)
    failed = await asyncio.to_thread(CliRunner().invoke, app, command)
    assert (failed.exit_code, failed.stdout) == (1, "")
    assert failed.stderr.splitlines()[-1].startswith("rollout: golden history 0 of release 8: 0%")
    assert failed.stderr.splitlines()[-1].endswith("and release 7 is in service again")


def test_without_boto3_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(RolloutError, match=r"pip install 'recsys-serving\[aws\]'"):
        ecs_client()


def test_without_a_region_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    with pytest.raises(RolloutError, match="must specify a region"):
        ecs_client()
