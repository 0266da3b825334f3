"""The servers on ECS: they scale, drain, and are told nothing they do not know."""

import inspect
import re
import shlex
import typing
from pathlib import Path

import pytest
import yaml

from faiss_server.config import FaissServerSettings
from pipeline.rollout_command import rollout_command
from recommender.addresses import parse_targets
from recommender.config import RecommenderSettings
from service_runtime import cloudwatch
from service_runtime.settings import ServerSettings, load_settings
from tests.support.cloudformation import ENVIRONMENTS, SERVICES, platform, serving

OURS: dict[str, type[ServerSettings]] = {
    "Recommender": RecommenderSettings,
    "FaissServer": FaissServerSettings,
}
"""Services whose server is ours, with its settings."""
SPARE_SECONDS = 10
"""From the end of the drain until a process must be gone."""
DNS_ADDRESSES = 8
"""Of a name with routing policy MULTIVALUE, Route 53 answers with so many at the most."""

stack = serving()


def service(name: str) -> dict:
    return stack.one(name)


def containers(name: str) -> dict[str, dict]:
    """Of a service's tasks, by their names."""
    return {each["Name"]: each for each in stack.one(f"{name}Task")["ContainerDefinitions"]}


def server(name: str) -> dict:
    """Answer the container that answers calls."""
    return containers(name)[service(name)["ServiceName"]]


def all_containers() -> list[tuple[str, dict]]:
    return [(name, container) for name in SERVICES for container in containers(name).values()]


def environment(container: dict) -> dict[str, str]:
    return {each["Name"]: each["Value"] for each in container.get("Environment", [])}


each_service = pytest.mark.parametrize("name", SERVICES)
each_container = pytest.mark.parametrize(
    ("name", "container"), all_containers(), ids=lambda value: str(value)[:9]
)


def test_these_are_all_services():
    assert set(stack.of_type("AWS::ECS::Service")) == set(SERVICES)
    assert len(stack.of_type("AWS::ECS::TaskDefinition")) == len(SERVICES)


# Scaling


@each_service
@pytest.mark.parametrize("where", ENVIRONMENTS)
def test_each_service_scales_from_two_tasks_on(name, where):
    target = serving(where).one(f"{name}Scaling")
    cluster, of = service(name)["Cluster"], service(name)["ServiceName"]
    assert target["ResourceId"] == f"service/{cluster.replace('production', where)}/{of}"
    assert target["ScalableDimension"] == "ecs:service:DesiredCount"
    assert 2 <= target["MinCapacity"] < target["MaxCapacity"]


@each_service
def test_each_service_scales_by_cpu_and_ours_by_calls_in_flight_too(name, monkeypatch):
    found = stack.scaling(name)
    assert found["cpu"]["PredefinedMetricSpecification"] == {
        "PredefinedMetricType": "ECSServiceAverageCPUUtilization"
    }
    assert 0 < found["cpu"]["TargetValue"] < 50
    if name in OURS:
        told = settings(name, monkeypatch)
        assert 0 < told.cloudwatch_metrics_seconds <= 60
        assert found["calls-in-flight"]["CustomizedMetricSpecification"] == {
            "Namespace": cloudwatch.NAMESPACE,
            "MetricName": cloudwatch.IN_FLIGHT,
            "Dimensions": [
                {"Name": "Service", "Value": told.service_name},
                {"Name": "Stack", "Value": told.cloudwatch_stack},
            ],
            "Statistic": "Average",
        }
    assert set(found) == ({"cpu", "calls-in-flight"} if name in OURS else {"cpu"})


def test_policies_track_targets():
    found = stack.of_type("AWS::ApplicationAutoScaling::ScalingPolicy").values()
    assert {policy["PolicyType"] for policy in found} == {"TargetTrackingScaling"}


@each_service
def test_tasks_come_quickly_and_go_slowly(name):
    for policy in stack.scaling(name).values():
        assert policy["ScaleOutCooldown"] < grace_seconds(name)
        assert policy["ScaleInCooldown"] >= 600
        assert policy["DisableScaleIn"] is False


def grace_seconds(name: str) -> int:
    """For how long a new task may be unhealthy."""
    return service(name).get("HealthCheckGracePeriodSeconds") or int(
        server(name)["HealthCheck"]["StartPeriod"]
    )


