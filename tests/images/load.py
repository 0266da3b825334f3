"""A caller as callers should be: all addresses, TLS, another try elsewhere when one is gone."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

import grpc
from recsys.recommender.v1 import recommender_service_pb2 as pb2
from recsys.recommender.v1 import recommender_service_pb2_grpc as pb2_grpc

__all__ = ["Load"]

_RATE: Final = 50.0
_SECONDS: Final = 1.0
_TRIES: Final = 4
_OPTIONS: Final = (
    ("grpc.ssl_target_name_override", "recommender"),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.enable_retries", 0),
)


class Load:
    """Asks again and again from a thread of its own; counts answers by source, and failures."""

    def __init__(self, ports: Sequence[int], certificates: Path) -> None:
        ca, key, certificate = (
            (certificates / name).read_bytes() for name in ("ca.crt", "tls.key", "tls.crt")
        )
        self._credentials = grpc.ssl_channel_credentials(ca, key, certificate)
        self._channels: dict[int, grpc.Channel] = {}
        self._turns = itertools.count()
        self._end = threading.Event()
        self._counting = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._ask_on)
        self.follow(ports)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        for channel in self._channels.values():
            channel.close()

    def follow(self, ports: Sequence[int]) -> None:
        """Ask at these ports from now on: a container that is started again has another one."""
        self._channels = {port: self._channels.get(port) or self._open(port) for port in ports}

    def counted(self) -> Counter[str]:
        """Answer the counts since this was last asked: sources, and `failed: CODE`."""
        with self._counting:
            counts, self._counts = self._counts, Counter()
        return counts

    def _open(self, port: int) -> grpc.Channel:
        return grpc.secure_channel(f"127.0.0.1:{port}", self._credentials, options=_OPTIONS)

    def _ask_on(self) -> None:
        due = time.monotonic()
        while not self._end.wait(max(0.0, due - time.monotonic())):
            due += 1 / _RATE
            outcome = self._ask()
            with self._counting:
                self._counts[outcome] += 1

    def _ask(self) -> str:
        """Ask at one address after another, within one deadline, while each is away."""
        request = pb2.GetCandidatesRequest(user_id="ada", recent_article_ids=[1000, 1001])
        end = time.monotonic() + _SECONDS
        code = grpc.StatusCode.UNKNOWN
        for _ in range(_TRIES):
            channels = list(self._channels.values())
            stub = pb2_grpc.RecommenderServiceStub(channels[next(self._turns) % len(channels)])
            try:
                answer = stub.GetCandidates(request, timeout=max(0.0, end - time.monotonic()))
            except grpc.RpcError as error:
                code = error.code()
                if code is not grpc.StatusCode.UNAVAILABLE:
                    break
            else:
                return pb2.Source.Name(answer.source)
        return f"failed: {code.name}"
