"""The right answer without an index: the model server's user vector, NumPy for the rest."""

from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
import numpy as np
from numpy.typing import NDArray
from recsys.tfserving.v1 import prediction_pb2

from local_stack.calls import naming_call
from releases.layout import ARTICLE_IDS_FILE, ARTICLE_VECTORS_FILE, HISTORY_LENGTH
from service_runtime.tf_serving_api import PREDICT, array_of, tensor_of

__all__ = ["ExactAnswers"]


class ExactAnswers:
    """Searches all exported vectors of one release; a context manager that closes its channel."""

    def __init__(self, model_server: str, embeddings: Path, release: int) -> None:
        home = embeddings / str(release)
        self._ids: NDArray[np.int64] = np.load(home / ARTICLE_IDS_FILE)
        self._vectors: NDArray[np.float32] = np.load(home / ARTICLE_VECTORS_FILE)
        self._release = release
        self._channel = grpc.insecure_channel(model_server)
        self._predict = self._channel.unary_unary(
            PREDICT,
            request_serializer=prediction_pb2.PredictRequest.SerializeToString,
            response_deserializer=prediction_pb2.PredictResponse.FromString,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._channel.close()

    def candidates(self, history: list[int], limit: int) -> NDArray[np.int64]:
        """Answer the best `limit` articles that are not in `history` (newest first).

        Raises StackError when the model server does not answer.
        """
        scores = self._vectors @ self._user_vector(history)
        scores[np.isin(self._ids, history)] = -np.inf
        return self._ids[np.argsort(-scores, kind="stable")[:limit]]

    def _user_vector(self, history: list[int]) -> NDArray[np.float32]:
        padded = np.full((1, HISTORY_LENGTH), -1, np.int64)
        padded[0, : len(history)] = history
        request = prediction_pb2.PredictRequest()
        request.model_spec.name = "user_tower"
        request.model_spec.version.value = self._release
        request.inputs["history"].CopyFrom(tensor_of(padded))
        request.inputs["region"].CopyFrom(tensor_of(np.array([-1], np.int64)))
        with naming_call("Predict"):
            outputs = self._predict(request, timeout=5).outputs
        vector: NDArray[np.float32] = array_of(outputs["user_vector"])[0].astype(np.float32)
        return vector
