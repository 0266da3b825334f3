"""What the templates say, as calls to ECS and Application Auto Scaling: boto3 checks their form,
moto what they refer to. Moto scales nothing by itself.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ParamValidationError  # type: ignore[import-untyped]
from botocore.validate import validate_parameters  # type: ignore[import-untyped]

from tests.support.cloudformation import SERVICES, serving
from tests.support.object_stores import ScriptedS3, s3_server

IN_THE_NETWORK = ("NetworkConfiguration", "LoadBalancers", "ServiceRegistries")
"""Moto wants to know the subnets; the form of these is looked at by itself."""
stack = serving()


@pytest.fixture(scope="module")
def moto() -> Iterator[ScriptedS3]:
    with s3_server() as server:
        yield server


def as_argument(node: Any) -> Any:
    """Spell properties as boto3 does: `TaskRoleArn` is `taskRoleArn`; log options stay."""
    if isinstance(node, dict):
        return {
            (key if "-" in key else key[0].lower() + key[1:]): as_argument(value)
            for key, value in node.items()
        }
    return [as_argument(each) for each in node] if isinstance(node, list) else node


def without(properties: dict, *names: str) -> dict:
    return {name: value for name, value in properties.items() if name not in names}


@pytest.fixture(scope="module")
def cluster(moto: ScriptedS3) -> Any:
    """ECS with the template's cluster, task definitions and services."""
    ecs = moto.client("ecs")
    ecs.create_cluster(clusterName=stack.one("Cluster")["ClusterName"])
    for name in SERVICES:
        task = as_argument(stack.one(f"{name}Task"))
        task["memory"] = str(task["memory"])
        registered = ecs.register_task_definition(**task)["taskDefinition"]
        service = as_argument(without(stack.one(name), *IN_THE_NETWORK, "TaskDefinition"))
        ecs.create_service(**service, taskDefinition=registered["taskDefinitionArn"])
    return ecs


def described(ecs: Any, name: str) -> dict:
    service = stack.one(name)
    answer = ecs.describe_services(cluster=service["Cluster"], services=[service["ServiceName"]])
    (found,) = answer["services"]
    return found


@pytest.mark.parametrize("name", SERVICES)
def test_ecs_takes_services_and_tasks(name, cluster):
    found = described(cluster, name)
    task = cluster.describe_task_definition(taskDefinition=found["taskDefinition"])
    wanted = stack.one(f"{name}Task")["ContainerDefinitions"]
    made = task["taskDefinition"]["containerDefinitions"]
    assert [each["name"] for each in made] == [each["Name"] for each in wanted]
    assert [each["stopTimeout"] for each in made] == [each["StopTimeout"] for each in wanted]


@pytest.mark.parametrize("name", SERVICES)
def test_the_scaling_takes_targets_and_policies(name, moto, cluster):
    scaling = moto.client("application-autoscaling")
    target = stack.one(f"{name}Scaling")
    scaling.register_scalable_target(**target)
    which = {"ServiceNamespace": "ecs", "ResourceIds": [target["ResourceId"]]}
    (registered,) = scaling.describe_scalable_targets(**which)["ScalableTargets"]
    assert registered["MinCapacity"] == target["MinCapacity"]
    assert registered["MaxCapacity"] == target["MaxCapacity"]
    of = {key: target[key] for key in ("ServiceNamespace", "ResourceId", "ScalableDimension")}
    for policy, tracking in stack.scaling(name).items():
        told = {"PolicyName": policy, "TargetTrackingScalingPolicyConfiguration": tracking}
        scaling.put_scaling_policy(**of, **told, PolicyType="TargetTrackingScaling")
    made = scaling.describe_scaling_policies(**without(of, "ScalableDimension"))["ScalingPolicies"]
    tracked = {
        each["PolicyName"]: each["TargetTrackingScalingPolicyConfiguration"] for each in made
    }
    assert tracked == stack.scaling(name)


@pytest.mark.parametrize("name", SERVICES)
def test_calls_are_of_the_form_that_aws_describes(name, moto):
    ecs = moto.client("ecs")
    form = ecs.meta.service_model.operation_model("CreateService").input_shape
    service = as_argument(stack.one(name))
    validate_parameters(service, form)
    with pytest.raises(ParamValidationError):
        validate_parameters(service | {"serviceRegistries": [{"registryName": "x"}]}, form)
