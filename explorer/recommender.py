"""The recommender, asked as any backend of the product asks it."""

from dataclasses import dataclass
from typing import Final

import grpc
from recsys.recommender.v1 import recommender_service_pb2 as pb2
from recsys.recommender.v1 import recommender_service_pb2_grpc as pb2_grpc

from explorer.calls import calling
from explorer.enums import name_of
from explorer.question import Question, request_of
from explorer.waterfall import Waterfall, parse_server_timing, waterfall

__all__ = ["Answer", "Candidate", "Recommender", "View"]

_PART: Final = "recommender"


@dataclass(frozen=True, slots=True)
class View:
    """An article that the user viewed, and when: ms since 1970 UTC, None where nobody said."""

    article_id: int
    viewed_at_ms: int | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """An article of an answer; `rank` counts from 1."""

    rank: int
    article_id: int
    score: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What GetCandidates answered, and how long it took."""

    candidates: tuple[Candidate, ...]
    release: int
    source: str
    """PERSONALIZED or POPULAR."""
    fallback_reason: str
    """UNSPECIFIED, or why the answer is not personalised."""
    shorter_than_requested: bool
    waterfall: Waterfall

    @property
    def article_ids(self) -> list[int]:
        """The articles, best first."""
        return [candidate.article_id for candidate in self.candidates]


class Recommender:
    """RecommenderService at one address; every method raises CallFailedError."""

    def __init__(self, channel: grpc.aio.Channel, address: str, deadline_seconds: float) -> None:
        self.address = address
        self._deadline = deadline_seconds
        self._stub = pb2_grpc.RecommenderServiceStub(channel)

    async def history(self, user_id: str) -> tuple[View, ...]:
        """Answer what the recommender would read as the user's history, newest first."""
        request = pb2.GetHistoryRequest(user_id=user_id)
        async with calling(_PART, self.address):
            response = await self._stub.GetHistory(request, timeout=self._deadline)
        return tuple(View(view.article_id, view.viewed_at_ms) for view in response.views)

    async def candidates(self, question: Question, release: int | None) -> Answer:
        """Put the question to one release; None: the pinned one."""
        call = self._stub.GetCandidates(request_of(question, release), timeout=self._deadline)
        async with calling(_PART, self.address) as stopwatch:
            response = await call
        metadata = grpc.aio.Metadata(*(await call.trailing_metadata()))
        stages = parse_server_timing(str(metadata.get("server-timing", "")))
        return _answer(response, waterfall(stages, stopwatch.milliseconds))


def _answer(response: pb2.GetCandidatesResponse, times: Waterfall) -> Answer:
    pairs = zip(response.article_ids, response.scores, strict=False)
    return Answer(
        candidates=tuple(
            Candidate(rank, article_id, score)
            for rank, (article_id, score) in enumerate(pairs, start=1)
        ),
        release=response.release,
        source=name_of(pb2.Source.DESCRIPTOR, response.source, "SOURCE_"),
        fallback_reason=name_of(
            pb2.FallbackReason.DESCRIPTOR, response.fallback_reason, "FALLBACK_REASON_"
        ),
        shorter_than_requested=response.shorter_than_requested,
        waterfall=times,
    )
