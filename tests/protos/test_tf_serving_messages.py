"""Our small copies of TensorFlow Serving's messages are the official ones on the wire."""

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recsys.tfserving.v1 import model_server_config_pb2, model_status_pb2, prediction_pb2
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (  # noqa: TID251 - the yardstick
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
    prediction_log_pb2,
    status_pb2,
)
from tensorflow_serving.config import (  # noqa: TID251 - the yardstick
    file_system_storage_path_source_pb2,
)
from tensorflow_serving.config import (  # noqa: TID251 - the yardstick
    model_server_config_pb2 as official_config_pb2,
)

_POLICY = file_system_storage_path_source_pb2.FileSystemStoragePathSourceConfig

OFFICIAL: dict[str, type[Message]] = {
    "GetModelMetadataRequest": get_model_metadata_pb2.GetModelMetadataRequest,
    "GetModelMetadataResponse": get_model_metadata_pb2.GetModelMetadataResponse,
    "GetModelStatusRequest": get_model_status_pb2.GetModelStatusRequest,
    "GetModelStatusResponse": get_model_status_pb2.GetModelStatusResponse,
    "ModelConfig": official_config_pb2.ModelConfig,
    "ModelConfigList": official_config_pb2.ModelConfigList,
    "ModelServerConfig": official_config_pb2.ModelServerConfig,
    "ModelSpec": model_pb2.ModelSpec,
    "ModelVersionStatus": get_model_status_pb2.ModelVersionStatus,
    "PredictLog": prediction_log_pb2.PredictLog,
    "PredictRequest": predict_pb2.PredictRequest,
    "PredictResponse": predict_pb2.PredictResponse,
    "PredictionLog": prediction_log_pb2.PredictionLog,
    "ServableVersionPolicy": _POLICY.ServableVersionPolicy,
    "SignatureDef": meta_graph_pb2.SignatureDef,
    "SignatureDefMap": get_model_metadata_pb2.SignatureDefMap,
    "StatusProto": status_pb2.StatusProto,
    "TensorInfo": meta_graph_pb2.TensorInfo,
    "TensorProto": tensor_pb2.TensorProto,
    "TensorShapeProto": tensor_shape_pb2.TensorShapeProto,
}
MODULES = (model_server_config_pb2, model_status_pb2, prediction_pb2)
OURS: dict[str, type[Message]] = {
    name: getattr(module, name)
    for module in MODULES
    for name in module.DESCRIPTOR.message_types_by_name
}


def test_every_message_of_ours_has_an_official_one():
    assert OURS.keys() == OFFICIAL.keys()


def fields_with_theirs(
    ours: Descriptor, theirs: Descriptor, seen: set[str]
) -> Iterator[tuple[FieldDescriptor, FieldDescriptor]]:
    """Pair the fields of a message, and of the messages within it, by number."""
    if ours.full_name in seen:
        return
    seen.add(ours.full_name)
    for field in ours.fields:
        official = theirs.fields_by_number.get(field.number)
        assert official is not None, field.full_name
        yield field, official
        if field.message_type and official.message_type:
            yield from fields_with_theirs(field.message_type, official.message_type, seen)


def assert_same_values(ours: EnumDescriptor, theirs: EnumDescriptor) -> None:
    for name, value in ours.values_by_name.items():
        assert theirs.values_by_name[name].number == value.number, name


@pytest.mark.parametrize("name", OURS)
def test_every_field_has_the_official_number_name_and_type(name):
    pairs = list(fields_with_theirs(OURS[name].DESCRIPTOR, OFFICIAL[name].DESCRIPTOR, set()))
    assert pairs
    for ours, theirs in pairs:
        where = ours.full_name
        assert ours.name == theirs.name, where
        assert ours.is_repeated == theirs.is_repeated, where
        assert ours.is_packed == theirs.is_packed, where
        # We keep one of the official choices here and there; alone it needs no oneof.
        if ours.containing_oneof or not theirs.containing_oneof:
            assert ours.has_presence == theirs.has_presence, where
            assert (ours.containing_oneof is None) == (theirs.containing_oneof is None), where
        if where == "recsys.tfserving.v1.StatusProto.error_code":
            # An enum of codes: the same bytes as the int32 that we keep.
            assert (ours.type, theirs.type) == (ours.TYPE_INT32, theirs.TYPE_ENUM)
            continue
        assert ours.type == theirs.type, where
        if ours.enum_type:
            assert_same_values(ours.enum_type, theirs.enum_type)
        if ours.message_type:
            is_map = ours.message_type.GetOptions().map_entry
            assert is_map == theirs.message_type.GetOptions().map_entry, where


