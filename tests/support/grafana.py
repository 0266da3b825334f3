"""Grafana's model of a dashboard, held against a file: the names and the types of its fields.

The SDK's decoders drop what they do not know and take any type; its annotations know better.
"""

import enum
import json
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

register_default_plugins()


def as_json(built: object) -> Any:
    return json.loads(json.dumps(built, cls=JSONEncoder))


def check_dashboard(told: dict[str, Any]) -> None:
    """Raise AssertionError where a file is not what Grafana's model says.

    The decoded dashboard must say all that the file says: a field that Grafana does not have is
    missing there.
    """
    decoded = Dashboard.from_json(told)
    assert as_json(decoded) == told
    _check(decoded, Dashboard, "dashboard")


def _check(value: Any, hint: Any, where: str) -> None:
    if hasattr(value, "to_json"):  # decoded, perhaps where the model leaves the type open
        assert hint in {Any, object} or isinstance(value, _alternatives(hint)), where
        for name, of_field in get_type_hints(type(value)).items():
            _check(getattr(value, name), of_field, f"{where}.{name}")
    elif get_origin(hint) is Union:
        _check_any(value, get_args(hint), where)
    elif get_origin(hint) is list:
        assert isinstance(value, list), where
        for at, each in enumerate(value):
            _check(each, get_args(hint)[0], f"{where}[{at}]")
    elif get_origin(hint) is dict:
        assert isinstance(value, dict), where
        for key, each in value.items():
            _check(each, get_args(hint)[1], f"{where}.{key}")
    elif hasattr(hint, "from_json"):  # the SDK leaves some of them as they are
        decoded = hint.from_json(value)
        assert as_json(decoded) == value, where
        _check(decoded, hint, where)
    else:
        assert _is_of(value, hint), f"{where}: {value!r} is no {hint}"


def _check_any(value: Any, hints: tuple[Any, ...], where: str) -> None:
    failures = []
    for hint in hints:
        try:
            _check(value, hint, where)
        except (AssertionError, TypeError, AttributeError) as failure:
            failures.append(str(failure))
        else:
            return
    raise AssertionError("; ".join(failures))


def _is_of(value: Any, hint: Any) -> bool:
    if hint in {Any, object}:
        return True
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if issubclass(hint, enum.Enum):
        return value in [each.value for each in hint]
    return type(value) in ((int, float) if hint is float else (hint,))


def _alternatives(hint: Any) -> tuple[type, ...]:
    return get_args(hint) if get_origin(hint) is Union else (hint,)
