"""Model and faiss servers that do what a test tells them, over the real wire protocol.

Only for what the real servers never do: lie about releases, hang, or refuse on purpose.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import numpy as np
from recsys.faiss.v1 import faiss_service_pb2 as faiss_pb2
from recsys.faiss.v1 import faiss_service_pb2_grpc as faiss_grpc
from recsys.tfserving.v1 import model_status_pb2, prediction_pb2

from service_runtime.tf_serving_api import (
    MODEL_SERVICE,
    PREDICTION_SERVICE,
    array_of,
    tensor_of,
)

DIMENSION = 4
POPULAR = np.arange(1, 401, dtype=np.int64)
REGION = 7
REGION_POPULAR = np.arange(300, 320, dtype=np.int64)


def right_answer(release: int, newest: int, k: int) -> np.ndarray:
    """What a sound pair of `release` answers to a history that begins with `newest`."""
    return newest * 1_000 + release * 100_000_000 + np.arange(k, dtype=np.int64)


@dataclass
class ScriptedBackend:
    """Everything a test may change while the server runs."""

    releases: list[int] = field(default_factory=lambda: [1])
    host: str = "127.0.0.1"
    port: int = 0
    calls: int = 0
    refuse: grpc.StatusCode | None = None
    hang: bool = False
    delay_seconds: float = 0.0
    answer_as: int | None = None
    """Echo this release instead of the one asked for."""
    credentials: grpc.ServerCredentials | None = None
    shown: set[bytes] = field(default_factory=set)
    """The certificates that callers showed, PEM."""

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def register(self, server: grpc.aio.Server) -> None:
        raise AssertionError("each kind registers its own methods")

    async def misbehave(self, context: grpc.aio.ServicerContext) -> None:
        self.calls += 1
        self.shown.update(context.auth_context().get("x509_pem_cert", ()))
        await asyncio.sleep(self.delay_seconds)
        if self.hang:
            await asyncio.Event().wait()
        if self.refuse is not None:
            await context.abort(self.refuse, "told to refuse")


@dataclass
class ScriptedModel(ScriptedBackend):
    """User vectors hold the newest article and the release, so that answers tell both."""

    known: int = 1
    not_a_number: bool = False
    not_a_number_for: int | None = None
    """Only the vectors of histories that begin with this article."""
    known_rows: int | None = None
    """Answer `known` for so many rows, whatever was asked."""
    speaks_for: int | None = None
    """Make vectors of this release whatever is asked: a pair that does not belong together."""

    async def predict(
        self, request: prediction_pb2.PredictRequest, context: grpc.aio.ServicerContext
    ) -> prediction_pb2.PredictResponse:
        await self.misbehave(context)
        release = request.model_spec.version.value
        if release not in self.releases:
            await context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found")
        histories = array_of(request.inputs["history"])
        vectors = np.zeros((len(histories), DIMENSION), np.float32)
        vectors[:, 0] = histories[:, 0]
        vectors[:, 1] = self.speaks_for or release
        if self.not_a_number:
            vectors[:, 2] = np.nan
        vectors[histories[:, 0] == self.not_a_number_for, 2] = np.nan
        response = prediction_pb2.PredictResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = self.answer_as or release
        response.outputs["user_vector"].CopyFrom(tensor_of(vectors))
        rows = len(histories) if self.known_rows is None else self.known_rows
        known = np.full(rows, self.known, np.int32)
        response.outputs["known"].CopyFrom(tensor_of(known))
        return response

    async def status(
        self,
        request: model_status_pb2.GetModelStatusRequest,
        context: grpc.aio.ServicerContext,
    ) -> model_status_pb2.GetModelStatusResponse:
        states = model_status_pb2.ModelVersionStatus
        return model_status_pb2.GetModelStatusResponse(
            model_version_status=[
                states(version=release, state=states.AVAILABLE) for release in self.releases
            ]
        )

    def register(self, server: grpc.aio.Server) -> None:
        def unary(handler, request_type, response_type):
            return grpc.unary_unary_rpc_method_handler(
                handler, request_type.FromString, response_type.SerializeToString
            )

        predict = unary(self.predict, prediction_pb2.PredictRequest, prediction_pb2.PredictResponse)
        status = unary(
            self.status,
            model_status_pb2.GetModelStatusRequest,
            model_status_pb2.GetModelStatusResponse,
        )
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(PREDICTION_SERVICE, {"Predict": predict}),
                grpc.method_handlers_generic_handler(MODEL_SERVICE, {"GetModelStatus": status}),
            )
        )


@dataclass
class ScriptedFaiss(ScriptedBackend, faiss_grpc.FaissServiceServicer):
    """Answers `right_answer` of what the vector says; `counted_short` answers fewer than k."""

    searches: list[faiss_pb2.SearchRequest] = field(default_factory=list)
    last_status: faiss_pb2.GetStatusRequest = field(default_factory=faiss_pb2.GetStatusRequest)
    at_most: int = 10_000
    split: faiss_pb2.Split | None = None
    taken_down: faiss_pb2.TakenDown | None = None
    cut: str | None = None
    """Leave this out of answers: `counts`, `ids` or `scores`; or `popular`."""
    hanging_proofs: frozenset[int] = frozenset()

    async def Search(self, request, context):  # noqa: N802 - the contract's name
        await self.misbehave(context)
        if request.release not in self.releases:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not held")
        self.searches.append(request)
        vectors = np.frombuffer(request.vectors, "<f4").reshape(-1, DIMENSION)
        count = min(request.k, self.at_most)
        rows = [right_answer(int(row[1]), int(row[0]), count) for row in vectors]
        scores = np.tile(np.linspace(1, 0, count, dtype="<f4"), len(rows))
        response = faiss_pb2.SearchResponse(
            release=self.answer_as or request.release,
            counts=[count] * len(rows),
            ids=np.concatenate(rows).astype("<i8").tobytes(),
            scores=scores.tobytes(),
        )
        if self.cut in ("counts", "ids", "scores"):
            response.ClearField(self.cut)
        return response

    async def GetPopular(self, request, context):  # noqa: N802 - the contract's name
        lists = [_popular_list(None, POPULAR), _popular_list(REGION, REGION_POPULAR)]
        if self.cut == "popular":
            lists[0].ClearField("views")
        return faiss_pb2.GetPopularResponse(release=request.release, lists=lists)

    async def GetStatus(self, request, context):  # noqa: N802 - the contract's name
        goldens = []
        if not request.HasField("golden_histories_of"):
            self.last_status = request
        if request.HasField("golden_histories_of"):
            release = request.golden_histories_of
            if release in self.hanging_proofs:
                await asyncio.Event().wait()
            goldens = [
                faiss_pb2.GoldenHistory(
                    history=[newest, 3],
                    expected_article_ids=right_answer(release, newest, 20),
                    min_overlap=0.9,
                )
                for newest in (5, 6)
            ]
        return faiss_pb2.GetStatusResponse(
            releases=[
                faiss_pb2.ReleaseStatus(release=release, state=faiss_pb2.RELEASE_STATE_READY)
                for release in self.releases
            ],
            golden_histories=goldens,
            split=self.split,
            taken_down=self._taken_down_unless(request.taken_down_digest),
        )

    def take_down(self, *article_ids: int) -> None:
        """Have the status name these from now on."""
        packed = np.array(sorted(article_ids), "<i8").tobytes()
        self.taken_down = faiss_pb2.TakenDown(digest=hash(packed) & 0xFFFF, article_ids=packed)

    def _taken_down_unless(self, digest: int) -> faiss_pb2.TakenDown | None:
        known = self.taken_down is None or self.taken_down.digest == digest
        return None if known else self.taken_down

    def register(self, server: grpc.aio.Server) -> None:
        faiss_grpc.add_FaissServiceServicer_to_server(self, server)


def _popular_list(region: int | None, ids: np.ndarray) -> faiss_pb2.PopularList:
    views = np.arange(len(ids), 0, -1, dtype="<f4")
    category = faiss_pb2.AttributeColumn(
        attribute="category", values=(ids % 3).astype("<i8").tobytes()
    )
    return faiss_pb2.PopularList(
        region_id=region,
        ids=ids.astype("<i8").tobytes(),
        views=views.tobytes(),
        attributes=[category],
    )


@asynccontextmanager
async def listening(*backends: ScriptedBackend) -> AsyncIterator[None]:
    """Serve each backend on a port of its own, which it then knows."""
    servers = []
    for backend in backends:
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        backend.register(server)
        if backend.credentials is None:
            backend.port = server.add_insecure_port(backend.address)
        else:
            backend.port = server.add_secure_port(backend.address, backend.credentials)
        await server.start()
        servers.append(server)
    try:
        yield
    finally:
        for server in servers:
            await server.stop(None)