def test_the_data_types_have_the_official_numbers():
    theirs = types_pb2.DESCRIPTOR.enum_types_by_name["DataType"]
    assert_same_values(prediction_pb2.DESCRIPTOR.enum_types_by_name["DataType"], theirs)


_INT32 = st.integers(-(2**31), 2**31 - 1)
_INT64 = st.integers(-(2**63), 2**63 - 1)
_UINT32 = st.integers(0, 2**32 - 1)
_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=9),
    FieldDescriptor.TYPE_DOUBLE: st.floats(allow_nan=False),
    FieldDescriptor.TYPE_FLOAT: st.floats(width=32, allow_nan=False),
    FieldDescriptor.TYPE_INT32: _INT32,
    FieldDescriptor.TYPE_SINT32: _INT32,
    FieldDescriptor.TYPE_SINT64: _INT64,
    FieldDescriptor.TYPE_INT64: _INT64,
    FieldDescriptor.TYPE_STRING: st.text(max_size=5),
    FieldDescriptor.TYPE_UINT32: _UINT32,
    FieldDescriptor.TYPE_UINT64: st.integers(0, 2**64 - 1),
}
_DEPTH = 4


def values(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    """Values of one element of a field."""
    if field.type == field.TYPE_MESSAGE:
        return contents(field.message_type, depth - 1)
    if field.type == field.TYPE_ENUM:
        return st.sampled_from([value.number for value in field.enum_type.values])
    return _SCALARS[field.type]


def whole(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    """Values of a field as the constructor of its message takes them."""
    entry = field.message_type if field.type == field.TYPE_MESSAGE else None
    if entry and entry.GetOptions().map_entry:
        keys = values(entry.fields_by_name["key"], depth)
        return st.dictionaries(keys, values(entry.fields_by_name["value"], depth), max_size=2)
    one = values(field, depth)
    return st.lists(one, max_size=3) if field.is_repeated else one


def contents(descriptor: Descriptor, depth: int = _DEPTH) -> st.SearchStrategy[dict[str, Any]]:
    """Keyword arguments for a message: any of its fields, of a oneof the last that is given."""
    if depth == 0:
        return st.just({})
    fields = {field.name: field for field in descriptor.fields}
    if not fields:
        return st.just({})

    def chosen(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
        by_oneof = {
            fields[name].containing_oneof.name if fields[name].containing_oneof else name: name
            for name in names
        }
        return st.fixed_dictionaries(
            {name: whole(fields[name], depth) for name in by_oneof.values()}
        )

    return st.lists(st.sampled_from(sorted(fields)), max_size=4).flatmap(chosen)


def reread(kind: type[Message], message: Message) -> Message:
    return kind.FromString(message.SerializeToString(deterministic=True))


quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("name", OURS)
@quick
@given(data=st.data())
def test_an_official_message_survives_our_reading_and_writing(name, data):
    official = OFFICIAL[name](**data.draw(contents(OFFICIAL[name].DESCRIPTOR)))
    ours = reread(OURS[name], official)
    assert reread(OFFICIAL[name], ours) == official


@pytest.mark.parametrize("name", OURS)
@quick
@given(data=st.data())
def test_our_message_is_the_official_one_byte_for_byte(name, data):
    ours = OURS[name](**data.draw(contents(OURS[name].DESCRIPTOR)))
    official = reread(OFFICIAL[name], ours)
    ours_bytes = ours.SerializeToString(deterministic=True)
    assert official.SerializeToString(deterministic=True) == ours_bytes
    assert reread(OURS[name], official) == ours
