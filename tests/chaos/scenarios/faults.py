"""Servers that are killed or stopped, and links that misbehave."""

from functools import partial

from tests.chaos.replica import Replica
from tests.chaos.stage import Rule, Scenario, Stage

__all__ = ["FAULTS"]

_DEAD_SECONDS = 2.5
_STOPPED_SECONDS = 2.0
_LINK_SECONDS = 3.0
_AFTERWARDS_SECONDS = 2.0
_KINDS = ("recommenders", "indexes", "models")
_LINKS = ("model", "faiss")
_MODES = ("delay", "drop", "half-close")


def _kill(stage: Stage, kind: str) -> None:
    for replica in _replicas(stage, kind):
        with stage.fault(replica):
            replica.kill()
            stage.wait(_DEAD_SECONDS)
            replica.start()
            replica.wait_serving()
        stage.wait(_AFTERWARDS_SECONDS)


def _stop(stage: Stage, kind: str) -> None:
    for replica in _replicas(stage, kind):
        with stage.fault(replica):
            replica.stop()
            stage.wait(_STOPPED_SECONDS)
            replica.resume()
        stage.wait(_AFTERWARDS_SECONDS)


def _replicas(stage: Stage, kind: str) -> list[Replica]:
    replicas: list[Replica] = getattr(stage.cluster, kind)
    return replicas[:1] if stage.world.quick else replicas


def _break_link(stage: Stage, link: str, mode: str) -> None:
    with stage.fault():
        stage.cluster.turn_link(link, mode)
        stage.wait(_LINK_SECONDS)
        stage.cluster.turn_link(link, "pass")
    stage.wait(_AFTERWARDS_SECONDS)


def _break_both(stage: Stage, kind: str, mode: str) -> None:
    with stage.fault():
        for number in range(2):
            stage.cluster.turn_link(f"{kind}-{number}", mode)
        stage.wait(_LINK_SECONDS)
        for number in range(2):
            stage.cluster.turn_link(f"{kind}-{number}", "pass")
    stage.wait(_AFTERWARDS_SECONDS)


def _kill_redis(stage: Stage) -> None:
    redis = stage.cluster.redis
    with stage.fault():
        redis.kill()
        stage.wait(_DEAD_SECONDS)
        redis.start()
        stage.cluster.wait_redis()
    stage.wait(_AFTERWARDS_SECONDS)


def _stop_redis(stage: Stage) -> None:
    redis = stage.cluster.redis
    with stage.fault():
        redis.stop()
        stage.wait(_STOPPED_SECONDS)
        redis.resume()
    stage.wait(_AFTERWARDS_SECONDS)


FAULTS = (
    *(
        Scenario(
            f"kill {kind}", Rule.ONE_HEALTHY, partial(_kill, kind=kind), quick=kind == "indexes"
        )
        for kind in _KINDS
    ),
    *(Scenario(f"stop {kind}", Rule.ONE_HEALTHY, partial(_stop, kind=kind)) for kind in _KINDS),
    Scenario("kill redis", Rule.NOBODY_HEALTHY, _kill_redis, quick=True),
    Scenario("stop redis", Rule.NOBODY_HEALTHY, _stop_redis),
    *(
        Scenario(
            f"{mode} {kind}",
            Rule.ONE_HEALTHY,
            partial(_break_link, link=f"{kind}-1", mode=mode),
            proxied=True,
            quick=(kind, mode) == ("faiss", "drop"),
        )
        for kind in _LINKS
        for mode in _MODES
    ),
    *(
        Scenario(
            f"{mode} redis",
            Rule.NOBODY_HEALTHY,
            partial(_break_link, link="redis", mode=mode),
            proxied=True,
        )
        for mode in _MODES
    ),
    *(
        Scenario(
            f"drop every {kind}",
            Rule.NOBODY_HEALTHY,
            partial(_break_both, kind=kind, mode="drop"),
            proxied=True,
        )
        for kind in _LINKS
    ),
)
