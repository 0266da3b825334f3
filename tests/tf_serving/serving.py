import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import grpc
import numpy as np
from numpy.typing import NDArray
from recsys.tfserving.v1 import model_status_pb2 as status_pb
from recsys.tfserving.v1 import prediction_pb2 as pb

from service_runtime.server import RunningServer
from service_runtime.tf_serving_api import GET_MODEL_STATUS, PREDICT, array_of, tensor_of
from tf_serving.config import ModelConfig, TfServingSettings
from tf_serving.errors import Code, LoadError
from tf_serving.servable import Model
from tf_serving.server import running_model_server
from tf_serving.signature import Array, Signature, TensorSpec
from tf_serving.versions import Latest, State, VersionPolicy

MODEL = "user_tower"


def server_settings(**changes: object) -> TfServingSettings:
    values = {
        "port": 0,
        "metrics_port": 0,
        "poll_seconds": 0.02,
        "drain_notice_seconds": 0,
        "model_config_file": "unused",
    }
    return TfServingSettings.model_validate(values | changes)


class Versions:
    """The base path of a model, changed as `releases pull` changes it: by renaming."""

    def __init__(self, base_path: Path) -> None:
        self.base_path = base_path
        base_path.mkdir()

    def add(self, version: int, source: Path) -> None:
        partial = self.base_path / f"{version}.partial"
        shutil.copytree(source, partial)
        partial.rename(self.base_path / str(version))

    def remove(self, version: int) -> None:
        gone = self.base_path / f"{version}.gone"
        (self.base_path / str(version)).rename(gone)
        shutil.rmtree(gone)


