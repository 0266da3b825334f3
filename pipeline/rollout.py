"""The classic way: new tasks on ECS, proved by the golden histories, or the release withdrawn.

Publishing alone is enough, since servers watch the store; this is for those who restart them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
from recsys.recommender.v1 import recommender_service_pb2 as messages
from recsys.recommender.v1.recommender_service_pb2_grpc import RecommenderServiceStub

from pipeline.errors import GoldenError, RolloutError
from releases.manifest import GoldenHistory, Manifest
from releases.store import ReleaseStore

__all__ = ["EcsRollout", "RecommenderTls", "ecs_client", "replay_goldens", "roll_out"]

Tell = Callable[[str], object]
"""Hears one line for whoever watches."""

_USER: Final = "golden-history"
_CALL_SECONDS: Final = 10.0
_PASSING_REASONS: Final = frozenset(
    {
        messages.FALLBACK_REASON_MODEL_UNAVAILABLE,
        messages.FALLBACK_REASON_SEARCH_UNAVAILABLE,
        messages.FALLBACK_REASON_NO_COMMON_RELEASE,
    }
)


def ecs_client() -> Any:
    """Make boto3's client of ECS, as the environment says. Raises RolloutError without boto3."""
    try:
        # Only who rolls out on AWS has it.
        import boto3  # type: ignore[import-untyped]  # noqa: PLC0415
        from botocore.exceptions import (  # type: ignore[import-untyped]  # noqa: PLC0415
            BotoCoreError,
        )
    except ImportError:
        raise RolloutError("boto3 is missing: pip install 'recsys-serving[aws]'") from None
    try:
        return boto3.client("ecs")
    except BotoCoreError as error:
        raise RolloutError(f"ECS cannot be asked: {error}") from error


