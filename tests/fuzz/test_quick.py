"""The fuzz run's machinery, and what a few hundred requests to each RPC find."""

import asyncio
import json
import os
import subprocess
import sys
from random import Random

import pytest
from recsys.recommender.v1 import recommender_service_pb2 as pb2

from tests.fuzz.messages import RequestMaker
from tests.fuzz.sending import Sender, Tally
from tests.fuzz.targets import Target
from tests.support.processes import MARK, marked_processes, new_mark

pytestmark = pytest.mark.timeout(300)

GOOD = pb2.GetCandidatesRequest(user_id="u", recent_article_ids=[1, 2, 3], limit=5)


def maker(seed: int) -> RequestMaker:
    return RequestMaker(pb2.GetCandidatesRequest, [GOOD], {"user_id": ("u",)}, seed)


def test_the_same_seed_makes_the_same_requests():
    first, second, other = maker(1), maker(1), maker(2)
    made = [first.make() for _ in range(200)]
    assert made == [second.make() for _ in range(200)]
    assert made != [other.make() for _ in range(200)]


def test_requests_are_good_malformed_and_extreme():
    one = maker(Random(3).randrange(100))
    parsed, malformed = [], 0
    for _ in range(2_000):
        try:
            parsed.append(pb2.GetCandidatesRequest.FromString(one.make()))
        except Exception:  # noqa: BLE001 - whatever the parser raises
            malformed += 1
    assert malformed > 100
    assert sum(request == GOOD for request in parsed) > 100
    assert any(len(request.filters) > 1 for request in parsed)
    assert any(request.limit == 2**31 - 1 for request in parsed)
    assert any(-(2**63) in request.excluded_article_ids for request in parsed)


def test_an_undocumented_code_is_kept_with_its_request():
    target = Target("s", "/x.Y/Z", pb2.GetCandidatesRequest, [GOOD], frozenset({"OK"}))
    tally = Tally()
    tally.count(target, b"\x01", "OK", "")
    tally.count(target, b"\x02", "INTERNAL", "oops")
    assert (tally.sent, tally.undocumented) == (2, 1)
    assert tally.examples == ["Z: INTERNAL: oops: 02"]


@pytest.mark.parametrize(("shed_every", "read"), [(10, 100), (2, 63)])
async def test_what_is_refused_unread_is_made_up_for_but_not_for_ever(shed_every, read):
    target = Target("s", "/x.Y/Z", pb2.GetCandidatesRequest, [GOOD], frozenset({"OK"}))
    tally = Tally()
    sender = Sender({}, seed=1)

    async def answer(target, request, tally) -> bool:
        await asyncio.sleep(0)
        code = "OK" if (tally.sent + 1) % shed_every else "RESOURCE_EXHAUSTED"
        return tally.count(target, request, code, "")

    sender._call = answer
    await sender.send(target, maker(1), 100, tally)
    assert tally.read == read


def test_the_quick_form_finds_nothing_and_leaves_nothing_running(tmp_path):
    mark = new_mark()
    command = [sys.executable, "-m", "tests.fuzz", "--directory", str(tmp_path / "fuzz")]
    environment = {**os.environ, MARK: mark, "QUICK": "1", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "fuzz" / "report.json").read_text())
    figures = {figure["name"]: figure["value"] for figure in report["figures"]}
    assert figures["requests_to_each_rpc"] == 400
    assert figures["rpcs"] == 12
    assert all("OK" in codes and len(codes) > 1 for codes in report["codes"].values())
    assert marked_processes(mark) == {}
