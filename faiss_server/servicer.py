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
    taken_down_message,
    taken_ids_of,
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
        everything = request.include_taken_down
        if request.all_regions:
            lists = self._service.popular_everywhere(release, with_taken_down=everything)
            return popular_message(release, lists)
        one = self._service.popular(release, region_id, with_taken_down=everything)
        return popular_message(release, [one])

    async def Remove(  # noqa: D102, N802
        self, request: pb.RemoveRequest, context: Context
    ) -> pb.RemoveResponse:
        deadline = Deadline.of(context, self._default_deadline_seconds)
        count = await self._service.remove(taken_ids_of(request), deadline)
        return pb.RemoveResponse(taken_down_count=count)

    async def Restore(  # noqa: D102, N802
        self, request: pb.RestoreRequest, context: Context
    ) -> pb.RestoreResponse:
        deadline = Deadline.of(context, self._default_deadline_seconds)
        count = await self._service.restore(taken_ids_of(request), deadline)
        return pb.RestoreResponse(taken_down_count=count)

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
            taken_down=taken_down_message(
                self._service.taken_down_unless(request.taken_down_digest)
            ),
        )
