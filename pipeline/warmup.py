"""Warm-up records: requests that the model server plays before it calls a release ready."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from recsys.tfserving.v1.prediction_pb2 import (
    DT_INT64,
    PredictionLog,
    TensorProto,
    TensorShapeProto,
)

__all__ = ["MODEL_NAME", "write_warmup"]

MODEL_NAME: Final = "user_tower"
_BATCH_SIZES: Final = (1, 4, 16)


def write_warmup(path: Path, histories: NDArray[np.int64], regions: NDArray[np.int64]) -> None:
    """Write a TFRecord of PredictionLog with batches of 1, 4 and 16 of these users."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for size in _BATCH_SIZES:
            rows = np.arange(size) % len(histories)
            writer.write(_record(histories[rows], regions[rows]).SerializeToString())


def _record(histories: NDArray[np.int64], regions: NDArray[np.int64]) -> PredictionLog:
    # Without a version: the file lies in the release that it is for.
    record = PredictionLog()
    request = record.predict_log.request
    request.model_spec.name = MODEL_NAME
    request.model_spec.signature_name = "serving_default"
    request.inputs["history"].CopyFrom(_tensor(histories))
    request.inputs["region"].CopyFrom(_tensor(regions))
    return record


def _tensor(values: NDArray[Any]) -> TensorProto:
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in values.shape])
    content = values.astype("<i8").tobytes()
    return TensorProto(dtype=DT_INT64, tensor_shape=shape, tensor_content=content)
