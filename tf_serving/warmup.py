"""Warm-up requests that lie beside a model, replayed before it is put in service."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError
from recsys.tfserving.v1 import prediction_pb2 as pb
from tensorflow.python.framework.errors_impl import DataLossError
from tensorflow.python.lib.io._pywrap_record_io import RecordIterator

from releases.layout import WARMUP_FILE
from tf_serving.errors import Code, InvalidInputError, LoadError
from tf_serving.servable import Model
from tf_serving.signature import DEFAULT_SIGNATURE
from tf_serving.tensors import arrays_of

__all__ = ["MAX_RECORDS", "replay_warmup"]

MAX_RECORDS: Final = 1000
"""TensorFlow Serving's own limit (WarmupConsts::kMaxNumRecords)."""


def replay_warmup(directory: Path, model: Model) -> None:
    """Run every recorded Predict once; a model without the file needs none.

    Raises LoadError where a record is malformed or fails, as TensorFlow Serving does.
    """
    path = directory / WARMUP_FILE
    if not path.is_file():
        return
    for number, record in enumerate(_records(path), start=1):
        where = f"warm-up record {number} of {path}"
        if number > MAX_RECORDS:
            raise LoadError(Code.INVALID_ARGUMENT, f"{where} is more than {MAX_RECORDS} allow")
        _run(model, _request_of(record, where), where)


def _records(path: Path) -> Iterator[bytes]:
    try:
        yield from RecordIterator(str(path), "")
    except DataLossError as error:
        raise LoadError(
            Code.DATA_LOSS, f"{path} is not a TFRecord file: {error.message}"
        ) from error


def _request_of(record: bytes, where: str) -> pb.PredictRequest:
    try:
        log = pb.PredictionLog.FromString(record)
    except DecodeError as error:
        raise LoadError(Code.INVALID_ARGUMENT, f"failed to parse {where}: {error}") from error
    if not log.HasField("predict_log"):
        raise LoadError(Code.INVALID_ARGUMENT, f"{where} has no predict_log")
    return log.predict_log.request


def _run(model: Model, request: pb.PredictRequest, where: str) -> None:
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    signature = model.signatures.get(name)
    if signature is None:
        raise LoadError(
            Code.FAILED_PRECONDITION, f'{where}: Serving signature key "{name}" not found.'
        )
    try:
        inputs = arrays_of(request.inputs)
        signature.check(inputs, request.output_filter)
        model.run(name, inputs, request.output_filter)
    except InvalidInputError as error:
        raise LoadError(Code.INVALID_ARGUMENT, f"{where}: {error}") from error
