"""RecommenderService on the wire: validate, call, convert."""

from typing import Any, Final

import grpc
from recsys.recommender.v1 import recommender_service_pb2 as pb2
from recsys.recommender.v1 import recommender_service_pb2_grpc as pb2_grpc

from recommender.domain import Candidates, FallbackReason, Source
from recommender.requests import candidate_query, checked_user_id, checked_views
from recommender.service import RecommenderService
from service_runtime.deadlines import Deadline
from service_runtime.tracing import annotate, current

__all__ = ["RecommenderServicer"]

Context = grpc.aio.ServicerContext[Any, Any]

_SOURCES: Final = {source: pb2.Source.Value(f"SOURCE_{source.value}") for source in Source}
_REASONS: Final[dict[FallbackReason | None, pb2.FallbackReason.ValueType]] = {
    None: pb2.FALLBACK_REASON_UNSPECIFIED,
    **{reason: pb2.FallbackReason.Value(f"FALLBACK_REASON_{reason.value}")
       for reason in FallbackReason},
}  # fmt: skip


class RecommenderServicer(pb2_grpc.RecommenderServiceServicer):
    """Transport only; what is answered is decided in RecommenderService."""

    def __init__(
        self,
        service: RecommenderService,
        default_deadline_seconds: float,
        reserve_fraction: float,
    ) -> None:
        self._service = service
        self._default_deadline_seconds = default_deadline_seconds
        self._reserve_fraction = reserve_fraction

    async def GetCandidates(  # noqa: N802, D102 - the contract says it
        self, request: pb2.GetCandidatesRequest, context: Context
    ) -> pb2.GetCandidatesResponse:
        deadline = self._deadline(context)
        candidates = await self._service.candidates(candidate_query(request), deadline)
        context.set_trailing_metadata((("server-timing", _server_timing(candidates)),))
        if current.get() is not None:
            annotate(_attributes(candidates))
        return _response(candidates)

    async def RecordViews(  # noqa: N802, D102 - the contract says it
        self, request: pb2.RecordViewsRequest, context: Context
    ) -> pb2.RecordViewsResponse:
        deadline = self._deadline(context)
        user_id, views = checked_user_id(request.user_id), checked_views(request.views)
        await self._service.record_views(user_id, views, deadline)
        return pb2.RecordViewsResponse()

    async def GetHistory(  # noqa: N802, D102 - the contract says it
        self, request: pb2.GetHistoryRequest, context: Context
    ) -> pb2.GetHistoryResponse:
        deadline = self._deadline(context)
        views = await self._service.views(checked_user_id(request.user_id), deadline)
        return pb2.GetHistoryResponse(
            views=[
                pb2.View(article_id=view.article_id, viewed_at_ms=view.viewed_at_ms)
                for view in views
            ]
        )

    def _deadline(self, context: Context) -> Deadline:
        return Deadline.of(context, self._default_deadline_seconds, self._reserve_fraction)


def _response(candidates: Candidates) -> pb2.GetCandidatesResponse:
    return pb2.GetCandidatesResponse(
        article_ids=candidates.ranking.ids.tolist(),
        scores=candidates.ranking.scores.tolist(),
        release=candidates.release,
        source=_SOURCES[candidates.source],
        fallback_reason=_REASONS[candidates.fallback_reason],
        shorter_than_requested=candidates.shorter_than_requested,
    )


def _attributes(candidates: Candidates) -> dict[str, str | int]:
    """Answer what a trace says of an answer: neither whose it is nor which articles are in it."""
    reason = candidates.fallback_reason
    return {
        "recsys.release": candidates.release,
        "recsys.source": candidates.source.value,
        "recsys.fallback_reason": "" if reason is None else reason.value,
        "recsys.candidates": candidates.ranking.ids.size,
    }


def _server_timing(candidates: Candidates) -> str:
    return ", ".join(
        f"{stage};dur={seconds * 1000:.3f}" for stage, seconds in candidates.stage_seconds.items()
    )
