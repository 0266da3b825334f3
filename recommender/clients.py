"""The model server and the faiss server, one object for each address."""

from collections.abc import Callable
from typing import cast

import grpc
import numpy as np
from recsys.faiss.v1 import faiss_service_pb2, faiss_service_pb2_grpc
from recsys.tfserving.v1 import model_status_pb2, prediction_pb2

from recommender.backends import NONE_TAKEN_DOWN, GoldenHistory, Status, Usage, UserVectors
from recommender.domain import (
    AttributeFilter,
    Float32s,
    Int64s,
    Ranking,
)
from recommender.popular import PopularArticles, PopularList
from recommender.split import Split
from service_runtime.channels import Channel
from service_runtime.errors import BackendUnavailableError, NotFoundError, ReleaseNotHeldError
from service_runtime.status_codes import translated_errors
from service_runtime.tf_serving_api import GET_MODEL_STATUS, PREDICT, array_of, tensor_of
from service_runtime.tracing import traced_call

__all__ = ["FaissClient", "ModelClient"]


class ModelClient:
    """TensorFlow Serving at one address, which the channel leads to."""

    def __init__(self, address: str, channel: Channel, model_name: str) -> None:
        self.address = address
        self._model_name = model_name
        self._channel = channel
        self._predict = self._channel.unary_unary(
            PREDICT,
            request_serializer=prediction_pb2.PredictRequest.SerializeToString,
            response_deserializer=prediction_pb2.PredictResponse.FromString,
        )
        self._status = self._channel.unary_unary(
            GET_MODEL_STATUS,
            request_serializer=model_status_pb2.GetModelStatusRequest.SerializeToString,
            response_deserializer=model_status_pb2.GetModelStatusResponse.FromString,
        )

    async def status(self, timeout_seconds: float) -> Status:
        """Answer the versions that are AVAILABLE."""
        request = model_status_pb2.GetModelStatusRequest(
            model_spec=prediction_pb2.ModelSpec(name=self._model_name)
        )
        with translated_errors(f"model server {self.address}"):
            response = await self._status(request, timeout=timeout_seconds)
        available = model_status_pb2.ModelVersionStatus.AVAILABLE
        versions = response.model_version_status
        return Status(frozenset(held.version for held in versions if held.state == available))

    async def user_vectors(
        self, release: int, histories: Int64s, regions: Int64s, timeout_seconds: float
    ) -> UserVectors:
        """Turn histories int64[B, 50] and regions int64[B] (-1: unknown) into user vectors.

        Whether a row is finite is for the caller to see: one user's values say nothing of others.
        Raises CallError when there is no answer, or none that is of this release.
        """
        request = prediction_pb2.PredictRequest()
        request.model_spec.name = self._model_name
        request.model_spec.version.value = release
        request.inputs["history"].CopyFrom(tensor_of(histories))
        request.inputs["region"].CopyFrom(tensor_of(regions))
        try:
            with (
                traced_call("Predict", self.address) as metadata,
                translated_errors(f"model server {self.address}"),
            ):
                response = await self._predict(request, timeout=timeout_seconds, metadata=metadata)
        except NotFoundError as error:  # TensorFlow Serving's word for it
            raise ReleaseNotHeldError(str(error)) from error
        _refuse_other_release(self.address, release, response.model_spec.version.value)
        return self._checked(response, len(histories))

    def _checked(self, response: prediction_pb2.PredictResponse, rows: int) -> UserVectors:
        try:
            vectors = array_of(response.outputs["user_vector"]).astype(np.float32, copy=False)
            known = array_of(response.outputs["known"]).astype(np.int32, copy=False)
        except (KeyError, ValueError) as error:
            raise BackendUnavailableError(
                f"model server {self.address}: unusable answer: {error}"
            ) from error
        shaped = vectors.ndim == 2 and len(vectors) == rows and known.shape == (rows,)
        if not shaped:
            raise BackendUnavailableError(f"model server {self.address}: unusable user vector")
        return UserVectors(vectors, known)

    async def close(self, grace_seconds: float) -> None:
        """Give the connection up; calls under way may go on for `grace_seconds`."""
        await self._channel.close(grace_seconds)


