"""docs/calling.md: what it tells callers to do holds."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from recsys.recommender.v1 import recommender_service_pb2 as pb2
from recsys.recommender.v1 import recommender_service_pb2_grpc as pb2_grpc

SERVICE_CONFIG = Path("docs/calling.md").read_text().split("```json\n")[1].split("```")[0]


class Answering(pb2_grpc.RecommenderServiceServicer):
    """Answers, or refuses with a code once it is told one."""

    def __init__(self) -> None:
        self.code: grpc.StatusCode | None = None
        self.asked = 0

    def GetCandidates(self, request: Any, context: Any) -> pb2.GetCandidatesResponse:  # noqa: N802
        self.asked += 1
        if self.code is not None:
            context.abort(self.code, "no")
        return pb2.GetCandidatesResponse()


def listening(servicer: Answering, until: ExitStack) -> str:
    server = grpc.server(until.enter_context(ThreadPoolExecutor(1)))
    pb2_grpc.add_RecommenderServiceServicer_to_server(servicer, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    until.callback(lambda: server.stop(None).wait())
    return address


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
def test_by_the_service_configuration_one_that_refuses_costs_no_call(code):
    refusing, well = Answering(), Answering()
    with ExitStack() as until:
        addresses = ",".join(listening(each, until) for each in (refusing, well))
        options = [("grpc.service_config", SERVICE_CONFIG)]
        channel = until.enter_context(grpc.insecure_channel(f"ipv4:{addresses}", options))
        stub = pb2_grpc.RecommenderServiceStub(channel)
        request = pb2.GetCandidatesRequest(user_id="ada")
        while not (refusing.asked and well.asked):  # until the channel is connected to both
            stub.GetCandidates(request, timeout=5)
        refusing.code, before = code, (refusing.asked, well.asked)
        for _ in range(6):
            stub.GetCandidates(request, timeout=5)
        assert well.asked == before[1] + 6
        assert refusing.asked > before[0]
