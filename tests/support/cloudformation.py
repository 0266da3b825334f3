"""Templates of deploy/ecs with everything resolved that can be known without AWS."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from cfnlint.decode import decode

__all__ = ["ECS", "ENVIRONMENTS", "SERVICES", "Stack", "every", "platform", "serving"]

ECS: Final = Path("deploy/ecs")
ENVIRONMENTS: Final = ("staging", "production")
SERVICES: Final = ("ModelServer", "FaissServer", "Recommender")
_PSEUDO: Final = {
    "AWS::AccountId": "123456789012",
    "AWS::Partition": "aws",
    "AWS::Region": "eu-central-1",
    "AWS::URLSuffix": "amazonaws.com",
}


@dataclass(frozen=True)
class Stack:
    """One template with the parameters of one environment."""

    name: str
    template: Mapping[str, Any]
    parameters: Mapping[str, str]
    exports: Mapping[str, str]
    """What other stacks export, by name."""

    def of_type(self, kind: str) -> dict[str, Any]:
        """Answer the properties of all resources of a type, resolved, by their names."""
        return {
            name: self.resolved(resource.get("Properties", {}))
            for name, resource in self.template["Resources"].items()
            if resource["Type"] == kind
        }

    def one(self, name: str) -> Any:
        """Answer the properties of one resource, resolved."""
        return self.resolved(self.template["Resources"][name]["Properties"])

    def scaling(self, service: str) -> dict[str, Any]:
        """Answer the target tracking of a service, by the name of the policy."""
        return {
            policy["PolicyName"]: policy["TargetTrackingScalingPolicyConfiguration"]
            for policy in self.of_type("AWS::ApplicationAutoScaling::ScalingPolicy").values()
            if policy["ScalingTargetId"] == f"{service}Scaling"
        }

    def outputs(self) -> dict[str, str]:
        """Answer the outputs."""
        return {name: self.resolved(o["Value"]) for name, o in self.template["Outputs"].items()}

    def exported(self) -> dict[str, str]:
        """Answer what this stack exports, by name."""
        return {
            self.resolved(output["Export"]["Name"]): self.resolved(output["Value"])
            for output in self.template["Outputs"].values()
            if "Export" in output
        }

    def resolved(self, node: Any) -> Any:
        """Replace intrinsic functions; a resource becomes its name, or `Resource.Attribute`."""
        if isinstance(node, dict):
            if len(node) == 1:
                ((function, argument),) = node.items()
                if function == "Ref":
                    return self._reference(argument)
                if function.startswith("Fn::"):
                    return self._call(function.removeprefix("Fn::"), argument)
            return {key: self.resolved(value) for key, value in node.items()}
        if isinstance(node, list):
            return [self.resolved(each) for each in node]
        return node

    def _call(self, function: str, argument: Any) -> Any:
        match function:
            case "GetAtt":
                return self._attribute(argument)
            case "Sub" if isinstance(argument, list):
                return self._substitute(argument[0], self.resolved(argument[1]))
            case "Sub":
                return self._substitute(argument, {})
            case "ImportValue":
                return self.exports[self.resolved(argument)]
            case "Select" | "GetAZs" | "Cidr" | "Not" | "Equals":
                return f"{function}({json.dumps(self.resolved(argument))})"
        raise AssertionError(f"what is Fn::{function}?")

    def _substitute(self, text: str, names: Mapping[str, str]) -> str:
        def value(match: re.Match[str]) -> str:
            name = match[1]
            if name in names:
                return names[name]
            return str(self._attribute(name) if "." in name else self._reference(name))

        return re.sub(r"\$\{([\w:.]+)\}", value, text)

    def _reference(self, name: str) -> Any:
        if name == "AWS::StackName":
            return self.name
        if name in _PSEUDO:
            return _PSEUDO[name]
        if name in self.template.get("Parameters", {}):
            parameter = self.template["Parameters"][name]
            value = self.parameters.get(name, parameter.get("Default"))
            return int(value) if parameter["Type"] == "Number" else value
        resource = self.template["Resources"][name]
        named = {"AWS::ECS::Cluster": "ClusterName"}.get(resource["Type"])
        return self.resolved(resource["Properties"][named]) if named else name

    def _attribute(self, path: str | list[str]) -> str:
        name, _, attribute = (path if isinstance(path, str) else ".".join(path)).partition(".")
        resource = self.template["Resources"][name]
        if resource["Type"] == "AWS::ECS::Service" and attribute == "Name":
            return str(self.resolved(resource["Properties"]["ServiceName"]))
        return f"{name}.{attribute}"


@cache
def _template(name: str) -> Mapping[str, Any]:
    template, problems = decode(str(ECS / f"{name}.yml"))
    assert not problems, problems
    return template


def _stack(kind: str, environment: str, name: str, exports: Mapping[str, str]) -> Stack:
    file = ECS / "parameters" / f"{environment}-{kind}.json"
    return Stack(name, _template(kind), json.loads(file.read_text())["Parameters"], exports)


def platform(environment: str = "production") -> Stack:
    """Answer the stack under the servers; its name is what serving's parameters call it."""
    return _stack("platform", environment, f"recsys-{environment}", {})


def serving(environment: str = "production") -> Stack:
    """Answer the stack of the servers."""
    exports = platform(environment).exported()
    return _stack("serving", environment, f"recsys-{environment}-serving", exports)


def every(node: Any) -> Iterator[Any]:
    """Walk through everything in a document."""
    yield node
    if isinstance(node, dict):
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            yield from every(each)
