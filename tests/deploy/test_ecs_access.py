"""Who may do what on ECS: no more than is named, and enough; tried where it can be."""

import fnmatch
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import redis.exceptions

from local_stack.redis import start_redis
from recommender.domain import View
from recommender.history import RedisHistory
from recommender.redis_client import connect_redis
from releases.errors import StoreError
from releases.layout import Part
from releases.serving import Reporter, current_reports
from releases.store import ReleaseStore
from releases.sync import Mirror
from tests.support.cloudformation import every, platform, serving
from tests.support.object_stores import AWS_ENVIRONMENT, Request, ScriptedS3, s3_server
from tests.support.redis_users import rules_of
from tests.support.releases import publish_tiny

below, stack = platform(), serving()
SECURITY_GROUP = "AWS::EC2::SecurityGroup"
NOBODY = "127.0.0.1/32"
"""As the only address that is let out to: an empty list would mean all."""


# Networks


def let_in() -> set[tuple[str, str, int]]:
    """Answer who is let into which security group at which port."""
    rules = [
        rule
        for each in (stack, below)
        for rule in each.of_type(f"{SECURITY_GROUP}Ingress").values()
    ]
    assert all(rule["FromPort"] == rule["ToPort"] for rule in rules)
    assert all(rule["IpProtocol"] == "tcp" for rule in rules)
    return {(rule["SourceSecurityGroupId"], rule["GroupId"], rule["FromPort"]) for rule in rules}


def test_only_named_callers_are_let_in():
    assert let_in() == {
        ("CallerSecurityGroup", "LoadBalancerSecurityGroup", 443),
        ("LoadBalancerSecurityGroup", "RecommenderSecurityGroup", 50051),
        ("WorkflowSecurityGroup", "RecommenderSecurityGroup", 50051),
        ("RecommenderSecurityGroup", "ModelServerSecurityGroup", 8500),
        ("RecommenderSecurityGroup", "FaissServerSecurityGroup", 50052),
        ("WorkflowSecurityGroup", "FaissServerSecurityGroup", 50052),
        ("RecommenderSecurityGroup", "RedisSecurityGroup", 6379),
        ("FaissServerSecurityGroup", "RedisSecurityGroup", 6379),
        ("TaskSecurityGroup", "EndpointSecurityGroup", 443),
        ("MonitoringSecurityGroup", "RecommenderSecurityGroup", 9101),
        ("MonitoringSecurityGroup", "FaissServerSecurityGroup", 9102),
        ("MonitoringSecurityGroup", "ModelServerSecurityGroup", 8501),
        ("MonitoringSecurityGroup", "ModelServerSecurityGroup", 9104),
    }


@pytest.mark.parametrize("where", [below, stack], ids=lambda where: where.name)
def test_no_rule_is_for_everybody(where):
    for each in every(where.template["Resources"]):
        assert each != "0.0.0.0/0"
        assert each != "::/0"
    for group in where.of_type(SECURITY_GROUP).values():
        assert "SecurityGroupIngress" not in group  # rules are resources of their own, see above


def test_servers_get_out_to_what_they_call_only():
    groups = stack.of_type(SECURITY_GROUP)
    out = {
        name.removesuffix("SecurityGroup"): {
            (rule.get("DestinationSecurityGroupId") or rule["CidrIp"], rule.get("FromPort"))
            for rule in group["SecurityGroupEgress"]
        }
        for name, group in groups.items()
    }
    assert out == {
        "LoadBalancer": {("RecommenderSecurityGroup", 50051)},
        "Recommender": {
            ("ModelServerSecurityGroup", 8500),
            ("FaissServerSecurityGroup", 50052),
            ("RedisSecurityGroup", 6379),
        },
        "ModelServer": {(NOBODY, None)},
        "FaissServer": {("RedisSecurityGroup", 6379)},
    }


def test_a_service_wears_its_own_group_and_that_of_all_tasks():
    for name, service in stack.of_type("AWS::ECS::Service").items():
        groups = service["NetworkConfiguration"]["AwsvpcConfiguration"]["SecurityGroups"]
        assert groups == [f"{name}SecurityGroup", "TaskSecurityGroup"]


# Rights


def policies() -> list[tuple[str, dict]]:
    found = []
    for each in (below, stack):
        for name, role in each.of_type("AWS::IAM::Role").items():
            found += [(name, policy["PolicyDocument"]) for policy in role["Policies"]]
        for name, policy in each.of_type("AWS::IAM::ManagedPolicy").items():
            found.append((name, policy["PolicyDocument"]))
    return found


