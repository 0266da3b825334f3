"""What is written is the text of TensorFlow Serving's message; its package has no Python for it."""

import subprocess
import sys

import pytest
import trustme
from google.protobuf import text_format
from recsys.tfserving.v1 import ssl_config_pb2

from tests.support.certificates import Files


def run(*arguments) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tf_serving.ssl_config", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def files(tmp_path) -> Files:
    ca = trustme.CA()
    return Files(tmp_path / "certificates").write(ca.issue_cert("model-server"), ca)


@pytest.mark.parametrize("with_ca", [True, False])
def test_the_file_holds_the_pem_texts(files, tmp_path, with_ca):
    out = tmp_path / "ssl.config"
    client_ca = ["--client-ca", files.ca] if with_ca else []
    done = run("--cert", files.certificate, "--key", files.key, "--out", out, *client_ca)
    assert done.returncode == 0, done.stderr
    names = [line.split(":")[0] for line in out.read_text().splitlines()]
    official = ["server_key", "server_cert", *["custom_ca", "client_verify"][: 2 * with_ca]]
    assert names == official  # what is not set is false
    read = text_format.Parse(out.read_text(), ssl_config_pb2.SSLConfig())
    assert read.server_cert == files.certificate.read_text()
    assert read.server_key == files.key.read_text()
    assert read.custom_ca == (files.ca.read_text() if with_ca else "")
    assert read.client_verify == with_ca
    assert out.stat().st_mode & 0o077 == 0
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["ssl.config"]


def test_what_does_not_belong_together_is_refused(files, tmp_path):
    ca = trustme.CA()
    others = Files(tmp_path / "others").write(ca.issue_cert("model-server"), ca)
    out = tmp_path / "ssl.config"
    done = run("--cert", files.certificate, "--key", others.key, "--out", out)
    assert (done.returncode, out.exists()) == (1, False)
    assert "KEY_VALUES_MISMATCH" in done.stderr
    done = run("--cert", tmp_path / "none.pem", "--key", files.key, "--out", out)
    assert done.returncode == 1
    assert done.stderr.endswith("none.pem: No such file or directory\n")
