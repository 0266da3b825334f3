"""Who is let in, and how much at a time."""

from pathlib import Path

import grpc
import pytest
import trustme
from recsys.faiss.v1 import faiss_service_pb2 as pb
from recsys.faiss.v1 import faiss_service_pb2_grpc as pb_grpc

from releases.store import ReleaseStore
from service_runtime.channels import grpcio_channel
from service_runtime.tls import CallerTls
from tests.faiss_server.making import Made
from tests.faiss_server.serving import SERVED, RunningFaissServer, good_search, running
from tests.support.certificates import SERVER_NAME, Files


async def test_with_certificates_only_callers_of_the_ca_are_answered(
    store: ReleaseStore, published: Made, tmp_path: Path
) -> None:
    ca = trustme.CA()
    own = Files(tmp_path / "own").write(ca.issue_cert(SERVER_NAME), ca)
    caller = Files(tmp_path / "caller").write(ca.issue_cert("recommender.internal"), ca)

    async def answer(port: int, tls: CallerTls | None) -> pb.SearchResponse:
        async with grpcio_channel(f"127.0.0.1:{port}", tls) as channel:
            return await pb_grpc.FaissServiceStub(channel).Search(
                good_search(), timeout=5, wait_for_ready=False
            )

    async with running(
        store, tmp_path, tls_cert_file=own.certificate, tls_key_file=own.key,
        tls_client_ca_file=own.ca,
    ) as server:  # fmt: skip
        async with grpcio_channel(f"127.0.0.1:{server.port}", caller.caller()) as channel:
            known = RunningFaissServer(server.port, server.metrics_port, channel)
            await known.until_ready(SERVED)
        assert sum((await answer(server.port, caller.caller())).counts) == 10
        for stranger in (None, caller.caller(shows=False)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await answer(server.port, stranger)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_message_above_four_mib_is_refused_and_the_next_one_answered(
    server: RunningFaissServer,
) -> None:
    for size, code in (
        (4 << 20, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (4_000_000, grpc.StatusCode.INVALID_ARGUMENT),  # by the limit of its field
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.faiss.Search(good_search(vectors=bytes(size)))
        assert caught.value.code() == code
    assert sum((await server.faiss.Search(good_search())).counts) == 10
