"""Requests checked and turned into arrays, arrays turned into answers. Packed bytes are viewed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from recsys.faiss.v1 import faiss_service_pb2 as pb

from faiss_server.attributes import AttributeFilter
from faiss_server.held import Held
from faiss_server.loaded import index_bytes
from faiss_server.popular import PopularList
from faiss_server.search import SearchQuery, SearchResult
from faiss_server.service import ArticleVectors
from faiss_server.taken_down import TakenDown
from releases.manifest import GoldenHistory, Manifest
from releases.split import Split
from service_runtime.errors import InvalidRequestError

__all__ = [
    "article_ids_of",
    "golden_histories_message",
    "popular_message",
    "query_of",
    "region_of",
    "release_of",
    "search_message",
    "split_message",
    "statuses_message",
    "taken_down_message",
    "taken_ids_of",
    "use_of",
    "vectors_message",
]

_MAX_K: Final = 6000
_MAX_EXCLUDED: Final = 6000
_MAX_FILTERS: Final = 16
_MAX_FILTER_VALUES: Final = 1000
_MAX_ARTICLES: Final = 1000
_MAX_IN_USE: Final = 16
_MAX_TAKEN: Final = 10_000

_INT64: Final = np.dtype("<i8")
_FLOAT32: Final = np.dtype("<f4")

ScalarT = TypeVar("ScalarT", bound=np.generic)


def release_of(
    request: pb.SearchRequest | pb.GetVectorsRequest | pb.GetPopularRequest,
) -> int:
    """Take the release that a request must name."""
    if request.release <= 0:
        raise InvalidRequestError("release: is required and positive")
    return request.release


def query_of(request: pb.SearchRequest) -> SearchQuery:
    """Check what can be checked without the release; its vectors stay in one dimension."""
    if not 1 <= request.k <= _MAX_K:
        raise InvalidRequestError(f"k: {request.k} is not 1 to {_MAX_K}")
    vectors = _unpacked(request.vectors, _FLOAT32, "vectors")
    if not np.isfinite(vectors).all():
        raise InvalidRequestError("vectors: a value is NaN or infinite")
    return SearchQuery(
        vectors=vectors,
        k=request.k,
        nprobe=request.nprobe if request.HasField("nprobe") else None,
        excluded_ids=[
            _excluded(packed, f"excluded_ids[{number}]")
            for number, packed in enumerate(request.excluded_ids)
        ],
        filters=_filters(request.filters),
    )


def article_ids_of(request: pb.GetVectorsRequest) -> NDArray[np.int64]:
    """Check and take the ids that vectors are asked for."""
    count = len(request.article_ids)
    if not 1 <= count <= _MAX_ARTICLES:
        raise InvalidRequestError(f"article_ids: {count} ids are not 1 to {_MAX_ARTICLES}")
    article_ids = np.array(request.article_ids, _INT64)
    _refuse_negative(article_ids, "article_ids")
    return article_ids


def region_of(request: pb.GetPopularRequest) -> int | None:
    """Check and take the region; None: overall."""
    if not request.HasField("region_id"):
        return None
    if request.all_regions:
        raise InvalidRequestError("region_id: must be absent with all_regions")
    if request.region_id < 0:
        raise InvalidRequestError(
            f"region_id: {request.region_id} is negative; leave it out for the overall list"
        )
    return request.region_id


def use_of(request: pb.GetStatusRequest) -> tuple[Sequence[int], Sequence[int]]:
    """Check and take what the caller answers from, and what it will not answer from."""
    for field, given in (("in_use", request.in_use), ("refused", request.refused)):
        if len(given) > _MAX_IN_USE:
            raise InvalidRequestError(f"{field}: {len(given)} given, at most {_MAX_IN_USE} allowed")
    return request.in_use, request.refused


def taken_ids_of(request: pb.RemoveRequest | pb.RestoreRequest) -> Sequence[int]:
    """Check and take the articles to take down, or back."""
    count = len(request.article_ids)
    if not 1 <= count <= _MAX_TAKEN:
        raise InvalidRequestError(f"article_ids: {count} ids are not 1 to {_MAX_TAKEN}")
    _refuse_negative(np.array(request.article_ids, _INT64), "article_ids")
    return request.article_ids


def taken_down_message(taken: TakenDown | None) -> pb.TakenDown | None:
    """Pack what is taken down; None: the caller knows it."""
    if taken is None:
        return None
    return pb.TakenDown(digest=taken.digest, article_ids=_packed(taken.article_ids, _INT64))


def search_message(release: int, result: SearchResult) -> pb.SearchResponse:
    """Pack what a search found."""
    return pb.SearchResponse(
        release=release,
        counts=result.counts.tolist(),
        ids=_packed(result.article_ids, _INT64),
        scores=_packed(result.scores, _FLOAT32),
        widened=result.widened,
        cut_short=result.cut_short,
    )


def vectors_message(release: int, found: ArticleVectors) -> pb.GetVectorsResponse:
    """Pack vectors."""
    return pb.GetVectorsResponse(
        release=release,
        dimension=found.vectors.shape[1],
        article_ids=found.article_ids.tolist(),
        vectors=_packed(found.vectors, _FLOAT32),
        missing_article_ids=found.missing.tolist(),
    )


def popular_message(release: int, lists: Iterable[PopularList]) -> pb.GetPopularResponse:
    """Pack lists of popular articles."""
    return pb.GetPopularResponse(
        release=release,
        lists=[
            pb.PopularList(
                region_id=popular.region_id,
                ids=_packed(popular.article_ids, _INT64),
                views=_packed(popular.views, _FLOAT32),
                attributes=_columns(popular.attributes),
            )
            for popular in lists
        ],
    )


def statuses_message(held: Held) -> list[pb.ReleaseStatus]:
    """Describe what is held, newest first."""
    ready = {release: loaded.manifest for release, loaded in held.ready.items()}
    statuses = [_status(manifest, pb.RELEASE_STATE_READY) for manifest in ready.values()]
    statuses += [
        _status(manifest, pb.RELEASE_STATE_LOADING)
        for release, manifest in held.loading.items()
        if release not in ready
    ]
    return sorted(statuses, key=lambda status: status.release, reverse=True)


def split_message(split: Split | None) -> pb.Split | None:
    """Describe how the users are divided between releases."""
    if split is None:
        return None
    return pb.Split(release=split.release, share=split.share, changed_at_ms=split.changed_at_ms)


def golden_histories_message(histories: Iterable[GoldenHistory]) -> list[pb.GoldenHistory]:
    """Turn the manifest's golden histories into messages."""
    return [
        pb.GoldenHistory(
            history=golden.history,
            region_id=golden.region_id,
            expected_article_ids=golden.expected_article_ids,
            min_overlap=golden.min_overlap,
        )
        for golden in histories
    ]


