"""What a server reports into the store about what is in service."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
from recsys.faiss.v1 import faiss_service_pb2 as pb

from faiss_server.holder import ReleaseHolder
from faiss_server.in_use import ReleasesInUse
from faiss_server.report import ServingReporter
from faiss_server.service import FaissService
from releases import serving as serving_module
from releases.checksums import ignore_bytes
from releases.serving import ServingReport, current_reports, write_report
from releases.store import ReleaseStore
from tests.faiss_server.holding import GOLDEN_FAILS, A, B, C, D
from tests.faiss_server.making import Made
from tests.faiss_server.serving import (
    SERVED,
    running,
)


def test_a_server_reports_changes_at_once_and_else_now_and_then(
    holder: ReleaseHolder,
    add: Callable[..., object],
    in_use: ReleasesInUse,
    store: ReleaseStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[ServingReport] = []
    monkeypatch.setattr(serving_module, "write_report", lambda _, report: written.append(report))
    now_ns, elapsed = [10**18], [500.0]
    monkeypatch.setattr("releases.serving.time.time_ns", lambda: now_ns[0])
    monkeypatch.setattr("releases.serving.time.monotonic", lambda: elapsed[0])
    reporter = ServingReporter(store, holder, in_use)
    reporter.report(ignore_bytes)
    reporter.begin("faiss-1")
    reporter.report(ignore_bytes)
    reporter.report(ignore_bytes)
    add(A)
    add(B, **GOLDEN_FAILS)
    holder.refresh()
    in_use.tell([A, C], [D])
    reporter.report(ignore_bytes)
    reporter.report(ignore_bytes)
    now_ns[0] -= 3600 * 10**9  # the clock is put back
    elapsed[0] += 9.5
    reporter.report(ignore_bytes)
    assert len(written) == 2
    elapsed[0] += 0.5
    reporter.report(ignore_bytes)
    empty, full, again = written
    assert empty.held == empty.in_use == empty.refused == frozenset()
    assert full.held == full.in_use == frozenset({A})
    assert full.refused == frozenset({B})
    assert again == full.model_copy(update={"reported_at_ms": full.reported_at_ms - 3_600_000})


async def test_what_callers_answer_from_is_reported_into_the_store_and_taken_back(
    store: ReleaseStore, published: Made, tmp_path: Path
) -> None:
    async with running(store, tmp_path) as server:
        await server.until_ready(SERVED)
        status = pb.GetStatusRequest(in_use=[SERVED, 7], refused=[8])

        async def reported() -> ServingReport | None:
            await server.faiss.GetStatus(status)
            await asyncio.sleep(0.01)
            reports = current_reports(store)
            return next((one for one in reports if one.in_use), None)

        async with asyncio.timeout(10):
            while (report := await reported()) is None:
                pass
        assert report.server.endswith(f"-127.0.0.1-{server.port}")
        assert report.held == report.in_use == frozenset({SERVED})
        assert report.refused == frozenset()
        status.refused.append(SERVED)
        async with asyncio.timeout(10):
            while not (refusing := [one for one in current_reports(store) if one.refused]):
                await reported()
        assert refusing[0].refused == frozenset({SERVED})
        assert refusing[0].in_use == frozenset()
    assert current_reports(store) == []


def test_callers_are_believed_only_of_releases_that_are_held(in_use: ReleasesInUse) -> None:
    holder = Mock(**{"held.ready": {A: Mock(), B: Mock()}})
    FaissService(holder, Mock(), Mock(), in_use).note_use([A, C], [B, D])
    assert in_use.in_use() == {A}
    assert in_use.refused() == {B}


async def test_a_server_that_is_restarted_knows_what_is_answered_from(
    store: ReleaseStore, add: Callable[..., object], tmp_path: Path
) -> None:
    add(A)
    add(B)
    async with running(store, tmp_path) as server:
        await server.until_ready(A)
    add(C)
    add(D)
    others = ServingReport(
        server="another",
        reported_at_ms=time.time_ns() // 10**6,
        held={A, B},
        in_use={A},
        refused=(),
    )
    write_report(store, others)
    async with running(store, tmp_path) as server:
        await server.until_ready(D)
        await server.until_ready(A)


async def test_nothing_is_reported_where_that_is_turned_off(
    store: ReleaseStore, published: Made, tmp_path: Path
) -> None:
    async with running(store, tmp_path, report_serving=False) as server:
        await server.until_ready(SERVED)
        await server.faiss.GetStatus(pb.GetStatusRequest(in_use=[SERVED]))
        assert current_reports(store) == []