class FaissClient:
    """The faiss server at one address; it is told the `usage` whenever it is asked its status."""

    def __init__(self, address: str, channel: Channel, usage: Callable[[], Usage]) -> None:
        self.address = address
        self._usage = usage
        self._taken_down, self._taken_down_digest = NONE_TAKEN_DOWN, 0
        self._channel = channel
        self._stub = faiss_service_pb2_grpc.FaissServiceStub(cast("grpc.aio.Channel", channel))

    async def status(self, timeout_seconds: float) -> Status:
        """Answer the releases that are READY, the split, and what is taken down."""
        usage = self._usage()
        request = faiss_service_pb2.GetStatusRequest(
            in_use=sorted(usage.in_use),
            refused=sorted(usage.refused),
            taken_down_digest=self._taken_down_digest,
        )
        with translated_errors(f"faiss server {self.address}"):
            response = await self._stub.GetStatus(request, timeout=timeout_seconds)
        if response.HasField("taken_down"):
            self._taken_down = np.frombuffer(response.taken_down.article_ids, "<i8")
            self._taken_down_digest = response.taken_down.digest
        ready = faiss_service_pb2.RELEASE_STATE_READY
        return Status(
            frozenset(held.release for held in response.releases if held.state == ready),
            _split(response.split) if response.HasField("split") else None,
            self._taken_down,
        )

    async def golden_histories(
        self, release: int, timeout_seconds: float
    ) -> tuple[GoldenHistory, ...]:
        """Answer what model and index of the release must answer together."""
        with translated_errors(f"faiss server {self.address}"):
            response = await self._stub.GetStatus(
                faiss_service_pb2.GetStatusRequest(golden_histories_of=release),
                timeout=timeout_seconds,
            )
        return tuple(
            GoldenHistory(
                tuple(golden.history),
                golden.region_id if golden.HasField("region_id") else None,
                np.array(golden.expected_article_ids, np.int64),
                golden.min_overlap,
            )
            for golden in response.golden_histories
        )

    async def popular(self, release: int, timeout_seconds: float) -> PopularArticles:
        """Fetch the popular articles of the release, overall and of all regions."""
        with translated_errors(f"faiss server {self.address}"):
            response = await self._stub.GetPopular(
                faiss_service_pb2.GetPopularRequest(
                    # All: what is taken back later must be in the lists again.
                    release=release,
                    all_regions=True,
                    include_taken_down=True,
                ),
                timeout=timeout_seconds,
            )
        _refuse_other_release(self.address, release, response.release)
        try:
            return _popular_articles(response)
        except ValueError as error:
            raise self._unusable(error) from error

    async def search(
        self,
        release: int,
        vectors: Float32s,
        k: int,
        *,
        excluded: list[Int64s] | None = None,
        filters: tuple[AttributeFilter, ...] = (),
        timeout_seconds: float,
    ) -> list[Ranking]:
        """Answer the k nearest articles to each row of vectors float32[B, D].

        Raises CallError when there is no answer, or none that is of this release.
        """
        request = faiss_service_pb2.SearchRequest(
            release=release,
            vectors=vectors.astype("<f4", copy=False).tobytes(),
            k=k,
            excluded_ids=[ids.astype("<i8", copy=False).tobytes() for ids in excluded or ()],
            filters=[_filter_message(condition) for condition in filters],
        )
        with (
            traced_call("Search", self.address) as metadata,
            translated_errors(f"faiss server {self.address}"),
        ):
            response = await self._stub.Search(request, timeout=timeout_seconds, metadata=metadata)
        _refuse_other_release(self.address, release, response.release)
        try:
            return _rankings(response, len(vectors))
        except ValueError as error:
            raise self._unusable(error) from error

    def _unusable(self, why: ValueError) -> BackendUnavailableError:
        return BackendUnavailableError(f"faiss server {self.address}: unusable answer: {why}")

    async def close(self, grace_seconds: float) -> None:
        """Give the connection up; calls under way may go on for `grace_seconds`."""
        await self._channel.close(grace_seconds)


def _refuse_other_release(address: str, asked: int, answered: int) -> None:
    if asked != answered:
        raise BackendUnavailableError(
            f"{address} answered from release {answered} instead of {asked}"
        )


def _split(message: faiss_service_pb2.Split) -> Split:
    return Split(message.release, message.share, message.changed_at_ms)


def _filter_message(condition: AttributeFilter) -> faiss_service_pb2.AttributeFilter:
    operator = (
        faiss_service_pb2.FILTER_OPERATOR_NOT_IN
        if condition.negated
        else faiss_service_pb2.FILTER_OPERATOR_IN
    )
    return faiss_service_pb2.AttributeFilter(
        attribute=condition.attribute, operator=operator, values=condition.values
    )


def _popular_articles(response: faiss_service_pb2.GetPopularResponse) -> PopularArticles:
    if not response.lists or response.lists[0].HasField("region_id"):
        raise ValueError("there is no overall list")
    overall, *regional = response.lists
    by_region = {popular.region_id: _popular_list(popular) for popular in regional}
    return PopularArticles(_popular_list(overall), by_region)


def _popular_list(message: faiss_service_pb2.PopularList) -> PopularList:
    popular = PopularList(
        np.frombuffer(message.ids, "<i8"),
        np.frombuffer(message.views, "<f4"),
        {column.attribute: np.frombuffer(column.values, "<i8") for column in message.attributes},
    )
    sizes = {len(popular.views), *(len(column) for column in popular.attributes.values())}
    if sizes != {len(popular.ids)}:
        raise ValueError("columns of a popular list differ in length")
    return popular


def _rankings(response: faiss_service_pb2.SearchResponse, rows: int) -> list[Ranking]:
    ids = np.frombuffer(response.ids, "<i8")
    scores = np.frombuffer(response.scores, "<f4")
    if len(response.counts) != rows or not sum(response.counts) == ids.size == scores.size:
        raise ValueError("counts, ids and scores do not agree")
    rankings, start = [], 0
    for count in response.counts:
        rankings.append(Ranking(ids[start : start + count], scores[start : start + count]))
        start += count
    return rankings
