"""One look at one part: does it serve, which releases does it hold, how far away is it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from recsys.faiss.v1 import faiss_service_pb2 as faiss_pb2
from recsys.faiss.v1 import faiss_service_pb2_grpc as faiss_grpc
from recsys.recommender.v1 import recommender_service_pb2 as pb2
from recsys.recommender.v1 import recommender_service_pb2_grpc as pb2_grpc
from recsys.tfserving.v1 import model_status_pb2, prediction_pb2

from explorer.calls import calling
from explorer.enums import name_of
from explorer.errors import CallFailedError

__all__ = ["HeldRelease", "Look", "PartHealth", "State", "look_at_faiss_server",
           "look_at_model_server", "look_at_recommender", "look_at_redis"]  # fmt: skip

_GET_MODEL_STATUS: Final = "/tensorflow.serving.ModelService/GetModelStatus"
_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOBODY: Final = "explorer: nobody"
"""A user without a history; reading it changes nothing."""


class State(StrEnum):
    """What a part can be asked for."""

    SERVING = "serving"
    NOT_SERVING = "not serving"
    """It answers, and says that it has nothing to serve or is about to end."""
    DOWN = "down"
    UNKNOWN = "unknown"
    """Nobody who could tell answers."""


@dataclass(frozen=True, slots=True)
class HeldRelease:
    """A release that a server holds; `ready`: it answers from it."""

    release: int
    state: str
    ready: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class PartHealth:
    """What one look found."""

    part: str
    address: str
    state: State
    round_trip_ms: float | None = None
    detail: str = ""
    releases: tuple[HeldRelease, ...] = ()


@dataclass(frozen=True, slots=True)
class Look:
    """Whom to look at, and how long at the most."""

    part: str
    address: str
    channel: grpc.aio.Channel
    seconds: float


async def look_at_recommender(look: Look) -> PartHealth:
    """Look at a recommender."""
    return await _guarded(look, _health)


async def look_at_redis(look: Look) -> PartHealth:
    """Look at Redis through the eyes of the recommender at the look's address."""

    async def read_history(look: Look) -> PartHealth:
        stub = pb2_grpc.RecommenderServiceStub(look.channel)
        request = pb2.GetHistoryRequest(user_id=_NOBODY)
        async with calling(look.part, look.address) as stopwatch:
            await stub.GetHistory(request, timeout=look.seconds)
        return PartHealth(look.part, look.address, State.SERVING, stopwatch.milliseconds)

    return await _guarded(look, read_history)


async def look_at_faiss_server(look: Look) -> PartHealth:
    """Look at a faiss server and the releases it holds."""

    async def health_and_releases(look: Look) -> PartHealth:
        health = await _health(look)
        stub = faiss_grpc.FaissServiceStub(look.channel)
        async with calling(look.part, look.address):
            status = await stub.GetStatus(faiss_pb2.GetStatusRequest(), timeout=look.seconds)
        return replace(health, releases=tuple(_held_index(each) for each in status.releases))

    return await _guarded(look, health_and_releases)


async def look_at_model_server(look: Look, model_name: str) -> PartHealth:
    """Look at a model server and the versions it has.

    TensorFlow Serving itself has no health service: there it serves what is AVAILABLE.
    """

    async def health_and_versions(look: Look) -> PartHealth:
        status = look.channel.unary_unary(
            _GET_MODEL_STATUS,
            request_serializer=model_status_pb2.GetModelStatusRequest.SerializeToString,
            response_deserializer=model_status_pb2.GetModelStatusResponse.FromString,
        )
        request = model_status_pb2.GetModelStatusRequest(
            model_spec=prediction_pb2.ModelSpec(name=model_name)
        )
        async with calling(look.part, look.address) as stopwatch:
            response = await status(request, timeout=look.seconds)
        held = tuple(_held_model(each) for each in response.model_version_status)
        available = any(each.ready for each in held)
        state = State.SERVING if available else State.NOT_SERVING
        by_status = PartHealth(
            look.part, look.address, state, stopwatch.milliseconds, releases=held
        )
        return await _with_health_if_any(look, by_status)

    return await _guarded(look, health_and_versions)


async def _with_health_if_any(look: Look, by_status: PartHealth) -> PartHealth:
    try:
        return replace(await _health(look), releases=by_status.releases)
    except CallFailedError as error:
        if error.code == grpc.StatusCode.UNIMPLEMENTED.name:
            return by_status
        raise


async def _health(look: Look) -> PartHealth:
    stub = health_pb2_grpc.HealthStub(look.channel)
    async with calling(look.part, look.address) as stopwatch:
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=look.seconds)
    state = State.SERVING if answer.status == _SERVING else State.NOT_SERVING
    return PartHealth(look.part, look.address, state, stopwatch.milliseconds)


async def _guarded(look: Look, how: Callable[[Look], Awaitable[PartHealth]]) -> PartHealth:
    """Look; a call that fails becomes a finding."""
    try:
        return await how(look)
    except CallFailedError as error:
        detail = f"{error.code}: {error.message}"
        return PartHealth(look.part, look.address, State.DOWN, detail=detail)


def _held_index(status: faiss_pb2.ReleaseStatus) -> HeldRelease:
    ready = status.state == faiss_pb2.RELEASE_STATE_READY
    state = name_of(faiss_pb2.ReleaseState.DESCRIPTOR, status.state, "RELEASE_STATE_")
    detail = f"{status.article_count:,} articles, {status.index_type}" if ready else ""
    return HeldRelease(status.release, state, ready, detail)


def _held_model(status: model_status_pb2.ModelVersionStatus) -> HeldRelease:
    states = model_status_pb2.ModelVersionStatus
    state = name_of(states.State.DESCRIPTOR, status.state)
    return HeldRelease(status.version, state, status.state == states.AVAILABLE)
