"""Tensors of requests, bounded; tensors of answers, in TensorFlow Serving's form."""

import math
from collections.abc import Mapping
from typing import Final

from recsys.tfserving.v1 import prediction_pb2 as pb

from service_runtime.tf_serving_api import TENSOR_TYPES, array_of
from tf_serving.errors import InvalidInputError
from tf_serving.signature import Array

__all__ = ["MAX_ELEMENTS", "SUPPORTED_TYPES", "arrays_of", "response_tensor"]

MAX_ELEMENTS: Final = 4 * 1024 * 1024 // 8
"""Values per tensor: as many int64 as a message of 4 MiB holds. A single value may stand for a
whole tensor, so a few bytes could otherwise ask for any amount of memory."""

_BY_DTYPE: Final = {dtype: (number, field) for number, (dtype, field) in TENSOR_TYPES.items()}

SUPPORTED_TYPES: Final = frozenset(_BY_DTYPE)
"""Of tensors that this server takes and gives."""


def arrays_of(inputs: Mapping[str, pb.TensorProto]) -> dict[str, Array]:
    """Unpack the tensors of a request; raises InvalidInputError, naming the tensor."""
    return {name: _array_of(name, tensor) for name, tensor in inputs.items()}


def _array_of(name: str, tensor: pb.TensorProto) -> Array:
    sizes = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.tensor_shape.unknown_rank or any(size < 0 for size in sizes):
        raise InvalidInputError(f"tensor parsing error: {name}: its shape is not fully known")
    if math.prod(sizes) > MAX_ELEMENTS:
        raise InvalidInputError(
            f"tensor parsing error: {name}: shape {sizes} has more than {MAX_ELEMENTS} values"
        )
    try:
        return array_of(tensor)
    except ValueError as error:
        raise InvalidInputError(f"tensor parsing error: {name}: {error}") from error


def response_tensor(array: Array) -> pb.TensorProto:
    """Pack an output value by value (`float_val`, `int_val`), as TensorFlow Serving does."""
    number, values = _BY_DTYPE[array.dtype]
    tensor = pb.TensorProto(dtype=pb.DataType.ValueType(number))
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    getattr(tensor, values).extend(array.ravel().tolist())
    return tensor
