"""Loading of real SavedModels: warm-up requests, and what is wrong with the broken ones."""

import asyncio
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import make_tensor_proto
from tensorflow_serving.apis import (  # noqa: TID251 - warm-up files are made with the official messages
    classification_pb2,
    predict_pb2,
    prediction_log_pb2,
)

from releases.layout import WARMUP_FILE
from tests.tf_serving.serving import HISTORY, MODEL, Versions, expected, model_server
from tf_serving import warmup
from tf_serving.errors import Code, LoadError
from tf_serving.model import LoadedModel, load_model
from tf_serving.versions import State


@pytest.fixture
def directory(tmp_path, saved_models) -> Path:
    versions = Versions(tmp_path / MODEL)
    versions.add(1, saved_models.scaled_by(1))
    return versions.base_path / "1"


def write_warmup(directory: Path, records: Iterable[bytes]) -> Path:
    path = directory / WARMUP_FILE
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    return path


def predict_record(*, history=HISTORY, signature: str = "", name: str = "history") -> bytes:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = MODEL
    request.model_spec.signature_name = signature
    request.inputs[name].CopyFrom(make_tensor_proto(history))
    request.inputs["region"].CopyFrom(make_tensor_proto(np.full(len(history), -1, np.int64)))
    log = prediction_log_pb2.PredictLog(request=request)
    return prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString()


def test_warm_up_requests_are_run_before_the_model_is_answered(directory, monkeypatch):
    write_warmup(directory, [predict_record(), predict_record(signature="serving_default")])
    ran = []
    run = LoadedModel.run
    monkeypatch.setattr(LoadedModel, "run", lambda *args: ran.append(args[1]) or run(*args))
    load_model(directory)
    assert ran == ["serving_default", "serving_default"]


CLASSIFY = prediction_log_pb2.PredictionLog(
    classify_log=prediction_log_pb2.ClassifyLog(request=classification_pb2.ClassificationRequest())
).SerializeToString()


@pytest.mark.parametrize(
    ("record", "code", "message"),
    [
        (b"\xff\xff", Code.INVALID_ARGUMENT, "failed to parse"),
        (CLASSIFY, Code.INVALID_ARGUMENT, "has no predict_log"),
        (predict_record(signature="train"), Code.FAILED_PRECONDITION, '"train" not found'),
        (predict_record(name="past"), Code.INVALID_ARGUMENT, "Missing but required: {history}"),
        (predict_record(history=HISTORY[:, :3]), Code.INVALID_ARGUMENT, "shape (1, 3)"),
    ],
)
def test_a_bad_warm_up_record_fails_the_load_and_is_named(directory, record, code, message):
    path = write_warmup(directory, [predict_record(), record])
    with pytest.raises(LoadError) as raised:
        load_model(directory)
    assert raised.value.code is code
    assert f"warm-up record 2 of {path}" in str(raised.value)
    assert message in str(raised.value)


def test_a_warm_up_file_that_is_no_tfrecord_fails_the_load(directory):
    path = directory / WARMUP_FILE
    path.parent.mkdir()
    path.write_bytes(b"this is not the format that is expected here")
    with pytest.raises(LoadError, match="is not a TFRecord file") as raised:
        load_model(directory)
    assert raised.value.code is Code.DATA_LOSS


def test_more_warm_up_records_than_the_official_server_takes_fail_the_load(directory, monkeypatch):
    monkeypatch.setattr(warmup, "MAX_RECORDS", 2)
    write_warmup(directory, [predict_record()] * 3)
    with pytest.raises(LoadError, match=r"warm-up record 3 of .* is more than 2 allow"):
        load_model(directory)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def only_file(directory: Path, pattern: str) -> Path:
    (path,) = directory.glob(pattern)
    return path


def without_tags(path: Path) -> None:
    from tensorflow.core.protobuf import saved_model_pb2  # noqa: PLC0415 - used here alone

    saved_model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    saved_model.meta_graphs[0].meta_info_def.tags[:] = ["train"]
    path.write_bytes(saved_model.SerializeToString())