@dataclass(frozen=True)
class EcsRollout:
    """Starts the tasks of services anew, one service after the other."""

    client: Any
    """boto3's, of ECS."""
    cluster: str
    services: Sequence[str]
    """In this order: model server, faiss server, recommender; it pins what both others hold."""
    seconds: float = 1800.0
    """For each service to become steady."""
    poll_seconds: float = 5.0

    def roll(self, tell: Tell) -> None:
        """Deploy each service anew and wait until it is steady before the next.

        Raises RolloutError, with the reason that ECS gives, when a deployment fails, is replaced by
        another, or takes too long; the services after it are not touched.
        """
        for number, service in enumerate(self.services):
            try:
                self._roll_one(service, tell)
            except RolloutError as error:
                later = ", ".join(self.services[number + 1 :])
                told = f"{self.cluster}/{service}: {error}"
                raise RolloutError(told + (f" (not touched: {later})" if later else "")) from error

    def _roll_one(self, service: str, tell: Tell) -> None:
        # ECS takes what is left out of a deploymentConfiguration for its defaults.
        configuration = self._describe(service).get("deploymentConfiguration", {})
        answer = self._call(
            "update_service",
            cluster=self.cluster,
            service=service,
            forceNewDeployment=True,
            deploymentConfiguration={
                **configuration,
                "deploymentCircuitBreaker": {"enable": True, "rollback": True},
            },
        )
        deployment = _primary(answer["service"]["deployments"])["id"]
        tell(f"{service}: {deployment} has begun")
        self._wait(service, deployment, tell)

    def _wait(self, service: str, deployment: str, tell: Tell) -> None:
        end = time.monotonic() + self.seconds
        told = ""
        while True:
            described = self._describe(service)
            counts = f"{described['runningCount']} of {described['desiredCount']} tasks run"
            if _is_steady(described, deployment):
                tell(f"{service}: steady, {counts}")
                return
            if counts != told:
                tell(f"{service}: {counts}")
            told = counts
            if time.monotonic() >= end:
                raise RolloutError(f"not steady after {self.seconds:g} s: {counts}")
            time.sleep(self.poll_seconds)

    def _describe(self, service: str) -> Mapping[str, Any]:
        answer = self._call("describe_services", cluster=self.cluster, services=[service])
        for failure in answer.get("failures", []):
            raise RolloutError(f"no such service: {failure.get('reason', 'not found')}")
        described: Mapping[str, Any] = answer["services"][0]
        return described

    def _call(self, method: str, **arguments: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - see above

        try:
            return getattr(self.client, method)(**arguments)
        except (BotoCoreError, ClientError) as error:
            raise RolloutError(str(error)) from error


def _primary(deployments: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    for each in deployments:
        if each["status"] == "PRIMARY":
            return each
    raise RolloutError("has no deployments: is its deployment controller ECS?")


def _is_steady(described: Mapping[str, Any], deployment: str) -> bool:
    ours = [each for each in described["deployments"] if each["id"] == deployment]
    for each in ours:
        if each.get("rolloutState") == "FAILED":
            raise RolloutError(each.get("rolloutStateReason") or "the deployment failed")
    primary = _primary(described["deployments"])
    if primary["id"] != deployment:
        # After a failure the circuit breaker's own deployment, of the tasks before.
        raise RolloutError(
            f"{deployment} was replaced by {primary['id']}: "
            f"{primary.get('rolloutStateReason') or 'no reason given'}"
        )
    return (
        len(described["deployments"]) == 1
        and primary.get("rolloutState", "COMPLETED") == "COMPLETED"
        and bool(described["runningCount"] == described["desiredCount"])
    )


@dataclass(frozen=True)
class RecommenderTls:
    """PEM files to speak TLS with, and the name in the recommender's certificate."""

    ca: Path
    cert: Path | None = None
    key: Path | None = None
    name: str | None = None

    def channel(self, address: str) -> grpc.Channel:
        """Open a channel; raises RolloutError for a file that cannot be read."""
        try:
            ca, key, cert = (
                None if file is None else file.read_bytes()
                for file in (self.ca, self.key, self.cert)
            )
        except OSError as error:
            raise RolloutError(f"{error.filename}: {error.strerror}") from error
        options = [] if self.name is None else [("grpc.ssl_target_name_override", self.name)]
        credentials = grpc.ssl_channel_credentials(ca, key, cert)
        return grpc.secure_channel(address, credentials, options)


def replay_goldens(
    address: str,
    manifest: Manifest,
    seconds: float = 120.0,
    retry_seconds: float = 1.0,
    tls: RecommenderTls | None = None,
) -> None:
    """Ask the recommender at `address`, host:port, for what this release must answer.

    What may pass (it pins another release still, a backend is away) is asked again for `seconds`.
    Raises GoldenError when the release answers wrongly or is not taken into service, RolloutError
    when the recommender does not answer, which says nothing about the release.
    """
    end = time.monotonic() + seconds
    with grpc.insecure_channel(address) if tls is None else tls.channel(address) as channel:
        stub = RecommenderServiceStub(channel)
        for number, golden in enumerate(manifest.golden_histories):
            what = f"golden history {number} of release {manifest.release}"
            while (why := _ask(stub, manifest.release, golden, what)) is not None:
                if time.monotonic() >= end:
                    raise why
                time.sleep(retry_seconds)


def _ask(
    stub: Any, release: int, golden: GoldenHistory, what: str
) -> GoldenError | RolloutError | None:
    """Return what stands in the way and may pass; raises GoldenError for what will not."""
    request = messages.GetCandidatesRequest(
        user_id=_USER,
        limit=len(golden.expected_article_ids),
        region_id=golden.region_id,
        recent_article_ids=golden.history,
        release=release,
    )
    try:
        answer = stub.GetCandidates(request, timeout=_CALL_SECONDS)
    except grpc.RpcError as error:
        return _refusal(error, what)
    if answer.source != messages.SOURCE_PERSONALIZED:
        reason = messages.FallbackReason.Name(answer.fallback_reason)
        failed = GoldenError(f"{what} was answered without the model: {reason}")
        if answer.fallback_reason in _PASSING_REASONS:
            return failed
        raise failed
    found = set(answer.article_ids) & set(golden.expected_article_ids)
    overlap = len(found) / len(golden.expected_article_ids)
    if overlap < golden.min_overlap:
        raise GoldenError(
            f"{what}: {overlap:.0%} of the expected articles were answered, "
            f"at least {golden.min_overlap:.0%} must be"
        )
    return None


def _refusal(error: Any, what: str) -> GoldenError | RolloutError:
    told = f"{what} was refused: {error.code().name}: {error.details()}"
    if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
        return GoldenError(told)  # recommenders do not take it into service, or have not yet
    return RolloutError(told)


def roll_out(
    ecs: EcsRollout,
    store: ReleaseStore,
    check: Callable[[Manifest], None],
    tell: Tell,
    release: int | None = None,
) -> Manifest:
    """Start all services anew and `check` the release that they then answer from.

    `release`: the one that has to be the newest usable; None: whichever is. When the check raises
    GoldenError the release is withdrawn, since restarted servers would load the newest again, and
    all services are rolled once more: to the release before, which is checked too. Returns the
    manifest of what is in service. Raises RolloutError, after a withdrawal as well.
    """
    manifest = _newest(store, release)
    ecs.roll(tell)
    try:
        check(manifest)
    except GoldenError as reason:
        tell(f"withdrawing release {manifest.release}: {reason}")
        store.withdraw(manifest.release)
        raise RolloutError(f"{reason}; {_go_back(ecs, store, check, tell, manifest)}") from reason
    return manifest


def _newest(store: ReleaseStore, release: int | None) -> Manifest:
    usable = store.usable()
    if not usable:
        raise RolloutError(f"{store.url} has no usable release")
    if release is not None and usable[0] != release:
        raise RolloutError(
            f"servers would load release {usable[0]}, the newest usable one of {store.url}, "
            f"and not {release}"
        )
    return store.manifest(usable[0])


def _go_back(
    ecs: EcsRollout,
    store: ReleaseStore,
    check: Callable[[Manifest], None],
    tell: Tell,
    bad: Manifest,
) -> str:
    """Roll to what is usable now; answers what became of it."""
    withdrawn = f"release {bad.release} is withdrawn"
    usable = store.usable()
    if not usable:
        return f"{withdrawn}, and no other is usable: publish one"
    try:
        ecs.roll(tell)
        check(store.manifest(usable[0]))
    except (GoldenError, RolloutError) as error:
        return f"{withdrawn}, but going back to release {usable[0]} failed: {error}"
    return f"{withdrawn}, and release {usable[0]} is in service again"
