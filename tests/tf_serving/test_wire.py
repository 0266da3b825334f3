"""The official client talks to the server, which serves real SavedModels."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import numpy as np
import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow import make_ndarray, make_tensor_proto
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import (  # noqa: TID251 - the official client is the yardstick
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tests.tf_serving.serving import MODEL, SavedModels, Versions, expected, model_server
from tf_serving.model import load_model
from tf_serving.tensors import MAX_ELEMENTS
from tf_serving.versions import State

pytestmark = pytest.mark.asyncio(loop_scope="module")

CODE = grpc.StatusCode


@dataclass
class Official:
    """The official stubs, over a server with versions 5 and 7; 7 is labelled "canary"."""

    channel: grpc.aio.Channel
    saved_models: SavedModels

    def __post_init__(self) -> None:
        self.predictions = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)

    async def predict(self, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
        return await self.predictions.Predict(request, timeout=30)

    async def metadata(self, request: get_model_metadata_pb2.GetModelMetadataRequest):
        return await self.predictions.GetModelMetadata(request, timeout=30)

    async def status(self, request: get_model_status_pb2.GetModelStatusRequest):
        return await self.models.GetModelStatus(request, timeout=30)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def official(tmp_path_factory, saved_models) -> AsyncIterator[Official]:
    versions = Versions(tmp_path_factory.mktemp("served") / MODEL)
    versions.add(5, saved_models.scaled_by(5))
    versions.add(7, saved_models.scaled_by(7))
    labels = {"canary": 7, "gone": 3}
    async with model_server(versions.base_path, load_model, labels=labels) as client:
        await client.until({5: State.AVAILABLE, 7: State.AVAILABLE})
        yield Official(client.channel, saved_models)


HISTORIES = np.full((3, 50), -1, np.int64)
HISTORIES[0, :4] = (7, 9, 11, 10_000)
HISTORIES[1, :50] = np.arange(50)


def request_of(*, history=HISTORIES, region=None, **spec: object) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = str(spec.get("name", MODEL))
    if "version" in spec:
        request.model_spec.version.value = spec["version"]
    if "label" in spec:
        request.model_spec.version_label = spec["label"]
    request.model_spec.signature_name = str(spec.get("signature", ""))
    region = np.full(len(history), -1, np.int64) if region is None else region
    request.inputs["history"].CopyFrom(make_tensor_proto(history))
    request.inputs["region"].CopyFrom(make_tensor_proto(region))
    return request


@pytest.mark.parametrize(
    ("spec", "version"),
    [({}, 7), ({"version": 5}, 5), ({"version": 7}, 7), ({"label": "canary"}, 7)],
)
async def test_predict_answers_by_latest_version_or_label_and_echoes_which(official, spec, version):
    response = await official.predict(request_of(**spec))
    assert response.model_spec.name == MODEL
    assert response.model_spec.version.value == version
    assert response.model_spec.signature_name == "serving_default"
    wanted = expected(HISTORIES, version)
    assert response.outputs.keys() == wanted.keys()
    for name, array in wanted.items():
        answered = make_ndarray(response.outputs[name])
        assert answered.dtype == array.dtype
        np.testing.assert_allclose(answered, array, rtol=1e-6)


async def test_outputs_are_sent_value_by_value_as_the_official_server_does(official):
    response = await official.predict(request_of())
    vector, known = response.outputs["user_vector"], response.outputs["known"]
    assert not vector.tensor_content
    assert len(vector.float_val) == 12
    assert list(known.int_val) == [3, 50, 0]


async def test_inputs_may_come_value_by_value_and_a_single_value_fills_the_tensor(official):
    request = request_of(history=HISTORIES[:1])
    history = tensor_pb2.TensorProto(dtype=types_pb2.DT_INT64, int64_val=HISTORIES[0])
    history.tensor_shape.dim.add(size=1)
    history.tensor_shape.dim.add(size=50)
    request.inputs["history"].CopyFrom(history)
    answer = await official.predict(request)
    assert list(answer.outputs["known"].int_val) == [3]
    del history.int64_val[:]
    history.int64_val.append(8)
    request.inputs["history"].CopyFrom(history)
    answer = await official.predict(request)
    assert list(answer.outputs["known"].int_val) == [50]


async def test_an_empty_batch_gets_an_empty_answer(official):
    response = await official.predict(request_of(history=HISTORIES[:0]))
    assert make_ndarray(response.outputs["user_vector"]).shape == (0, 4)


async def test_the_output_filter_leaves_out_the_rest(official):
    request = request_of()
    request.output_filter.append("known")
    assert (await official.predict(request)).outputs.keys() == {"known"}


async def test_another_signature_is_chosen_by_name(official):
    request = request_of(signature="halve")
    request.inputs.clear()
    request.inputs["x"].CopyFrom(make_tensor_proto(np.array([3.0], np.float32)))
    response = await official.predict(request)
    assert response.model_spec.signature_name == "halve"
    assert list(response.outputs["half"].float_val) == [1.5]


async def test_metadata_is_the_signatures_of_the_saved_model(official):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = MODEL
    request.model_spec.version.value = 5
    response = await official.metadata(request)
    assert (response.model_spec.name, response.model_spec.version.value) == (MODEL, 5)
    answered = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(answered)
    file = official.saved_models.scaled_by(5) / "saved_model.pb"
    (graph,) = saved_model_pb2.SavedModel.FromString(file.read_bytes()).meta_graphs
    assert answered.signature_def.keys() == graph.signature_def.keys()
    for name, signature in graph.signature_def.items():
        assert answered.signature_def[name] == signature


async def test_status_tells_all_versions_newest_first_or_the_one_asked_for(official):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = MODEL
    response = await official.status(request)
    states = [(entry.version, entry.state) for entry in response.model_version_status]
    available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
    assert states == [(7, available), (5, available)]
    request.model_spec.version.value = 5
    response = await official.status(request)
    (entry,) = response.model_version_status
    assert (entry.version, entry.state, entry.status.error_code) == (5, available, 0)


def with_input(name: str, array: np.ndarray) -> predict_pb2.PredictRequest:
    request = request_of()
    request.inputs[name].CopyFrom(make_tensor_proto(array))
    return request


def without_input(name: str) -> predict_pb2.PredictRequest:
    request = request_of()
    del request.inputs[name]
    return request


def filtered(*names: str) -> predict_pb2.PredictRequest:
    request = request_of()
    request.output_filter.extend(names)
    return request


def shaped(*sizes: int, unknown_rank: bool = False) -> predict_pb2.PredictRequest:
    request = request_of()
    tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_INT64, int64_val=[1])
    tensor.tensor_shape.unknown_rank = unknown_rank
    for size in sizes:
        tensor.tensor_shape.dim.add(size=size)
    request.inputs["history"].CopyFrom(tensor)
    return request


BAD_PREDICTIONS = {
    "no model_spec": (
        predict_pb2.PredictRequest(), CODE.INVALID_ARGUMENT, "Missing ModelSpec",
    ),
    "no name": (
        request_of(name=""), CODE.INVALID_ARGUMENT, "ModelSpec has no name specified.",
    ),
    "unknown model": (
        request_of(name="other"), CODE.NOT_FOUND, "Servable not found for request: Latest(other)",
    ),
    "unknown version": (
        request_of(version=6), CODE.NOT_FOUND,
        "Servable not found for request: Specific(user_tower, 6)",
    ),
    "unknown label": (
        request_of(label="stable"), CODE.INVALID_ARGUMENT,
        "Unrecognized servable version label: stable",
    ),
    "label of a version that is not there": (
        request_of(label="gone"), CODE.NOT_FOUND,
        "Servable not found for request: Specific(user_tower, 3)",
    ),
    "unknown signature": (
        request_of(signature="train"), CODE.FAILED_PRECONDITION,
        'Serving signature key "train" not found.',
    ),
    "missing input": (
        without_input("region"), CODE.INVALID_ARGUMENT,
        "Sent extra: {}. Missing but required: {region}.",
    ),
    "unexpected input": (
        with_input("extra", np.zeros(1, np.int64)), CODE.INVALID_ARGUMENT,
        "Sent extra: {extra}. Missing but required: {}.",
    ),
    "wrong type": (
        with_input("history", HISTORIES.astype(np.int32)), CODE.INVALID_ARGUMENT,
        "input history: expected int64 but int32 is provided",
    ),
    "type that no input has": (
        with_input("history", np.array([["x"] * 50])), CODE.INVALID_ARGUMENT,
        "tensor parsing error: history",
    ),
    "wrong shape": (
        with_input("history", HISTORIES[:, :49]), CODE.INVALID_ARGUMENT,
        "input history: shape (3, 49) is not compatible with (-1, 50)",
    ),
    "wrong rank": (
        with_input("history", HISTORIES[0]), CODE.INVALID_ARGUMENT, "shape (50,)",
    ),
    "values that the graph refuses": (
        with_input("region", np.zeros(2, np.int64)), CODE.INVALID_ARGUMENT,
        "assertion failed: [Condition x == y did not hold",
    ),
    "shape of unknown rank": (
        shaped(unknown_rank=True), CODE.INVALID_ARGUMENT, "tensor parsing error: history",
    ),
    "size that is not known": (
        shaped(-1, 50), CODE.INVALID_ARGUMENT, "tensor parsing error: history",
    ),
    "more values than memory": (
        shaped(2**62, 50), CODE.INVALID_ARGUMENT, f"more than {MAX_ELEMENTS} values",
    ),
    "unknown output": (
        filtered("score"), CODE.INVALID_ARGUMENT,
        "output tensor alias not found in signature: score",
    ),
    "output twice": (
        filtered("known", "known"), CODE.INVALID_ARGUMENT, "duplicate output tensor alias: known",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_PREDICTIONS)
async def test_a_bad_predict_gets_the_official_code_and_a_message_that_names_the_fault(
    official, case
):
    request, code, message = BAD_PREDICTIONS[case]
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await official.predict(request)
    assert (raised.value.code(), message in str(raised.value.details())) == (code, True), raised
    assert "internal" not in str(raised.value.details()).lower()


def metadata_request(*fields: str, name: str = MODEL, version: int | None = None):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    request.model_spec.name = name
    if version is not None:
        request.model_spec.version.value = version
    return request


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (get_model_metadata_pb2.GetModelMetadataRequest(), CODE.INVALID_ARGUMENT, "Missing Model"),
        (metadata_request(), CODE.INVALID_ARGUMENT, "must specify at least one metadata_field"),
        (metadata_request("graph"), CODE.INVALID_ARGUMENT, "Metadata field graph is not supported"),
        (metadata_request("signature_def", name="other"), CODE.NOT_FOUND, "Latest(other)"),
        (metadata_request("signature_def", version=6), CODE.NOT_FOUND, "Specific(user_tower, 6)"),
    ],
)
async def test_a_bad_metadata_request_gets_the_official_code(official, request_, code, message):
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await official.metadata(request_)
    assert raised.value.code() is code
    assert message in raised.value.details()


@pytest.mark.parametrize(
    ("spec", "code", "message"),
    [
        (None, CODE.INVALID_ARGUMENT, "Missing ModelSpec"),
        ({"name": "other"}, CODE.NOT_FOUND, "Could not find any versions of model other"),
        (
            {"name": MODEL, "version": {"value": 6}},
            CODE.NOT_FOUND,
            "Could not find version 6 of model user_tower",
        ),
    ],
)
async def test_a_bad_status_request_gets_the_official_code(official, spec, code, message):
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await official.status(get_model_status_pb2.GetModelStatusRequest(model_spec=spec))
    assert (raised.value.code(), raised.value.details()) == (code, message)


async def test_methods_that_the_stand_in_lacks_are_unimplemented(official):
    for method in ("Classify", "Regress", "MultiInference"):
        call = official.channel.unary_unary(f"/tensorflow.serving.PredictionService/{method}")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(b"")
        assert raised.value.code() is CODE.UNIMPLEMENTED


async def test_bytes_that_are_no_request_are_refused_as_an_invalid_argument(official):
    for method in ("PredictionService/Predict", "ModelService/GetModelStatus"):
        call = official.channel.unary_unary(f"/tensorflow.serving.{method}")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(b"\xff\xff\xff")
        assert raised.value.code() is CODE.INVALID_ARGUMENT


sizes = st.one_of(st.integers(-2, 4), st.just(50), st.just(2**40))
shapes = st.one_of(st.lists(sizes, max_size=3), st.tuples(st.integers(0, 3), st.just(50)))
dtypes = st.one_of(
    st.just(types_pb2.DT_INT64), st.sampled_from(types_pb2.DataType.values()), st.just(999)
)
longs = st.integers(-(2**63), 2**63 - 1)
contents = st.one_of(st.just(b""), st.binary(max_size=16), st.just(bytes(8 * 50)))


@st.composite
def tensors(draw) -> tensor_pb2.TensorProto:
    tensor = tensor_pb2.TensorProto(
        dtype=draw(dtypes),
        tensor_content=draw(contents),
        int64_val=draw(st.one_of(st.lists(longs, max_size=3), st.just(range(50)))),
        float_val=draw(st.lists(st.floats(width=32), max_size=3)),
        int_val=draw(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3)),
        bool_val=draw(st.lists(st.booleans(), max_size=3)),
        string_val=draw(st.lists(st.binary(max_size=3), max_size=2)),
    )
    for size in draw(shapes):
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_shape.unknown_rank = draw(st.sampled_from([False, False, False, True]))
    return tensor


names = st.sampled_from(["history", "region", "x", ""])
inputs = st.one_of(
    st.fixed_dictionaries({"history": tensors(), "region": tensors()}),
    st.dictionaries(names, tensors(), max_size=3),
)


@settings(max_examples=150, deadline=None)
@given(inputs=inputs, filters=st.lists(st.sampled_from(["known", "user_vector", "?"]), max_size=2))
async def test_any_input_gets_an_answer_or_invalid_argument_and_the_server_goes_on(
    official, inputs, filters
):
    request = predict_pb2.PredictRequest(output_filter=filters)
    request.model_spec.name = MODEL
    for name, tensor in inputs.items():
        request.inputs[name].CopyFrom(tensor)
    try:
        response = await official.predict(request)
    except grpc.aio.AioRpcError as error:
        if error.code() is not CODE.INVALID_ARGUMENT or not error.details():
            raise
    else:
        assert response.model_spec.version.value == 7
    good = await official.predict(request_of())
    assert list(good.outputs["known"].int_val) == [3, 50, 0]