def listed(value: object) -> list:
    return value if isinstance(value, list) else [value]


WITHOUT_RESOURCES = {"ecr:GetAuthorizationToken"}
"""Actions that AWS knows for all resources only."""


@pytest.mark.parametrize(("name", "policy"), policies(), ids=lambda value: str(value)[:25])
def test_policies_name_what_and_where(name, policy):
    for statement in policy["Statement"]:
        actions, resources = listed(statement["Action"]), listed(statement["Resource"])
        assert statement["Effect"] == "Allow"
        assert not {"NotAction", "NotResource"} & statement.keys()
        assert all(re.fullmatch(r"\w+:\w+", action) for action in actions)
        if "*" in resources:
            assert set(actions) <= WITHOUT_RESOURCES
    assert name


def test_recommenders_have_no_rights():
    assert "TaskRoleArn" not in stack.one("RecommenderTask")


@pytest.mark.parametrize("part", ["Recommender", "ModelServer", "FaissServer"])
def test_a_task_is_started_with_its_own_secrets_log_and_images(part):
    task = stack.one(f"{part}Task")
    assert task["ExecutionRoleArn"] == f"{part}ExecutionRole.Arn"
    (policy,) = stack.one(f"{part}ExecutionRole")["Policies"]
    may = [
        (action, resource)
        for statement in policy["PolicyDocument"]["Statement"]
        for action in listed(statement["Action"])
        for resource in listed(statement["Resource"])
    ]
    containers = task["ContainerDefinitions"]
    secrets = {secret["ValueFrom"] for each in containers for secret in each.get("Secrets", [])}
    assert {on for action, on in may if action.startswith("secretsmanager:")} == secrets
    assert {on for action, on in may if action.startswith("logs:")} == {f"{part}Log.Arn"}
    images = {each["Image"].partition("/")[2].partition(":")[0] for each in containers}
    pulled = {
        on.partition(":repository/")[2] for action, on in may if action == "ecr:BatchGetImage"
    }
    assert pulled == images


def allowed(role: str, action: str, resource: str) -> bool:
    return any(
        action in listed(statement["Action"])
        and any(fnmatch.fnmatchcase(resource, each) for each in listed(statement["Resource"]))
        for policy in stack.one(role)["Policies"]
        for statement in policy["PolicyDocument"]["Statement"]
    )


