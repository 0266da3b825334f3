"""The whole stack of real processes, asked over the wire."""

import json
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import psutil
import pytest
from recsys.faiss.v1 import faiss_service_pb2
from recsys.recommender.v1 import recommender_service_pb2 as pb2

from local_stack.calls import views_of
from local_stack.stack import LocalStack
from releases.layout import ARTICLE_IDS_FILE, Part
from tests.support.collector import caller_context

pytestmark = pytest.mark.timeout(300)


def test_answers_equal_an_exact_search_with_the_same_user_vector(learnt, running):
    overlaps = []
    for user in learnt.views:
        running.recommender.RecordViews(views_of(user), timeout=5)
        answer = running.recommender.GetCandidates(
            pb2.GetCandidatesRequest(user_id=user.user_id, exclude_viewed=True), timeout=5
        )
        assert answer.source == pb2.SOURCE_PERSONALIZED
        assert answer.release == learnt.manifest.release
        assert len(set(answer.article_ids)) == len(answer.article_ids) == 200
        assert not set(answer.article_ids) & set(user.article_ids)
        assert list(answer.scores) == sorted(answer.scores, reverse=True)
        expected = running.exact.candidates(user.article_ids[::-1], 200)
        overlaps.append(np.isin(expected, answer.article_ids).mean())
    assert np.mean(overlaps) >= 0.99


def test_a_callers_trace_shows_every_server_and_stage(learnt, running):
    trace_id, caller, header = caller_context(1)
    answer = running.recommender.GetCandidates(
        pb2.GetCandidatesRequest(user_id="t", recent_article_ids=[1000, 1001]),
        timeout=5,
        metadata=[header],
    )
    assert answer.source == pb2.SOURCE_PERSONALIZED
    seen = {
        (span.service, span.name): span.span for span in running.collector.trace(trace_id, spans=7)
    }
    below = {
        ("recommender", "recsys.recommender.v1.RecommenderService/GetCandidates"): [
            ("recommender", "user_vector"),
            ("recommender", "search"),
        ],
        ("recommender", "user_vector"): [("recommender", "Predict")],
        ("recommender", "search"): [("recommender", "Search")],
        ("recommender", "Predict"): [
            ("tf-serving", "tensorflow.serving.PredictionService/Predict")
        ],
        ("recommender", "Search"): [("faiss-server", "recsys.faiss.v1.FaissService/Search")],
    }
    (root, *_) = below
    assert seen[root].parent_span_id.hex() == caller
    assert len(seen) == 1 + sum(map(len, below.values()))
    for above, names in below.items():
        for name in names:
            assert seen[name].parent_span_id == seen[above].span_id, name
            # A step is within the one above it; the clock is the machine's.
            assert seen[above].start_time_unix_nano <= seen[name].start_time_unix_nano
            assert seen[name].end_time_unix_nano <= seen[above].end_time_unix_nano
    (told,) = (span for span in running.collector.trace(trace_id) if span.name == root[1])
    assert told.attributes["recsys.source"] == "PERSONALIZED"
    assert told.attributes["recsys.release"] == learnt.manifest.release
    assert told.attributes["recsys.candidates"] == 200
    # Nothing was traced but what a caller asked for.
    assert all(span.span.trace_id.hex() == trace_id for span in running.collector.all())


def test_servers_listen_on_their_two_ports_of_this_machine_and_nowhere_else(running):
    for name, address in running.stack.addresses.items():
        listening = {
            (one.laddr.ip.removeprefix("::ffff:"), one.laddr.port)
            for one in psutil.Process(address.pid).net_connections("inet")
            if one.status == psutil.CONN_LISTEN
        }
        assert listening == {
            ("127.0.0.1", address.port), ("127.0.0.1", address.metrics_port)
        }, name  # fmt: skip


def test_a_filter_holds_for_every_candidate(running):
    request = pb2.GetCandidatesRequest(user_id="f", recent_article_ids=[1000, 1001], limit=50)
    request.filters.add(attribute="category", operator=pb2.FILTER_OPERATOR_IN, values=[2])
    answer = running.recommender.GetCandidates(request, timeout=5)
    assert answer.source == pb2.SOURCE_PERSONALIZED
    assert len(answer.article_ids) == 50
    assert {(article - 1000) % 5 for article in answer.article_ids} == {2}


def test_a_stranger_gets_what_is_popular_in_the_region(learnt, running):
    release = learnt.manifest.release
    popular = running.faiss.GetPopular(
        faiss_service_pb2.GetPopularRequest(release=release, region_id=1), timeout=5
    )
    answer = running.recommender.GetCandidates(
        pb2.GetCandidatesRequest(user_id="stranger", region_id=1, limit=20), timeout=5
    )
    assert answer.source == pb2.SOURCE_POPULAR
    assert popular.lists[0].region_id == 1
    assert list(answer.article_ids) == np.frombuffer(popular.lists[0].ids, "<i8")[:20].tolist()


def test_every_exported_article_can_be_looked_up(learnt, running):
    release = learnt.manifest.release
    ids = np.load(learnt.store / Part.EMBEDDINGS / str(release) / ARTICLE_IDS_FILE)
    answer = running.faiss.GetVectors(
        faiss_service_pb2.GetVectorsRequest(release=release, article_ids=[*ids[:100], 5]), timeout=5
    )
    assert list(answer.article_ids) == ids[:100].tolist()
    assert list(answer.missing_article_ids) == [5]


def test_the_recommender_never_loads_tensorflow_or_faiss_and_stays_small(running):
    process = psutil.Process(running.stack.processes["recommender"].pid)
    mapped = {Path(entry.path).name for entry in process.memory_maps()}
    assert any("cygrpc" in name for name in mapped)  # these are the maps that were meant
    assert not {name for name in mapped if re.search("tensorflow|faiss|keras", name)}
    assert process.memory_info().rss < 120e6


def test_all_servers_have_metrics(running):
    expected = {
        "recommender": "recsys_answers_total",
        "faiss-server": "recsys_release",
        "model-server": "recsys_release",
    }
    for name, metric in expected.items():
        port = running.stack.addresses[name].metrics_port
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
        assert metric in text
        assert "recsys_rpc_duration_seconds" in text


def test_the_readme_call_with_a_reflection_client_works(running):
    grpcurl = shutil.which("grpcurl", path=Path(sys.executable).parent)
    answered = subprocess.run(
        [
            grpcurl,
            "-plaintext",
            "-d",
            '{"user_id": "u", "recent_article_ids": [1000], "limit": 3}',
            running.stack.addresses["recommender"].target,
            "recsys.recommender.v1.RecommenderService/GetCandidates",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(answered.stdout)
    assert answer["source"] == "SOURCE_PERSONALIZED"
    assert len(answer["article_ids"]) == 3


def test_every_server_ends_with_0_on_sigterm(learnt, tmp_path):
    with LocalStack(tmp_path, str(learnt.store)) as stack:
        stack.wait_until_serving()
        for name in ("recommender", "faiss-server", "model-server", "releases-pull", "redis"):
            stack.processes[name].send(signal.SIGTERM)
            assert stack.processes[name].wait(20) == 0, name