@each_service
def test_a_deployment_leaves_the_number_of_tasks_to_the_scaling(name):
    assert "DesiredCount" not in service(name)


@each_service
def test_services_have_a_name_with_an_address_for_each_task(name):
    discovery = stack.one(f"{name}Name")
    assert discovery["Name"] == service(name)["ServiceName"]
    assert discovery["DnsConfig"]["RoutingPolicy"] == "MULTIVALUE"
    (record,) = discovery["DnsConfig"]["DnsRecords"]
    assert record["Type"] == "A"
    assert record["TTL"] <= 5
    assert service(name)["ServiceRegistries"] == [{"RegistryArn": f"{name}Name.Arn"}]


@pytest.mark.parametrize("name", ["ModelServer", "FaissServer"])
def test_dns_tells_all_addresses_of_a_backend_in_a_deployment_too(name):
    # Callers reach recommenders by the load balancer.
    parameters = stack.template["Parameters"]
    least, most = parameters[f"{name}Min"]["MinValue"], parameters[f"{name}Max"]["MaxValue"]
    percent = service(name)["DeploymentConfiguration"]["MaximumPercent"]
    assert most * percent // 100 <= DNS_ADDRESSES < (most + 1) * percent // 100
    assert least * percent // 100 > least  # there is room for the first new task
    assert parameters[f"{name}Min"]["MaxValue"] == most


# Starting, draining, health


def settings(name: str, monkeypatch: pytest.MonkeyPatch) -> typing.Any:
    """Read the environment of a container as its server does."""
    given = image_environment(server(name)) | environment(server(name))
    given |= {secret["Name"]: "redis://secret" for secret in server(name).get("Secrets", [])}
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    return load_settings(OURS[name])


@pytest.mark.parametrize("name", OURS)
def test_settings_are_known_to_the_servers(name, monkeypatch):
    read = settings(name, monkeypatch)
    assert read.host == "0.0.0.0"
    assert {read.port, read.metrics_port} == {
        port["ContainerPort"] for port in server(name)["PortMappings"]
    }


@pytest.mark.parametrize("name", OURS)
def test_servers_are_told_of_all_that_they_are_told_of_by_compose(name):
    compose = yaml.safe_load(Path("docker-compose.yml").read_text())["services"]
    others = {
        variable
        for variable in compose[service(name)["ServiceName"]]["environment"]
        if variable.endswith(("_URL", "_STORE", "_SERVERS"))
    }
    assert others
    secrets = {secret["Name"] for secret in server(name).get("Secrets", [])}
    assert others <= environment(server(name)).keys() | secrets


def test_recommenders_ask_the_names_that_there_are(monkeypatch):
    read = settings("Recommender", monkeypatch)
    space = stack.one("Names")["Name"]
    for text, name in ((read.model_servers, "ModelServer"), (read.faiss_servers, "FaissServer")):
        (target,) = parse_targets(text)
        assert target.host == f"{stack.one(f'{name}Name')['Name']}.{space}"
        ports = {port["ContainerPort"] for port in server(name)["PortMappings"]}
        assert target.port in ports


def test_recommenders_need_no_place_to_write(monkeypatch):
    # Several workers share their metrics by files in /tmp, which is read-only.
    assert settings("Recommender", monkeypatch).workers == 1


def test_servers_and_side_car_follow_the_same_store(monkeypatch):
    store = platform().outputs()["StoreUrl"]
    assert settings("FaissServer", monkeypatch).store == store
    assert environment(containers("ModelServer")["model-pull"])["RELEASES_STORE"] == store


@pytest.mark.parametrize("name", OURS)
def test_there_is_time_for_notice_and_drain(name, monkeypatch):
    read = settings(name, monkeypatch)
    needed = read.drain_notice_seconds + read.drain_seconds + SPARE_SECONDS
    assert server(name)["StopTimeout"] >= needed
    assert read.drain_seconds > read.default_deadline_seconds


def test_the_load_balancer_lets_go_before_a_recommender_does(monkeypatch):
    read = settings("Recommender", monkeypatch)
    delay = int(target_attributes()["deregistration_delay.timeout_seconds"])
    assert read.default_deadline_seconds < delay
    assert delay <= read.drain_notice_seconds + read.drain_seconds


