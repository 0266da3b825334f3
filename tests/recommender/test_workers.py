"""Several recommender processes behind one port, started as they are in a container."""

import asyncio
import json
import os
import signal
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families
from recsys.recommender.v1 import recommender_service_pb2 as pb2
from recsys.recommender.v1 import recommender_service_pb2_grpc as pb2_grpc

from local_stack.processes import tied_to_this_process
from tests.support.backends import ScriptedFaiss, ScriptedModel, listening

CHANNELS = 24
"""That the kernel gives all of them to one of two workers is a matter of one in eight million."""


@pytest.fixture
async def environment(tmp_path, shared_redis) -> AsyncIterator[dict[str, str]]:
    model, faiss = ScriptedModel(), ScriptedFaiss()
    async with listening(model, faiss):
        yield {
            "RECOMMENDER_PORT": "0",
            "RECOMMENDER_METRICS_PORT": "0",
            "RECOMMENDER_READY_FILE": str(tmp_path / "ready.json"),
            "RECOMMENDER_WORKERS": "2",
            "RECOMMENDER_REDIS_URL": shared_redis.url,
            "RECOMMENDER_MODEL_SERVERS": model.address,
            "RECOMMENDER_FAISS_SERVERS": faiss.address,
            "RECOMMENDER_DRAIN_NOTICE_SECONDS": "0",
        }


class Team:
    """The process that was started, and its workers."""

    def __init__(self, process: asyncio.subprocess.Process, ports: dict[str, int]) -> None:
        self.process = process
        self.port = ports["port"]
        self.metrics_port = ports["metrics_port"]
        self.workers = [
            child
            for child in psutil.Process(process.pid).children()
            if "resource_tracker" not in " ".join(child.cmdline())
        ]

    async def until_serving(self) -> None:
        async with self.channel() as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            async for answer in watch:
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return

    def channel(self) -> grpc.aio.Channel:
        options = (("grpc.use_local_subchannel_pool", 1),)  # a connection of its own
        return grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", options=options)

    async def metrics(self) -> dict[tuple[str, str], float]:
        """Figures by name, and by method or kind or worker where they have one."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with await asyncio.to_thread(urllib.request.urlopen, url) as response:
            text = response.read().decode()
        return {
            (sample.name, "".join(sample.labels.get(k, "") for k in ("method", "kind", "worker"))):
                sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }  # fmt: skip

    async def ended(self) -> tuple[int | None, list[str]]:
        """Answer the exit code and the lines of the log."""
        async with asyncio.timeout(30):
            _, errors = await self.process.communicate()
        _, alive = psutil.wait_procs(self.workers, timeout=10)
        assert not alive
        return self.process.returncode, errors.decode().splitlines()


async def start(environment: dict[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *tied_to_this_process([sys.executable, "-m", "recommender"]),
        env={**os.environ, **environment},
        stderr=asyncio.subprocess.PIPE,
    )


async def ports_of(process: asyncio.subprocess.Process, ready_file: str) -> dict[str, int]:
    async with asyncio.timeout(60):
        while not os.path.exists(ready_file):  # noqa: ASYNC240, PTH110 - takes no time
            assert process.returncode is None, (await process.communicate())[1].decode()
            await asyncio.sleep(0.01)
    with open(ready_file) as stream:  # noqa: ASYNC230, PTH123
        return json.load(stream)


@asynccontextmanager
async def started(environment: dict[str, str]) -> AsyncIterator[Team]:
    process = await start(environment)
    try:
        yield Team(process, await ports_of(process, environment["RECOMMENDER_READY_FILE"]))
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_calls_reach_every_worker_and_are_counted_together(environment):
    async with started(environment) as team:
        await team.until_serving()
        channels = [team.channel() for _ in range(CHANNELS)]
        request = pb2.GetCandidatesRequest(user_id="w", recent_article_ids=[5], limit=3)
        answers = await asyncio.gather(
            *(pb2_grpc.RecommenderServiceStub(one).GetCandidates(request) for one in channels)
        )
        assert {answer.source for answer in answers} == {pb2.SOURCE_PERSONALIZED}
        connections = [
            sum(one.status == "ESTABLISHED" and one.laddr.port == team.port
                for one in worker.net_connections("tcp"))
            for worker in team.workers
        ]  # fmt: skip
        assert len(connections) == 2
        assert min(connections) > 0
        assert sum(connections) >= CHANNELS
        metrics = await team.metrics()
        assert metrics["recsys_rpc_duration_seconds_count", "GetCandidates"] == CHANNELS
        assert metrics["recsys_release", "pinned"] == 1
        assert min(metrics["process_resident_memory_bytes", worker] for worker in "01") > 1e7
        async with asyncio.timeout(10):  # published every second
            while (await team.metrics())["recsys_rpc_limit", "GetCandidates"] != 2 * 256:
                await asyncio.sleep(0.05)
        for channel in channels:
            await channel.close()

        team.process.send_signal(signal.SIGTERM)
        code, lines = await team.ended()
        assert code == 0
        assert sum(json.loads(line)["message"] == "draining" for line in lines) == 2


async def test_where_one_worker_ends_the_others_drain_and_the_process_fails(environment):
    async with started(environment) as team:
        await team.until_serving()
        team.workers[1].kill()
        code, lines = await team.ended()
        assert code == 1
        assert lines[-1] == "worker 1 ended with code -9; its lines say why"
        assert sum('"draining"' in line for line in lines) == 1


async def test_workers_end_with_the_process_that_started_them(environment):
    async with started(environment) as team:
        await team.until_serving()
        team.process.kill()
        code, _ = await team.ended()
        assert code == -signal.SIGKILL


async def test_a_port_in_use_is_refused_whoever_listens_there(environment):
    async with started(environment) as team:
        again = {**environment, "RECOMMENDER_PORT": str(team.port)}
        for workers in ("2", "1"):
            process = await start({**again, "RECOMMENDER_WORKERS": workers})
            _, errors = await process.communicate()
            assert process.returncode == 1
            assert f"cannot listen on 127.0.0.1:{team.port}" in errors.decode()


async def test_a_port_that_a_single_server_has_is_refused(environment):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = await start({**environment, "RECOMMENDER_PORT": str(port)})
        _, errors = await process.communicate()
    assert process.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in errors.decode()


async def test_a_worker_that_cannot_start_says_why(environment):
    process = await start({**environment, "RECOMMENDER_REDIS_URL": "ftp://nowhere"})
    _, errors = await process.communicate()
    assert process.returncode == 1
    lines = errors.decode().splitlines()
    assert any(line.startswith("RECOMMENDER_REDIS_URL: ") for line in lines)
    assert "ended with code 1; its lines say why" in lines[-1]
