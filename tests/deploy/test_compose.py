"""The compose files, as far as no engine is needed."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from faiss_server.config import FaissServerSettings
from recommender.config import RecommenderSettings
from service_runtime.settings import ServerSettings
from tf_serving.config import TfServingSettings

FILES = [Path("docker-compose.yml"), *sorted(Path("deploy/compose").glob("*.yml"))]
SETTINGS: list[type[ServerSettings]] = [FaissServerSettings, RecommenderSettings, TfServingSettings]


class Loader(yaml.SafeLoader):  # type: ignore[misc] # yaml has no types
    """Knows Compose's tag for taking a value away, and refuses a name that is there twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if key.value != "<<"]
        assert len(set(names)) == len(names), f"{node.start_mark}: {names}"
        return super().construct_mapping(node, deep)


Loader.add_constructor("!reset", lambda _loader, _node: None)


def services(path: Path) -> dict[str, dict[str, Any]]:
    return yaml.load(path.read_text(), Loader)["services"]


def variables() -> Iterator[tuple[Path, str]]:
    for path in FILES:
        for service in services(path).values():
            yield from ((path, name) for name in service.get("environment", {}))


@pytest.mark.parametrize("kind", SETTINGS)
def test_servers_are_told_what_they_know(kind):
    prefix = kind.model_config["env_prefix"]
    known = {f"{prefix}{field}".upper() for field in kind.model_fields}
    told = {(path, name) for path, name in variables() if name.startswith(prefix)}
    assert told
    assert {name for _, name in told} <= known


def test_every_container_has_a_limit_time_to_end_and_no_more_rights_than_it_needs():
    whole = {name: dict(service) for name, service in services(FILES[0]).items()}
    whole |= {
        name: service
        for name, service in services(Path("deploy/compose/tracing.yml")).items()
        if "image" in service
    }
    for name, service in whole.items():
        assert "mem_limit" in service, name
        if name in {"redis", "model-server"}:  # their images write, and are not ours
            continue
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_prometheus_finds_the_stand_in_where_tensorflow_serving_would_be():
    jobs = yaml.safe_load(Path("deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    [job] = [job for job in jobs if job["job_name"] == "model-server"]
    [names] = job["dns_sd_configs"]
    stand_in = services(Path("deploy/compose/stand-in.yml"))["model-server"]
    assert stand_in["environment"]["TF_SERVING_METRICS_PORT"] == str(names["port"])


def test_nothing_is_published_beyond_this_machine():
    for path in FILES:
        for name, service in services(path).items():
            for port in service.get("ports", []):
                assert port.startswith("127.0.0.1:"), (path, name)


def test_the_collector_s_pipeline_has_the_parts_it_names():
    told = yaml.safe_load(Path("deploy/otel/collector.yml").read_text())
    pipeline = told["service"]["pipelines"]["traces"]
    assert pipeline["processors"][0] == "memory_limiter"
    for kind in ("receivers", "processors"):
        assert set(pipeline[kind]) == set(told[kind])
    service = services(Path("deploy/compose/tracing.yml"))["otel-collector"]
    wanted = set(re.findall(r"\$\{env:(\w+)\}", Path("deploy/otel/collector.yml").read_text()))
    assert wanted == set(service["environment"])
    assert service["environment"]["TRACES_EXPORTER"] == "${TRACES_EXPORTER:-debug}"
    assert {"debug", "otlp"} == set(told["exporters"])
