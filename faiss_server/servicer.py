"""FaissService over gRPC."""

from typing import Any

import grpc
from recsys.faiss.v1 import faiss_service_pb2 as pb
from recsys.faiss.v1 import faiss_service_pb2_grpc as pb_grpc

from faiss_server._messages import (
    article_ids_of,
    golden_histories_message,
    popular_message,
    query_of,
    region_of,
    release_of,
    search_message,
    split_message,
    statuses_message,
    use_of,
    vectors_message,
)
from faiss_server.service import FaissService
from service_runtime.deadlines import Deadline

__all__ = ["FaissServicer"]

Context = grpc.aio.ServicerContext[Any, Any]


class FaissServicer(pb_grpc.FaissServiceServicer):
    """Checks and converts requests, calls the service, converts answers."""

    def __init__(self, service: FaissService, default_deadline_seconds: float) -> None:
        self._service = service
        self._default_deadline_seconds = default_deadline_seconds

    async def Search(  # noqa: D102, N802 - gRPC's name; the contract is in the proto
        self, request: pb.SearchRequest, context: Context
    ) -> pb.SearchResponse:
        release, query = release_of(request), query_of(request)
        deadline = Deadline.of(context, self._default_deadline_seconds)
        return search_message(release, await self._service.search(release, query, deadline))

    async def GetVectors(  # noqa: D102, N802
        self, request: pb.GetVectorsRequest, context: Context
    ) -> pb.GetVectorsResponse:
        release, article_ids = release_of(request), article_ids_of(request)
        deadline = Deadline.of(context, self._default_deadline_seconds)
        found = await self._service.vectors(release, article_ids, deadline)
        return vectors_message(release, found)

    async def GetPopular(  # noqa: D102, N802
        self,
        request: pb.GetPopularRequest,
        context: Context,  # noqa: ARG002
    ) -> pb.GetPopularResponse:
        release, region_id = release_of(request), region_of(request)
        if request.all_regions:
            return popular_message(release, self._service.popular_everywhere(release))
        return popular_message(release, [self._service.popular(release, region_id)])

    async def GetStatus(  # noqa: D102, N802
        self,
        request: pb.GetStatusRequest,
        context: Context,  # noqa: ARG002
    ) -> pb.GetStatusResponse:
        self._service.note_use(*use_of(request))
        histories = self._service.golden_histories(request.golden_histories_of)
        return pb.GetStatusResponse(
            releases=statuses_message(self._service.held()),
            golden_histories=golden_histories_message(histories),
            split=split_message(self._service.split()),
        )
