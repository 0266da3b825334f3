import re
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf import wrappers_pb2 as _wrappers  # noqa: F401 - into the pool

from service_runtime.errors import StartupError
from service_runtime.settings import load_settings
from tf_serving.config import ModelConfig, TfServingSettings, read_model_config
from tf_serving.versions import All, Latest, Specific

SHIPPED = Path(__file__).parents[2] / "tf_serving"


def test_the_shipped_model_config_serves_the_two_latest_releases_of_the_user_tower():
    (model,) = read_model_config(SHIPPED / "models.config")
    assert model == ModelConfig("user_tower", Path("/releases/models/user_tower"), Latest(2))


def test_the_official_messages_read_the_shipped_model_config_the_same_way():
    from tensorflow_serving.config import model_server_config_pb2  # noqa: PLC0415, TID251 - the official reader

    text = (SHIPPED / "models.config").read_text()
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    assert (model.name, model.base_path) == ("user_tower", "/releases/models/user_tower")
    assert model.model_platform == "tensorflow"
    assert model.model_version_policy.latest.num_versions == 2


def message_class(name: str, fields: dict[str, tuple[int, str]], *dependencies: str):
    """A message that no Python package carries, from TensorFlow Serving's .proto."""
    file = descriptor_pb2.FileDescriptorProto(
        name=f"test/{name}.proto", package="test", syntax="proto3",
        dependency=["google/protobuf/wrappers.proto", *dependencies],
    )  # fmt: skip
    field_type = descriptor_pb2.FieldDescriptorProto.Type
    message = file.message_type.add(name=name)
    for field, (number, kind) in fields.items():
        added = message.field.add(name=field, number=number)
        added.label = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
        if kind.startswith("."):
            added.type, added.type_name = field_type.Value("TYPE_MESSAGE"), kind
        else:
            added.type = field_type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"test.{name}"))


def test_the_shipped_batching_parameters_are_fields_of_the_official_message():
    int64 = ".google.protobuf.Int64Value"
    names = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
    kind = message_class(
        "BatchingParameters", {name: (at, int64) for at, name in enumerate(names, start=1)}
    )
    parameters = text_format.Parse((SHIPPED / "batching.config").read_text(), kind())
    # Half a millisecond of the 10 that an answer may take.
    assert 0 < parameters.batch_timeout_micros.value <= 1000
    assert parameters.num_batch_threads.value == 2


def test_the_shipped_monitoring_config_puts_metrics_where_prometheus_looks():
    prometheus = message_class("PrometheusConfig", {"enable": (1, "bool"), "path": (2, "string")})
    kind = message_class(
        "MonitoringConfig",
        {"prometheus_config": (1, ".test.PrometheusConfig")},
        prometheus.DESCRIPTOR.file.name,
    )
    config = text_format.Parse((SHIPPED / "monitoring.config").read_text(), kind())
    assert config.prometheus_config.enable
    assert config.prometheus_config.path == "/monitoring/prometheus/metrics"


def test_every_file_that_the_image_is_started_with_is_copied_into_it():
    text = (SHIPPED / "Dockerfile").read_text()
    copied = re.search(r"^COPY (.+) (/\S+/)$", text, re.MULTILINE)
    assert copied
    inside = {copied[2] + name for name in copied[1].split()}
    assert all((SHIPPED / name).is_file() for name in copied[1].split())
    assert set(re.findall(r"--\w+_file=(/[^\"]+)", text)) == inside


def config_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "models.config"
    path.write_text(text)
    return path


CONFIG = 'config { name: "m" base_path: "/m" model_platform: "tensorflow" }'


def one(extra: str = "", *, name: str = "m", base_path: str = "/m", platform: str = "tensorflow"):
    return (
        f'model_config_list {{ config {{ name: "{name}" base_path: "{base_path}" '
        f'model_platform: "{platform}" {extra} }} }}'
    )


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("", Latest(1)),
        ("model_version_policy { latest { } }", Latest(1)),
        ("model_version_policy { latest { num_versions: 3 } }", Latest(3)),
        ("model_version_policy { all { } }", All()),
        (
            "model_version_policy { specific { versions: 4 versions: 2 } }",
            Specific(frozenset({2, 4})),
        ),
    ],
)
def test_version_policies_are_read(tmp_path, policy, expected):
    (model,) = read_model_config(config_file(tmp_path, one(policy)))
    assert model.policy == expected


def test_labels_are_read(tmp_path):
    text = one('version_labels { key: "stable" value: 7 } version_labels { key: "new" value: 8 }')
    (model,) = read_model_config(config_file(tmp_path, text))
    assert model.labels == {"stable": 7, "new": 8}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model_config_list {\n  config {\n    title: 'm'\n", "models.config:3:"),
        ("model_config_list {", "models.config:1:"),
        ("", "model_config_list has no config"),
        (one(name=""), "a config has no name"),
        (one(base_path="models"), "model m: base_path 'models' is not an absolute path"),
        (one(platform="pytorch"), "model m: model_platform is 'pytorch'"),
        ("model_config_list {" + 2 * CONFIG + "}", "model m is listed 2 times"),
    ],
)
def test_a_bad_model_config_is_refused_in_one_line_that_names_setting_and_place(
    tmp_path, text, message
):
    path = config_file(tmp_path, text)
    with pytest.raises(StartupError, match=re.escape(message)) as raised:
        read_model_config(path)
    assert str(raised.value).startswith(f"TF_SERVING_MODEL_CONFIG_FILE: {path}")
    assert "\n" not in str(raised.value)


def test_a_missing_model_config_is_named(tmp_path):
    with pytest.raises(StartupError, match=r"TF_SERVING_MODEL_CONFIG_FILE: cannot read .*absent"):
        read_model_config(tmp_path / "absent")


def test_a_model_config_that_is_no_text_is_named(tmp_path):
    path = tmp_path / "models.config"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StartupError, match="TF_SERVING_MODEL_CONFIG_FILE: cannot read"):
        read_model_config(path)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TF_SERVING_THREADS", "0"),
        ("TF_SERVING_POLL_SECONDS", "-1"),
        ("TF_SERVING_PORT", "http"),
        ("TF_SERVING_POL_SECONDS", "1"),
    ],
)
def test_a_bad_setting_is_refused_by_its_name(monkeypatch, variable, value):
    monkeypatch.setenv("TF_SERVING_MODEL_CONFIG_FILE", "/models.config")
    monkeypatch.setenv(variable, value)
    with pytest.raises(StartupError, match=f"^{variable}"):
        load_settings(TfServingSettings)


def test_the_model_config_file_is_required(monkeypatch):
    monkeypatch.delenv("TF_SERVING_MODEL_CONFIG_FILE", raising=False)
    with pytest.raises(StartupError, match=r"^TF_SERVING_MODEL_CONFIG_FILE: Field required"):
        load_settings(TfServingSettings)


def test_the_ports_are_those_of_the_design(monkeypatch):
    monkeypatch.setenv("TF_SERVING_MODEL_CONFIG_FILE", "/models.config")
    settings = load_settings(TfServingSettings)
    assert (settings.port, settings.metrics_port) == (8500, 9103)
