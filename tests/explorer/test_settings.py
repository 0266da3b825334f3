import os
import subprocess
import sys

import pytest

from explorer.channels import read_tls
from explorer.config import ExplorerSettings, Target, load_settings, parse_targets
from explorer.errors import StartupError
from explorer.titles import read_titles


def test_by_default_it_listens_here_only_and_asks_the_ports_of_make_up():
    settings = load_settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8080)
    assert settings.recommender == "127.0.0.1:50051"
    assert settings.faiss_servers == "127.0.0.1:50052"
    assert settings.model_servers == "127.0.0.1:8500"
    assert settings.example_users == ()


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("EXPLORER_PORT", "many", "EXPLORER_PORT: "),
        ("EXPLORER_PORT", "70000", "EXPLORER_PORT: "),
        ("EXPLORER_DEADLINE_SECONDS", "0", "EXPLORER_DEADLINE_SECONDS: "),
        ("EXPLORER_RECOMMENDER", "here", "EXPLORER_RECOMMENDER: .*'here' is not host:port"),
        ("EXPLORER_RECOMMENDER", "a:1,b:2", "EXPLORER_RECOMMENDER: .*one host:port"),
        ("EXPLORER_FAISS_SERVERS", "a:1,,b:2", "EXPLORER_FAISS_SERVERS: .*'' is not host:port"),
        ("EXPLORER_MODEL_SERVERS", "a:0", "EXPLORER_MODEL_SERVERS: .*'a:0' is not host:port"),
        ("EXPLORER_FAISS_SERVER", "a:1", "no such setting; did you mean EXPLORER_FAISS_SERVERS?"),
    ],
)
def test_a_bad_value_is_told_by_the_variables_name(monkeypatch, variable, value, message):
    monkeypatch.setenv(variable, value)
    with pytest.raises(StartupError, match=message):
        load_settings()


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch):
    monkeypatch.setenv("EXPLORER_ITEMS", "")
    assert load_settings().items is None


def test_targets_by_name_and_by_both_kinds_of_address():
    assert parse_targets("faiss:1, 127.0.0.2:2,[::1]:3") == (
        Target("faiss", 1),
        Target("127.0.0.2", 2),
        Target("::1", 3),
    )
    assert str(Target("::1", 3)) == "[::1]:3"


@pytest.mark.parametrize(
    "text", ["item,title\n1,a\n", "item_id,title\nx,a\n", "item_id\n1\n", "item_id,title\n,\n"]
)
def test_a_csv_of_another_form_is_refused(tmp_path, text):
    path = tmp_path / "items.csv"
    path.write_text(text)
    with pytest.raises(StartupError, match=r"^EXPLORER_ITEMS: .*is no CSV of item_id,title"):
        read_titles(path)


def test_a_csv_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(StartupError, match=r"^EXPLORER_ITEMS: .*No such file"):
        read_titles(tmp_path / "none.csv")


def test_certificates_that_cannot_be_used_are_refused(tmp_path):
    broken = tmp_path / "ca.pem"
    broken.write_text("no certificate")
    for settings, message in (
        (ExplorerSettings(tls_ca_file=broken), r"EXPLORER_TLS_\*_FILE"),
        (ExplorerSettings(tls_ca_file=tmp_path / "none"), r"EXPLORER_TLS_\*_FILE: .*none: No such"),
        (ExplorerSettings(tls_cert_file=broken), "EXPLORER_TLS_CA_FILE"),
        (ExplorerSettings(tls_ca_file=broken, tls_key_file=broken), "one needs the other"),
    ):
        with pytest.raises(StartupError, match=message):
            read_tls(settings)


def explorer(*arguments, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "explorer", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_the_process_ends_with_one_line_that_names_the_variable():
    ended = explorer(EXPLORER_PORT="many")
    assert ended.returncode == 1
    assert ended.stderr.startswith("EXPLORER_PORT: ")
    assert ended.stderr.count("\n") == 1


def test_help_lists_the_settings():
    ended = explorer("--help")
    assert ended.returncode == 0
    assert all(f"EXPLORER_{name.upper()}" in ended.stdout for name in ExplorerSettings.model_fields)
