"""Which share of the users the newer of two releases answers: canary and experiment in one."""

import re
import time
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from releases.errors import ReleaseError

__all__ = ["Split", "parse_split", "read_split_argument"]

_ARGUMENT: Final = re.compile(r"([1-9][0-9]{0,18})=([0-9]+(?:\.[0-9]+)?)%")


class Split(BaseModel):
    """`share` of the users get `release`, the others the next older release in service.

    Without that release, or without an older one, it has no effect.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: Literal[1] = 1
    release: Annotated[int, Field(gt=0, lt=2**63)]
    share: Annotated[float, Field(ge=0, le=1)]
    changed_at_ms: Annotated[int, Field(ge=0, lt=2**63)]
    """Unix time in ms; of two splits the later one counts."""


def read_split_argument(text: str) -> Split:
    """Read `RELEASE=SHARE%` as of now; raises ReleaseError when it is not of that form."""
    found = _ARGUMENT.fullmatch(text)
    if found is None or float(found[2]) > 100 or int(found[1]) >= 2**63:
        raise ReleaseError(f"{text!r} is no split: write RELEASE=SHARE%, such as 1700000000=10%")
    return Split(
        release=int(found[1]), share=float(found[2]) / 100, changed_at_ms=time.time_ns() // 10**6
    )


def parse_split(text: bytes, source: str) -> Split:
    """Read a stored split; raises ReleaseError naming the source and the first wrong field."""
    try:
        return Split.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(step) for step in first["loc"]) or "document"
        raise ReleaseError(f"{source}: {field}: {first['msg']}") from None