def target_attributes() -> dict[str, str]:
    attributes = stack.one("Recommenders")["TargetGroupAttributes"]
    return {each["Key"]: each["Value"] for each in attributes}


@each_service
def test_the_gate_opens_when_healthy_and_ends_first(name, monkeypatch):
    gate = containers(name)["gate"]
    assert gate["DependsOn"] == [
        {"ContainerName": service(name)["ServiceName"], "Condition": "HEALTHY"}
    ]
    assert gate["Essential"] is False
    # As the first process of its container, without a handler, it does not hear SIGTERM.
    assert gate["Command"] == ["sleep", "infinity"]
    assert gate["LinuxParameters"]["InitProcessEnabled"] is False
    (record,) = stack.one(f"{name}Name")["DnsConfig"]["DnsRecords"]
    resolve = settings("Recommender", monkeypatch).resolve_seconds
    assert gate["StopTimeout"] > record["TTL"] + resolve


@each_container
def test_each_container_that_answers_is_asked_for_its_health(name, container):
    if container["Name"] == "gate":
        return
    check = container["HealthCheck"]
    assert check["Command"][0] == "CMD"
    assert check["Timeout"] < check["Interval"]
    assert container["Essential"] is True
    if name in OURS:
        assert check["Command"] == health_command()
        assert "HEALTH_PROBE_ADDRESS" in image_environment(container)


def test_the_model_server_starts_once_there_is_a_model():
    wanted = [{"ContainerName": "model-pull", "Condition": "HEALTHY"}]
    assert server("ModelServer")["DependsOn"] == wanted
    compose = yaml.safe_load(Path("docker-compose.yml").read_text())["services"]["model-pull"]
    pull = containers("ModelServer")["model-pull"]
    assert pull["HealthCheck"]["Command"] == compose["healthcheck"]["test"]
    assert shlex.join(pull["Command"]).startswith("python -m releases pull --watch 1 ")
    assert compose["command"][:4] == pull["Command"][:4]


def test_the_load_balancer_speaks_grpc_by_tls_and_asks_for_health():
    group = stack.one("Recommenders")
    assert group["ProtocolVersion"] == "GRPC"
    assert group["HealthCheckPath"] == "/grpc.health.v1.Health/Check"
    assert group["Matcher"] == {"GrpcCode": "0"}
    assert group["HealthCheckTimeoutSeconds"] < group["HealthCheckIntervalSeconds"]
    listener = stack.one("Listener")
    assert listener["Protocol"] == "HTTPS"
    assert listener["Certificates"] == [{"CertificateArn": stack.parameters["CertificateArn"]}]
    assert stack.one("LoadBalancer")["Scheme"] == "internal"
    (balanced,) = service("Recommender")["LoadBalancers"]
    assert balanced["TargetGroupArn"] == "Recommenders"
    assert balanced["ContainerName"] == "recommender"
    assert balanced["ContainerPort"] == group["Port"]
    assert service("Recommender")["HealthCheckGracePeriodSeconds"] > 0


@each_service
def test_a_bad_deployment_is_brought_back_and_nobody_misses_a_task_of_a_good_one(name):
    configuration = service(name)["DeploymentConfiguration"]
    assert configuration["DeploymentCircuitBreaker"] == {"Enable": True, "Rollback": True}
    assert configuration["MinimumHealthyPercent"] == 100
    assert configuration["MaximumPercent"] > 100


def test_recommenders_come_after_what_they_need():
    needed = stack.template["Resources"]["Recommender"]["DependsOn"]
    assert set(needed) == {"Listener", "ModelServer", "FaissServer"}


# Containers


