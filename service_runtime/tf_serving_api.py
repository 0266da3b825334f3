"""TensorFlow Serving's wire format: method paths, and arrays as TensorProto.

The messages are our small copies; the paths are TensorFlow Serving's own.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray
from recsys.tfserving.v1 import prediction_pb2

__all__ = [
    "GET_MODEL_METADATA",
    "GET_MODEL_STATUS",
    "MODEL_SERVICE",
    "PREDICT",
    "PREDICTION_SERVICE",
    "TENSOR_TYPES",
    "array_of",
    "tensor_of",
]

PREDICTION_SERVICE: Final = "tensorflow.serving.PredictionService"
MODEL_SERVICE: Final = "tensorflow.serving.ModelService"
PREDICT: Final = f"/{PREDICTION_SERVICE}/Predict"
GET_MODEL_METADATA: Final = f"/{PREDICTION_SERVICE}/GetModelMetadata"
GET_MODEL_STATUS: Final = f"/{MODEL_SERVICE}/GetModelStatus"

TENSOR_TYPES: Final[dict[int, tuple[np.dtype[np.generic], str]]] = {
    prediction_pb2.DT_FLOAT: (np.dtype("<f4"), "float_val"),
    prediction_pb2.DT_DOUBLE: (np.dtype("<f8"), "double_val"),
    prediction_pb2.DT_INT32: (np.dtype("<i4"), "int_val"),
    prediction_pb2.DT_INT64: (np.dtype("<i8"), "int64_val"),
    prediction_pb2.DT_BOOL: (np.dtype("?"), "bool_val"),
}
"""By TensorFlow's DataType: NumPy type, and the field that holds values one by one."""

_NUMBERS: Final = {dtype: number for number, (dtype, _) in TENSOR_TYPES.items()}


def tensor_of(array: NDArray[np.generic]) -> prediction_pb2.TensorProto:
    """Pack an array of float32, float64, int32, int64 or bool, any shape.

    Raises ValueError for another dtype.
    """
    number = _NUMBERS.get(array.dtype)
    if number is None:
        raise ValueError(f"no tensor type for {array.dtype}")
    shape = prediction_pb2.TensorShapeProto(
        dim=[prediction_pb2.TensorShapeProto.Dim(size=size) for size in array.shape]
    )
    return prediction_pb2.TensorProto(
        dtype=prediction_pb2.DataType.ValueType(number),
        tensor_shape=shape,
        tensor_content=array.tobytes(),
    )


def array_of(tensor: prediction_pb2.TensorProto) -> NDArray[np.generic]:
    """Unpack a tensor, from packed bytes (read-only view) or from the field of its type.

    TensorFlow fills either; a single value in the field stands for all elements.
    Raises ValueError where type, shape and number of values do not agree.
    """
    if tensor.dtype not in TENSOR_TYPES:
        raise ValueError(f"no array type for {prediction_pb2.DataType.Name(tensor.dtype)}")
    dtype, field = TENSOR_TYPES[tensor.dtype]
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    if min(shape, default=0) < 0:
        raise ValueError(f"a size in {shape} is negative")
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, dtype).reshape(shape)
    values = np.asarray(getattr(tensor, field), dtype)
    if values.size == 1 and math.prod(shape) != 1:
        # Broadcast and not filled: a few bytes may claim a shape of any size.
        return np.broadcast_to(values, shape)
    return values.reshape(shape)