def _status(manifest: Manifest, state: pb.ReleaseState.ValueType) -> pb.ReleaseStatus:
    return pb.ReleaseStatus(
        release=manifest.release,
        state=state,
        article_count=manifest.article_count,
        dimension=manifest.dimension,
        index_type=manifest.index.type,
        nprobe=manifest.index.nprobe,
        recall_at_200=manifest.index.recall_at_200,
        index_bytes=index_bytes(manifest),
    )


def _columns(attributes: Mapping[str, NDArray[np.int64]]) -> list[pb.AttributeColumn]:
    return [
        pb.AttributeColumn(attribute=name, values=_packed(values, _INT64))
        for name, values in attributes.items()
    ]


def _filters(messages: Sequence[pb.AttributeFilter]) -> frozenset[AttributeFilter]:
    if len(messages) > _MAX_FILTERS:
        raise InvalidRequestError(f"filters: {len(messages)} are more than {_MAX_FILTERS}")
    return frozenset(
        _filter(message, f"filters[{number}]") for number, message in enumerate(messages)
    )


def _filter(message: pb.AttributeFilter, field: str) -> AttributeFilter:
    if message.operator not in {pb.FILTER_OPERATOR_IN, pb.FILTER_OPERATOR_NOT_IN}:
        raise InvalidRequestError(f"{field}.operator: {message.operator} is not IN or NOT_IN")
    count = len(message.values)
    if not 1 <= count <= _MAX_FILTER_VALUES:
        raise InvalidRequestError(f"{field}.values: {count} are not 1 to {_MAX_FILTER_VALUES}")
    return AttributeFilter(
        message.attribute,
        frozenset(message.values),
        negated=message.operator == pb.FILTER_OPERATOR_NOT_IN,
    )


def _excluded(packed: bytes, field: str) -> NDArray[np.int64]:
    article_ids = _unpacked(packed, _INT64, field)
    if article_ids.size > _MAX_EXCLUDED:
        raise InvalidRequestError(f"{field}: {article_ids.size} ids are more than {_MAX_EXCLUDED}")
    _refuse_negative(article_ids, field)
    return article_ids


def _refuse_negative(article_ids: NDArray[np.int64], field: str) -> None:
    if article_ids.size and article_ids.min() < 0:
        raise InvalidRequestError(f"{field}: article id {article_ids.min()} is negative")


def _unpacked(packed: bytes, dtype: "np.dtype[ScalarT]", field: str) -> NDArray[ScalarT]:
    if len(packed) % dtype.itemsize:
        raise InvalidRequestError(
            f"{field}: {len(packed)} bytes are not values of {dtype.itemsize} bytes"
        )
    return np.frombuffer(packed, dtype)


def _packed(values: NDArray[np.generic], dtype: "np.dtype[np.generic]") -> bytes:
    return values.astype(dtype, copy=False).tobytes()