@dataclass
class Client:
    """Speaks to a model server through our own messages."""

    channel: grpc.aio.Channel
    server: RunningServer | None = None

    async def status(self, name: str = MODEL) -> dict[int, status_pb.ModelVersionStatus]:
        method = self.channel.unary_unary(
            GET_MODEL_STATUS,
            status_pb.GetModelStatusRequest.SerializeToString,
            status_pb.GetModelStatusResponse.FromString,
        )
        try:
            response = await method(
                status_pb.GetModelStatusRequest(model_spec=pb.ModelSpec(name=name))
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return {}
            raise
        return {entry.version: entry for entry in response.model_version_status}

    async def until(self, wanted: Mapping[int, State]) -> dict[int, status_pb.ModelVersionStatus]:
        """Wait for states; the wire has no event for them."""
        async with asyncio.timeout(30):
            while True:
                found = await self.status()
                if {version: State(entry.state) for version, entry in found.items()} == wanted:
                    return found
                await asyncio.sleep(0.01)

    async def predict(
        self, history: NDArray[np.int64], *, version: int | None = None, seconds: float | None = 30
    ) -> tuple[int, dict[str, Array]]:
        request = pb.PredictRequest(model_spec=pb.ModelSpec(name=MODEL))
        if version is not None:
            request.model_spec.version.value = version
        request.inputs["history"].CopyFrom(tensor_of(history))
        request.inputs["region"].CopyFrom(tensor_of(np.full(len(history), -1, np.int64)))
        method = self.channel.unary_unary(
            PREDICT, pb.PredictRequest.SerializeToString, pb.PredictResponse.FromString
        )
        response = await method(request, timeout=seconds)
        outputs = {name: array_of(tensor) for name, tensor in response.outputs.items()}
        return response.model_spec.version.value, outputs


@asynccontextmanager
async def model_server(
    base_path: Path,
    load: Callable[[Path], Model],
    *,
    policy: VersionPolicy | None = None,
    labels: dict[str, int] | None = None,
    settings: TfServingSettings | None = None,
) -> AsyncIterator[Client]:
    """A real server on a free port, and a client of it."""
    config = ModelConfig(MODEL, base_path, policy or Latest(2), labels or {})
    async with (
        running_model_server(settings or server_settings(), (config,), load) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        yield Client(channel, server)


HISTORY = np.full((1, 50), -1, np.int64)


@dataclass
class FakeModel:
    """Answers its number; waits for the gate first."""

    number: int
    gate: Event
    entered: Event = field(default_factory=Event)
    signature_def_map: bytes = b""
    signatures: Mapping[str, Signature] = field(
        default_factory=lambda: {
            "serving_default": Signature(
                {
                    "history": TensorSpec(np.dtype(np.int64), (None, 50)),
                    "region": TensorSpec(np.dtype(np.int64), (None,)),
                },
                frozenset({"number"}),
            )
        }
    )

    def run(
        self, _name: str, inputs: Mapping[str, Array], _only: Sequence[str]
    ) -> dict[str, Array]:
        self.entered.set()
        assert self.gate.wait(30)
        return {"number": np.full(len(inputs["history"]), self.number, np.int64)}


class FakeLoads:
    """Loads fakes from directories that hold a file `number`, and remembers what it did."""

    def __init__(self) -> None:
        self.models: dict[int, FakeModel] = {}
        self.attempts: list[int] = []
        self.most_at_once = 0
        self.gates: dict[int, Event] = {}

    def __call__(self, directory: Path) -> FakeModel:
        version = int(directory.name)
        self.attempts.append(version)
        text = (directory / "number").read_text()
        if text == "broken":
            raise LoadError(Code.DATA_LOSS, "it is broken")
        if text == "absurd":
            raise RuntimeError("nobody foresaw this")
        model = self.models[version] = FakeModel(int(text), self.gate(version))
        return model

    def gate(self, version: int) -> Event:
        """The gate of a version, open from the start."""
        if version not in self.gates:
            self.gates[version] = Event()
            self.gates[version].set()
        return self.gates[version]


DIMENSION = 4
VOCABULARY = 100


@dataclass
class SavedModels:
    """Real SavedModels of the design's signature; each scales its vectors by its number."""

    directory: Path

    def scaled_by(self, scale: int) -> Path:
        path = self.directory / str(scale)
        if not path.exists():
            _save(path, scale)
        return path


def expected(history: NDArray[np.int64], scale: int) -> dict[str, NDArray[np.number]]:
    """What the real model answers: the mean of the known ids, in every dimension, scaled."""
    known = (history >= 0) & (history < VOCABULARY)
    count = known.sum(axis=1)
    mean = np.where(known, history, 0).sum(axis=1) / np.maximum(count, 1)
    vector = np.repeat(mean[:, None] * scale, DIMENSION, axis=1).astype(np.float32)
    return {"user_vector": vector, "known": count.astype(np.int32)}


def _save(path: Path, scale: int) -> None:
    import tensorflow as tf  # noqa: PLC0415 - takes seconds, and not every test needs it

    class UserTower(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            ids = np.arange(VOCABULARY, dtype=np.int64)
            initializer = tf.lookup.KeyValueTensorInitializer(ids, ids)
            self.vocabulary = tf.lookup.StaticHashTable(initializer, -1)
            self.scale = tf.Variable(float(scale))

        @tf.function(
            input_signature=[
                tf.TensorSpec([None, 50], tf.int64, name="history"),
                tf.TensorSpec([None], tf.int64, name="region"),
            ],
            autograph=False,
        )
        def serve(self, history, region):
            rows = tf.debugging.assert_equal(tf.shape(history)[0], tf.shape(region)[0])
            with tf.control_dependencies([rows]):
                index = self.vocabulary.lookup(history)
            known = tf.cast(index >= 0, tf.float32)
            count = tf.reduce_sum(known, axis=1)
            total = tf.reduce_sum(tf.cast(index, tf.float32) * known, axis=1)
            mean = total / tf.maximum(count, 1.0) * self.scale
            vector = tf.repeat(mean[:, None], DIMENSION, axis=1)
            return {"user_vector": vector, "known": tf.cast(count, tf.int32)}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def halve(self, x):
            return {"half": x / 2}

    module = UserTower()
    signatures = {"serving_default": module.serve, "halve": module.halve}
    tf.saved_model.save(module, str(path), signatures=signatures)
