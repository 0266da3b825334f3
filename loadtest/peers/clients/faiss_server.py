"""This project's faiss server, by gRPC. What it searches is a release: there is nothing to fill."""

import time
from typing import Any, Final

import grpc
import numpy as np
from numpy.typing import NDArray
from recsys.faiss.v1 import faiss_service_pb2 as pb2
from recsys.faiss.v1 import faiss_service_pb2_grpc as pb2_grpc

from loadtest.peers.clients.protocol import Place, Progress, Search, run

_AGAIN_SECONDS: Final = 0.001
_PATIENCE_SECONDS: Final = 30.0


def build(_: Place, __: NDArray[np.float32], ___: NDArray[np.int64], ____: Progress) -> None:
    """Do nothing: the release is published already."""


def connect(place: Place, effort: int) -> Search:
    """Search by a channel of its own; the effort is nprobe, left out where it is the release's."""
    # Otherwise all channels of a process share one connection.
    options = [("grpc.use_local_subchannel_pool", 1)]
    channel = grpc.insecure_channel(f"127.0.0.1:{place.port}", options=options)
    call: Any = pb2_grpc.FaissServiceStub(channel).Search
    own: dict[str, Any] = {} if effort == place.settings["nprobe"] else {"nprobe": effort}
    release = place.settings["release"]

    def search(query: NDArray[np.float32]) -> NDArray[np.int64]:
        request = pb2.SearchRequest(release=release, vectors=query.tobytes(), k=place.k, **own)
        until = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                return np.frombuffer(call(request).ids, "<i8")
            except grpc.RpcError as error:
                # Where it is late it begins fewer calls at once. Its callers ask again.
                refused = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                if not refused or time.monotonic() > until:
                    raise
                time.sleep(_AGAIN_SECONDS)

    return search


if __name__ == "__main__":
    run(build, connect)