@pytest.mark.parametrize(
    ("file", "damage", "code"),
    [
        ("saved_model.pb", Path.unlink, Code.NOT_FOUND),
        ("saved_model.pb", cut, Code.DATA_LOSS),
        ("saved_model.pb", without_tags, Code.NOT_FOUND),
        ("variables/variables.index", Path.unlink, Code.NOT_FOUND),
        # TensorFlow's own reader gives no better code for this one.
        ("variables/variables.data*", Path.unlink, Code.UNKNOWN),
        ("variables/variables.index", cut, Code.DATA_LOSS),
    ],
)
def test_a_damaged_saved_model_is_refused_with_a_code(directory, file, damage, code):
    damage(only_file(directory, file))
    with pytest.raises(LoadError) as raised:
        load_model(directory)
    assert raised.value.code is code, str(raised.value)
    assert str(raised.value)


def test_a_model_of_types_that_are_not_supported_is_refused(tmp_path):
    class Shouter(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
        def shout(self, text):
            return {"loud": tf.strings.upper(text)}

    module = Shouter()
    tf.saved_model.save(module, str(tmp_path / "1"), signatures={"serving_default": module.shout})
    with pytest.raises(LoadError, match="serving_default, tensor loud: string is not supported"):
        load_model(tmp_path / "1")


@pytest.mark.parametrize("of_tensorflow_2", [True, False])
def test_loops_run_as_tensorflow_2_and_as_tensorflow_1_wrote_them(tmp_path, of_tensorflow_2):
    v1 = tf.compat.v1
    (v1.enable_control_flow_v2 if of_tensorflow_2 else v1.disable_control_flow_v2)()
    try:
        with v1.Session(graph=v1.Graph()) as session:
            x = v1.placeholder(tf.float32, [None])
            start = [tf.constant(0), x]
            _, y = v1.while_loop(lambda i, _: i < 3, lambda i, v: (i + 1, v * 2.0), start)
            v1.saved_model.simple_save(session, str(tmp_path / "1"), {"x": x}, {"y": y})
    finally:
        v1.enable_control_flow_v2()
    model = load_model(tmp_path / "1")
    outputs = model.run("serving_default", {"x": np.array([1, 2], np.float32)}, ())
    assert outputs["y"].tolist() == [8, 16]


async def test_a_broken_real_version_is_refused_while_the_old_one_serves(
    versions, saved_models, tmp_path
):
    versions.add(1, saved_models.scaled_by(1))
    async with model_server(versions.base_path, load_model) as client:
        await client.until({1: State.AVAILABLE})
        broken = Versions(tmp_path / "broken")
        broken.add(2, saved_models.scaled_by(2))
        only_file(broken.base_path, "2/variables/variables.index").unlink()
        versions.add(2, broken.base_path / "2")
        found = await client.until({1: State.AVAILABLE, 2: State.END})
        assert found[2].status.error_code == Code.NOT_FOUND
        assert (await client.predict(HISTORY))[0] == 1


KNOWN = np.arange(50, dtype=np.int64)[None]


async def test_a_new_real_release_takes_over_under_load_without_a_failed_or_mixed_answer(
    versions, saved_models
):
    versions.add(1, saved_models.scaled_by(1))
    done = asyncio.Event()
    seen = set[int]()

    async with model_server(versions.base_path, load_model) as client:
        await client.until({1: State.AVAILABLE})

        async def ask() -> None:
            while not done.is_set():
                version, outputs = await client.predict(KNOWN)
                wanted = expected(KNOWN, version)["user_vector"]
                np.testing.assert_allclose(outputs["user_vector"], wanted, rtol=1e-6)
                seen.add(version)

        asking = [asyncio.create_task(ask()) for _ in range(4)]
        for version in (2, 3):
            versions.add(version, saved_models.scaled_by(version))
            ended = dict.fromkeys(range(1, version - 1), State.END)
            both = {version - 1: State.AVAILABLE, version: State.AVAILABLE}
            await client.until(ended | both)
        while 3 not in seen:
            await asyncio.sleep(0.01)
        done.set()
        await asyncio.gather(*asking)
    assert seen == {1, 2, 3}
