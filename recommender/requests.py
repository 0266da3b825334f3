"""Checks requests and turns them into the words of the domain; the errors name the field."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from recsys.recommender.v1 import recommender_service_pb2 as pb2

from recommender.domain import (
    HISTORY_LENGTH,
    AttributeFilter,
    CandidateQuery,
    Int64s,
    View,
)
from service_runtime.errors import InvalidRequestError

__all__ = ["candidate_query", "checked_user_id", "checked_views"]

_DEFAULT_LIMIT: Final = 200
_MAX_LIMIT: Final = 1000
_MAX_EXCLUDED: Final = 5000
_MAX_FILTERS: Final = 16
_MAX_FILTER_VALUES: Final = 1000
_MAX_RECENT: Final = 1000
_MAX_VIEWS: Final = 1000
_MAX_USER_ID_BYTES: Final = 256
_NONE: Final = np.empty(0, np.int64)
_MAX_TIME_MS: Final = 2**53 - 1  # what a Redis score holds exactly


def candidate_query(request: pb2.GetCandidatesRequest) -> CandidateQuery:
    """Check a GetCandidatesRequest; raises InvalidRequestError naming the first wrong field."""
    limit = request.limit if request.HasField("limit") else _DEFAULT_LIMIT
    if not 1 <= limit <= _MAX_LIMIT:
        raise InvalidRequestError(f"limit: {limit} is not between 1 and {_MAX_LIMIT}")
    if request.HasField("release") and request.release <= 0:
        raise InvalidRequestError(f"release: {request.release} is not positive")
    if request.HasField("region_id") and request.region_id < 0:
        raise InvalidRequestError(f"region_id: {request.region_id} is negative")
    recent = _ids("recent_article_ids", request.recent_article_ids, _MAX_RECENT)
    return CandidateQuery(
        user_id=checked_user_id(request.user_id),
        limit=limit,
        excluded=_ids("excluded_article_ids", request.excluded_article_ids, _MAX_EXCLUDED),
        exclude_viewed=request.exclude_viewed,
        filters=_filters(request.filters),
        region_id=request.region_id if request.HasField("region_id") else None,
        recent=tuple(dict.fromkeys(recent.tolist()))[:HISTORY_LENGTH],
        release=request.release if request.HasField("release") else None,
    )


def checked_user_id(user_id: str) -> str:
    """Answer the user id; raises InvalidRequestError when it is empty or too long."""
    if not user_id:
        raise InvalidRequestError("user_id: must not be empty")
    if len(user_id.encode()) > _MAX_USER_ID_BYTES:
        raise InvalidRequestError(f"user_id: longer than {_MAX_USER_ID_BYTES} bytes")
    return user_id


def checked_views(views: Sequence[pb2.View]) -> list[View]:
    """Check the views to record; raises InvalidRequestError naming the first wrong one."""
    if not 1 <= len(views) <= _MAX_VIEWS:
        raise InvalidRequestError(f"views: {len(views)} given, 1 to {_MAX_VIEWS} allowed")
    for number, view in enumerate(views):
        if view.article_id < 0:
            raise InvalidRequestError(f"views[{number}].article_id: {view.article_id} is negative")
        if not 0 <= view.viewed_at_ms <= _MAX_TIME_MS:
            raise InvalidRequestError(
                f"views[{number}].viewed_at_ms: {view.viewed_at_ms} is not between 0 and "
                f"{_MAX_TIME_MS}"
            )
    return [View(view.article_id, view.viewed_at_ms) for view in views]


def _ids(field: str, given: Sequence[int], at_most: int) -> Int64s:
    if len(given) > at_most:
        raise InvalidRequestError(f"{field}: {len(given)} given, at most {at_most} allowed")
    if not given:
        return _NONE
    ids = np.array(given, np.int64)
    if ids.min() < 0:
        raise InvalidRequestError(f"{field}[{int(ids.argmin())}]: {ids.min()} is negative")
    return ids


def _filters(given: Sequence[pb2.AttributeFilter]) -> tuple[AttributeFilter, ...]:
    if len(given) > _MAX_FILTERS:
        raise InvalidRequestError(f"filters: {len(given)} given, at most {_MAX_FILTERS} allowed")
    return tuple(_filter(f"filters[{number}]", one) for number, one in enumerate(given))


def _filter(field: str, given: pb2.AttributeFilter) -> AttributeFilter:
    if not given.attribute:
        raise InvalidRequestError(f"{field}.attribute: must not be empty")
    if given.operator not in (pb2.FILTER_OPERATOR_IN, pb2.FILTER_OPERATOR_NOT_IN):
        raise InvalidRequestError(f"{field}.operator: must be IN or NOT_IN")
    if not 1 <= len(given.values) <= _MAX_FILTER_VALUES:
        raise InvalidRequestError(
            f"{field}.values: {len(given.values)} given, 1 to {_MAX_FILTER_VALUES} allowed"
        )
    negated = given.operator == pb2.FILTER_OPERATOR_NOT_IN
    return AttributeFilter(given.attribute, tuple(given.values), negated)
