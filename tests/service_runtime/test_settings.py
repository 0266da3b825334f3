"""A wrong setting stops the process with the variable's name."""

import subprocess
import sys

import pytest
from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from service_runtime.errors import StartupError
from service_runtime.settings import ServerSettings, load_settings


class Settings(ServerSettings):
    model_config = SettingsConfigDict(env_prefix="SOME_SERVER_")


@pytest.fixture(autouse=True)
def valid(monkeypatch):
    monkeypatch.setenv("SOME_SERVER_PORT", "0")
    monkeypatch.setenv("SOME_SERVER_METRICS_PORT", "9101")


def test_settings_come_from_the_environment():
    settings = load_settings(Settings)
    assert (settings.port, settings.metrics_port, settings.log_format) == (0, 9101, "json")


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("SOME_SERVER_PORT", "70000", "SOME_SERVER_PORT: .*65535.*'70000'"),
        ("SOME_SERVER_PORT", "http", "SOME_SERVER_PORT: .*integer"),
        ("SOME_SERVER_LOG_LEVEL", "LOUD", "SOME_SERVER_LOG_LEVEL: "),
        ("SOME_SERVER_DRAIN_SECONDS", "-1", "SOME_SERVER_DRAIN_SECONDS: "),
        ("SOME_SERVER_DRAIN_SECONDS", "inf", "SOME_SERVER_DRAIN_SECONDS: "),
        ("SOME_SERVER_MAX_CONNECTION_AGE_SECONDS", "1e9", "SOME_SERVER_MAX_CONNECTION_AGE"),
        ("SOME_SERVER_PROT", "1", "SOME_SERVER_PROT: .*did you mean SOME_SERVER_PORT"),
        (
            "SOME_SERVER_ABCDEFGHIJKLMNOPQRS",
            "1",
            "SOME_SERVER_ABCDEFGHIJKLMNOPQRS: no such setting$",
        ),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch, variable, value, message):
    monkeypatch.setenv(variable, value)
    with pytest.raises(StartupError, match=message):
        load_settings(Settings)


def test_a_missing_setting_is_named(monkeypatch):
    monkeypatch.delenv("SOME_SERVER_PORT")
    with pytest.raises(StartupError, match="SOME_SERVER_PORT: Field required"):
        load_settings(Settings)


def test_settings_do_not_change():
    with pytest.raises(ValueError, match="frozen"):
        load_settings(Settings).port = 1


def test_a_server_with_a_wrong_setting_ends_with_one_line(monkeypatch):
    monkeypatch.setenv("RECOMMENDER_FAISS_SERVERS", "somewhere")
    ended = subprocess.run(
        [sys.executable, "-m", "recommender"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("RECOMMENDER_FAISS_SERVERS: ")
    assert ended.stderr.count("\n") == 1


class Secretive(Settings):
    password: SecretStr = Field(min_length=8)


@pytest.mark.parametrize("module", ["recommender", "tf_serving"])
def test_help_tells_settings_and_nobodys_values(module, monkeypatch):
    prefix = f"{module.upper()}_"
    monkeypatch.setenv("RECOMMENDER_REDIS_URL", "redis://u:s3cret@h")
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert f"{prefix}TRACES_ENDPOINT\n" in done.stdout
    assert f"{prefix}HOST\n    Address to listen on" in done.stdout
    assert "s3cret" not in done.stdout + done.stderr


def test_an_argument_is_refused():
    done = subprocess.run(
        [sys.executable, "-m", "recommender", "--port=1"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "--port=1: there are no arguments, set RECOMMENDER_*; see --help\n"


def test_a_secret_is_in_no_message(monkeypatch):
    with pytest.raises(StartupError, match=r"^SOME_SERVER_PASSWORD: Field required$"):
        load_settings(Secretive)
    monkeypatch.setenv("SOME_SERVER_PASSWORD", "s3cr3t")
    with pytest.raises(StartupError, match=r"^SOME_SERVER_PASSWORD: .* at least 8 ") as told:
        load_settings(Secretive)
    assert "s3cr3t" not in str(told.value)
    monkeypatch.setenv("SOME_SERVER_PASSWORD", "s3cret-enough")
    assert "s3cret" not in repr(load_settings(Secretive))