def action_of(request: Request) -> tuple[str, str]:
    """Name the right that a request needs, and on what; the keys of a DeleteObjects are unseen."""
    bucket, _, key = request.path.lstrip("/").partition("/")
    resource = f"arn:aws:s3:::{bucket}/{key}".rstrip("/")
    if not key and "delete" not in parse_qs(request.query, keep_blank_values=True):
        return "s3:ListBucket", resource
    action = {"GET": "GetObject", "HEAD": "GetObject", "PUT": "PutObject"}.get(request.method)
    return f"s3:{action or 'DeleteObject'}", resource


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedS3]:
    with s3_server() as server:
        for variable, value in AWS_ENVIRONMENT.items():
            monkeypatch.setenv(variable, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
        yield server


@pytest.mark.parametrize(
    ("role", "part"), [("ModelServerRole", Part.MODEL), ("FaissServerRole", Part.INDEX)]
)
def test_rights_suffice_to_follow_the_store_and_to_report(role, part, s3, tmp_path):
    bucket = f"store-of-{part.name.lower()}"
    url = s3.make_bucket(bucket)
    publish_tiny(ReleaseStore(url), tmp_path / "staging", 7)
    refused = []

    def judge(request: Request) -> str | None:
        action, resource = action_of(request)
        resource = resource.replace(f":::{bucket}", ":::Store")
        if action == "s3:DeleteObject" and request.method == "POST":
            resource += "/serving/unseen.json"
        if allowed(role, action, resource):
            return None
        refused.append((action, resource))
        return "403 Forbidden"

    s3.refuse = judge
    store = ReleaseStore(url)
    assert store.split() is None  # which asks for a file that is not there
    mirror = Mirror(store, tmp_path / "local", [part])
    assert [manifest.release for manifest in mirror.sync()] == [7]
    reporter = Reporter(store, "somebody")
    reporter.tell([7], [7], [])
    assert [report.server for report in current_reports(store)] == ["somebody"]
    reporter.take_back()
    assert current_reports(store) == []
    assert refused == []

    with pytest.raises(StoreError):
        store.withdraw(7)
    others = Part.INDEX if part is Part.MODEL else Part.MODEL
    assert not allowed(role, "s3:GetObject", f"arn:aws:s3:::Store/{others.value}/7/file")
    assert not allowed(role, "s3:PutObject", f"arn:aws:s3:::Store/{part.value}/7/file")


def test_the_store_is_closed_encrypted_and_cleaned_up():
    bucket = below.one("Store")
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert bucket["BucketEncryption"]
    aborts = [
        rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"]
        for rule in bucket["LifecycleConfiguration"]["Rules"]
        if "AbortIncompleteMultipartUpload" in rule and "Prefix" not in rule
    ]
    assert aborts == [1]
    (statement,) = below.one("StorePolicy")["PolicyDocument"]["Statement"]
    assert (statement["Effect"], statement["Action"]) == ("Deny", "s3:*")
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert statement["Resource"] == ["Store.Arn", "Store.Arn/*"]
    assert below.template["Resources"]["Store"]["DeletionPolicy"] == "Retain"


# Redis

USERS = {"RedisUser": "recommender", "FaissServerRedisUser": "faiss-server"}
each_user = pytest.mark.parametrize(("user", "name"), USERS.items())


def test_redis_is_encrypted_and_outlives_a_zone():
    group = below.one("Redis")
    assert group["TransitEncryptionEnabled"] is group["AtRestEncryptionEnabled"] is True
    assert group["TransitEncryptionMode"] == "required"
    assert group["MultiAZEnabled"] is group["AutomaticFailoverEnabled"] is True
    assert group["NumCacheClusters"] >= 2
    assert below.one("RedisParameters")["Properties"] == {"maxmemory-policy": "noeviction"}
    assert below.one("RedisUsers")["UserIds"] == list(USERS)
    assert group["UserGroupIds"] == ["RedisUsers"]


@each_user
def test_the_url_is_by_tls_with_the_users_password(user, name):
    told, prefix = below.one(user), user.removesuffix("User")
    password = f"{{{{resolve:secretsmanager:{prefix}Password:SecretString:password}}}}"
    address = "Redis.PrimaryEndPoint.Address:Redis.PrimaryEndPoint.Port"
    url = below.one(f"{prefix}Url")["SecretString"]
    assert url == f"rediss://{name}:{password}@{address}/0"
    assert told["UserName"] == name
    assert told["AuthenticationMode"] == {"Type": "password", "Passwords": [password]}
    # What stands in a URL unescaped.
    assert below.one(f"{prefix}Password")["GenerateSecretString"]["ExcludePunctuation"] is True
    client = connect_redis(url.replace(password, "aB9").replace(address, "example.com:6379"))
    options = client.connection_pool.connection_kwargs
    assert (options["username"], options["password"]) == (name, "aB9")
    assert client.connection_pool.connection_class.__name__ == "SSLConnection"


def test_the_document_says_how_long_a_name_may_be():
    longest = max(len(below.one(user)["UserId"]) - len(below.name) for user in USERS)
    assert f"{40 - longest} letters at the most" in Path("docs/ecs.md").read_text()


@pytest.fixture
async def user_of_redis(tmp_path: Path) -> AsyncIterator[str]:
    """The URL of a real server for the template's user."""
    user = below.one("RedisUser")
    acl = f"{user['UserName']} reset {user['AccessString']} >secret"
    process, url = start_redis(tmp_path / "redis", tmp_path / "redis.log", "--user", *acl.split())
    yield url.replace("redis://", f"redis://{user['UserName']}:secret@")
    process.stop()


@pytest.fixture
async def client(user_of_redis: str) -> AsyncIterator[Any]:
    client = connect_redis(user_of_redis)
    yield client
    await client.aclose()


@each_user
def test_the_users_are_those_of_other_deployments(user, name):
    assert set(below.one(user)["AccessString"].split()) == set(rules_of(name)) - {"resetkeys"}


async def test_the_user_may_do_what_histories_need(client):
    history = RedisHistory(client, ttl_seconds=60)
    await history.record("one", [View(5, 1000), View(6, 2000)], 2.0)
    assert await history.views("one", 2.0) == [View(6, 2000), View(5, 1000)]
    assert await history.article_ids(["one"], 2.0) == [[6, 5]]
    assert await history.article_ids(["one", "two"], 2.0) == [[6, 5], []]


@pytest.mark.parametrize(
    "command",
    ["KEYS *", "FLUSHALL", "CONFIG GET *", "DEL recsys:history:{a}", "ZRANGE b 0 -1", "ACL LIST"],
)
async def test_the_user_may_do_no_more(command, client):
    with pytest.raises(redis.exceptions.NoPermissionError):
        await client.execute_command(*command.split())
