"""What one load process is to do; travels to it as JSON."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from recsys.recommender.v1 import recommender_service_pb2 as pb2

from loadtest.errors import LoadTestError

__all__ = ["LoadPlan", "TlsPaths", "arrivals", "read_users"]


@dataclass(frozen=True, slots=True)
class TlsPaths:
    """PEM files to speak TLS with, and the name in the recommender's certificate."""

    ca: str
    cert: str | None = None
    key: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """Either `rate` requests/s at random times, or `clients` that each ask again once answered."""

    target: str
    users: tuple[str, ...]
    seconds: float
    warmup_seconds: float
    deadline_seconds: float
    seed: int
    rate: float | None = None
    clients: int | None = None
    limit: int = 200
    exclude_viewed: bool = True
    tls: TlsPaths | None = None

    def to_json(self) -> str:
        """Answer one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Read what `to_json` wrote."""
        fields = json.loads(line)
        tls = None if fields["tls"] is None else TlsPaths(**fields["tls"])
        return cls(**{**fields, "users": tuple(fields["users"]), "tls": tls})

    def requests(self) -> list[bytes]:
        """Answer a request for each user, as bytes: making them is no part of what is measured."""
        return [
            pb2.GetCandidatesRequest(
                user_id=user, limit=self.limit, exclude_viewed=self.exclude_viewed
            ).SerializeToString()
            for user in self.users
        ]


def arrivals(rate: float, seconds: float, seed: int) -> NDArray[np.float64]:
    """Answer the times of a Poisson process, seconds from its start, ascending, float64[n]."""
    random = np.random.default_rng(seed)
    expected = int(rate * seconds)
    # Ten deviations more than expected: the last ones fall behind the end and are cut off.
    gaps = random.exponential(1 / rate, expected + 10 * int(expected**0.5) + 10)
    times: NDArray[np.float64] = np.cumsum(gaps)
    return times[times < seconds]


def read_users(given: str) -> tuple[str, ...]:
    """Read user ids: a number N stands for `1` to `N`, anything else is a file of one per line.

    Raises LoadTestError.
    """
    if given.isdigit() and int(given) > 0:
        return tuple(str(number) for number in range(1, int(given) + 1))
    try:
        users = tuple(line for line in Path(given).read_text().splitlines() if line)
    except OSError as error:
        raise LoadTestError(
            f"--users: {given} is neither a number nor a readable file: {error.strerror}"
        ) from error
    if not users:
        raise LoadTestError(f"--users: {given} has no user")
    return users
