"""The model server's health check on ECS, run against what TensorFlow Serving would say."""

import http.server
import subprocess
import threading

import pytest

from tests.support.cloudformation import serving

ANSWERS = {
    b'{"model_version_status": [{"version": "7", "state": "AVAILABLE"}]}': 0,
    b'{"model_version_status": [{"version": "7", "state": "LOADING"}]}': 1,
    b'{"error": "Could not find any versions of model user_tower"}': 1,
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_the_model_server_is_healthy_with_a_model(answer):
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        done = health_of_the_model_server(server.server_port)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert done.returncode == ANSWERS[answer], done.stderr
    assert asked == ["/v1/models/user_tower"]
    assert health_of_the_model_server(server.server_port).returncode == 1


def health_of_the_model_server(port: int) -> subprocess.CompletedProcess[str]:
    containers = serving().one("ModelServerTask")["ContainerDefinitions"]
    (check,) = (each["HealthCheck"] for each in containers if each["Name"] == "model-server")
    mode, *command, script = check["Command"]
    assert mode == "CMD"
    moved = script.replace("/127.0.0.1/8501", f"/127.0.0.1/{port}")
    assert moved != script
    return subprocess.run([*command, moved], capture_output=True, text=True, check=False, timeout=5)
