"""A caller as callers should be: both addresses, TLS, another try elsewhere when one is gone."""

import json
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

_RATE: Final = 20.0
_SECONDS: Final = 1.0
_POLICY: Final = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [{"service": "recsys.recommender.v1.RecommenderService"}],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.02s",
                    "maxBackoff": "0.1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
    }
)


class Load:
    """Asks again and again from a thread of its own; counts answers by source, and failures."""

    def __init__(self, ports: Sequence[int], certificates: Path) -> None:
        ca, key, certificate = (
            (certificates / name).read_bytes() for name in ("ca.crt", "tls.key", "tls.crt")
        )
        self._channel = grpc.secure_channel(
            "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports),
            grpc.ssl_channel_credentials(ca, key, certificate),
            options=[
                ("grpc.ssl_target_name_override", "recommender"),
                ("grpc.service_config", _POLICY),
                ("grpc.max_reconnect_backoff_ms", 500),
            ],
        )
        self._stub = pb2_grpc.RecommenderServiceStub(self._channel)
        self._end = threading.Event()
        self._counting = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._ask_on)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._channel.close()

    def counted(self) -> Counter[str]:
        """Answer the counts since this was last asked: sources, and `failed: CODE`."""
        with self._counting:
            counts, self._counts = self._counts, Counter()
        return counts

    def _ask_on(self) -> None:
        due = time.monotonic()
        while not self._end.wait(max(0.0, due - time.monotonic())):
            due += 1 / _RATE
            outcome = self._ask()
            with self._counting:
                self._counts[outcome] += 1

    def _ask(self) -> str:
        request = pb2.GetCandidatesRequest(user_id="ada", recent_article_ids=[1000, 1001])
        try:
            answer = self._stub.GetCandidates(request, timeout=_SECONDS)
        except grpc.RpcError as error:
            return f"failed: {error.code().name}"
        return pb2.Source.Name(answer.source)