def stages() -> dict[str, list[str]]:
    """Answer the lines of each stage of our Dockerfile."""
    text = Path("deploy/images/Dockerfile").read_text().replace("\\\n", " ")
    parts = re.split(r"^FROM \S+ AS (\S+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], map(str.splitlines, parts[2::2]), strict=True))


def lines_of(container: dict) -> list[str]:
    image = re.fullmatch(r".+/recsys-([\w-]+):[\w.-]+", container["Image"])
    assert image is not None
    return stages()["runtime"] + stages()[image[1]]


def image_environment(container: dict) -> dict[str, str]:
    settings = [line.split()[1:] for line in lines_of(container) if line.startswith("ENV ")]
    pairs = [pair.split("=", 1) for pairs in settings for pair in pairs]
    return {name: value for name, value in pairs if name != "PATH"}


def health_command() -> list[str]:
    (line,) = [line for line in stages()["runtime"] if line.startswith("HEALTHCHECK ")]
    return ["CMD", *yaml.safe_load(line.partition("CMD ")[2])]


@each_container
def test_containers_can_do_little(name, container):
    assert container["ReadonlyRootFilesystem"] is True
    assert container["LinuxParameters"]["Capabilities"] == {"Drop": ["ALL"]}
    assert container.get("Privileged", False) is False
    assert container["User"] not in {"", "0", "root", "0:0"}
    file = Path("tf_serving/Dockerfile").read_text().splitlines()
    official = container["Image"].partition("/")[2].startswith("recsys-tensorflow-serving:")
    users = [line for line in (file if official else lines_of(container)) if line[:5] == "USER "]
    assert users == [f"USER {container['User']}"]
    (limit,) = container["Ulimits"]
    assert limit["Name"] == "nofile"


@each_container
def test_what_is_written_is_written_to_volumes_that_the_image_gives_to_its_user(name, container):
    volumes = {volume["Name"] for volume in stack.one(f"{name}Task").get("Volumes", [])}
    for mount in container.get("MountPoints", []):
        assert mount["SourceVolume"] in volumes
        if not mount["ReadOnly"]:
            text = "\n".join(lines_of(container))
            assert f'"{mount["ContainerPath"]}"' in text.partition("\nVOLUME ")[2]
            assert re.search(rf"install .*owner=recsys.* {mount['ContainerPath']}\b", text)


@each_container
def test_logs_go_to_the_services_own_group(name, container):
    logs = container["LogConfiguration"]
    assert logs["LogDriver"] == "awslogs"
    assert logs["Options"]["awslogs-group"] == f"{name}Log"
    assert logs["Options"]["awslogs-stream-prefix"] == container["Name"]
    assert logs["Options"]["mode"] == "non-blocking"
    assert stack.one(f"{name}Log")["RetentionInDays"] in {7, 14, 30, 60, 90}


@each_container
def test_no_secret_is_in_plain_environment(name, container):
    for variable, value in environment(container).items():
        assert not re.search(r"PASSWORD|SECRET|TOKEN|REDIS_URL|ACCESS_KEY", variable)
        assert not re.search(r"://[^/]*:[^/]*@|resolve:", value)
    secrets = container.get("Secrets", [])
    wanted = {
        "recommender": [{"Name": "RECOMMENDER_REDIS_URL", "ValueFrom": "RedisUrl"}],
        "faiss-server": [{"Name": "FAISS_SERVER_REDIS_URL", "ValueFrom": "FaissServerRedisUrl"}],
    }
    assert secrets == wanted.get(container["Name"], [])


@pytest.mark.parametrize("name", SERVICES)
def test_tasks_are_in_private_subnets_of_two_zones(name):
    network = service(name)["NetworkConfiguration"]["AwsvpcConfiguration"]
    assert network["AssignPublicIp"] == "DISABLED"
    assert network["Subnets"] == ["SubnetA", "SubnetB"]
    below = platform()
    zones = {subnet["AvailabilityZone"] for subnet in below.of_type("AWS::EC2::Subnet").values()}
    assert len(zones) == 2
    kinds = {resource["Type"] for resource in below.template["Resources"].values()}
    assert not kinds & {"AWS::EC2::InternetGateway", "AWS::EC2::NatGateway"}


# `pipeline rollout`


def test_rollout_finds_what_the_stack_has():
    options = inspect.signature(rollout_command).parameters
    named = options["services"].default
    assert tuple(service(name)["ServiceName"] for name in SERVICES) == named
    outputs = stack.outputs()
    assert tuple(outputs["Services"].split()) == named
    assert outputs["Cluster"] == stack.one("Cluster")["ClusterName"]
    (target,) = parse_targets(outputs["Recommender"])
    assert target.host == f"{stack.one('RecommenderName')['Name']}.{stack.one('Names')['Name']}"
    assert typing.get_type_hints(rollout_command)["services"] == tuple[str, str, str]
