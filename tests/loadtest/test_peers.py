"""The comparison with other systems: how efforts are chosen, clients talk, and what is reported."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import grpc
import numpy as np
import psutil
import pytest
from rich.progress import Progress

from loadtest.bench.catalogue import mean_vectors
from loadtest.errors import LoadTestError
from loadtest.latencies import Latencies
from loadtest.peers.client import Site, running_client
from loadtest.peers.clients import faiss_server as own_client
from loadtest.peers.clients.protocol import Place
from loadtest.peers.environments import OWN, environment_of
from loadtest.peers.inputs import Inputs, K, prepare_inputs
from loadtest.peers.measuring import MANY, Turn, cpu_seconds
from loadtest.peers.preparing import Choice, Workplace
from loadtest.peers.report import peers_report
from loadtest.peers.rounds import Compared, Contender, Size, compare
from loadtest.peers.servers import Server, ended
from loadtest.peers.systems import FAISS, OURS, Effort, System, all_systems
from loadtest.peers.tuning import Tried, recalls, tune
from local_stack.errors import StackError
from local_stack.processes import Process
from tests.support.releases import manifest_of, tiny_release

TINY = System("tiny", "tests.loadtest.tiny_peer", Effort("percent", 60, 100))


def tried(recall, queries=50):
    return Tried(np.full(queries, recall), 1.0)


@pytest.mark.parametrize("enough", [1, 2, 3, 7, 100, 511, 512])
def test_the_smallest_effort_that_suffices_is_chosen(enough):
    tuned = tune(Effort("ef", 1, 512), lambda effort: tried(0.995 if effort >= enough else 0.98))
    assert (tuned.effort, tuned.suffices) == (enough, True)
    assert len(tuned.tried) <= 20


def test_where_nothing_suffices_the_most_is_chosen_and_said():
    tuned = tune(Effort("ef", 200, 1000), lambda _: tried(0.9))
    assert (tuned.effort, tuned.suffices) == (1000, False)


def test_a_system_that_is_tuned_already_is_asked_once():
    asked = []
    tuned = tune(Effort("nprobe", 70, 70), lambda effort: (asked.append(effort), tried(0.995))[1])
    assert (tuned.effort, asked) == (70, [70])


def test_a_mean_that_other_queries_would_miss_does_not_suffice():
    close = np.array([1.0] * 25 + [0.982] * 25)
    assert close.mean() > 0.99
    assert not Tried(close, 1.0).suffices


def test_recall_counts_ids_in_any_order_and_missing_ones_as_not_found():
    nearest = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    found = np.array([[4, 3, 2, 1], [5, 6, -1, -1]])
    assert recalls(found, nearest).tolist() == [1.0, 0.5]


def test_a_users_vector_leans_to_what_was_viewed_last():
    vectors = np.eye(3, dtype=np.float32)
    ids = np.array([10, 20, 30])
    (user,) = mean_vectors(np.array([[30, 10]]), ids, vectors)
    assert user == pytest.approx(np.array([0.9, 0, 1]) / np.hypot(0.9, 1))


def test_every_system_can_be_told_apart_and_has_its_programs(tmp_path):
    of_release = {"type": "IVF4000,Flat", "lists": 4000, "nprobe": 70, "recall_at_200": 0.99}
    tiny_release(tmp_path, 1)
    manifest = manifest_of(tmp_path, 1, article_count=1_000_000, index=of_release)
    systems = all_systems(manifest, "items.faiss")
    assert {each.settings["lists"] for each in systems if "lists" in each.settings} == {4000}
    assert [systems[0].name, systems[0].effort] == [OURS, Effort("nprobe", 70, 70)]
    assert len({system.name for system in systems}) == len(systems)
    assert next(each for each in systems if each.name == FAISS).effort == systems[0].effort
    assert {system.name for system in systems if not system.is_networked} == {
        FAISS, "hnswlib", "ScaNN",
    }  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Inputs:
    return prepare_inputs(tmp_path_factory.mktemp("inputs"), 3000)


@pytest.fixture
def workplace(tmp_path, inputs) -> Workplace:
    (tmp_path / "scratch").mkdir()
    return Workplace(tmp_path, inputs, tmp_path / "store", tmp_path / "scratch")


def test_true_neighbours_are_the_largest_inner_products(inputs):
    vectors, ids, queries = (np.load(path) for path in (inputs.vectors, inputs.ids, inputs.queries))
    scores = vectors @ queries[0]
    assert set(inputs.nearest(inputs.queries)[0]) == set(ids[np.argsort(-scores)[:K]])


def compared(systems, workplace, rounds=2):
    with Progress(disable=True) as progress:
        return compare(systems, workplace, Size(rounds, 0.3, 0.05), progress)


def test_a_system_is_filled_tuned_and_measured_and_the_second_run_only_measures(workplace):
    one = compared([TINY], workplace)
    (contender,) = one.contenders
    assert contender.choice.suffices
    assert contender.choice.effort > 90
    assert contender.choice.recall == pytest.approx(0.99, abs=0.01)
    assert contender.build_seconds > 0
    assert [turn.clients for turn in contender.of(1)] == [1, 1]
    assert contender.of(MANY) == []
    for turn in contender.of(1):
        assert turn.latencies.count > 10
        assert turn.per_second == pytest.approx(turn.latencies.count / 0.3)
        # In one process both are the same thing, seen by two who may be kept waiting.
        assert 0 < turn.server_cpu_seconds < 1
        assert 0 < turn.client_cpu_seconds < 1
        assert turn.memory_mib > 10
    files = {path: path.stat().st_mtime_ns for path in workplace.cache.rglob("*.npz")}
    again = compared([TINY], workplace)
    assert again.contenders[0].choice == contender.choice
    assert {path: path.stat().st_mtime_ns for path in workplace.cache.rglob("*.npz")} == files


def test_what_fails_is_absent_with_its_reason_but_no_address_and_stops_nobody(
    workplace, monkeypatch
):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(workplace.cache / "nowhere"))
    failing = replace(TINY, name="failing", settings={"fails": True})
    unknown = replace(TINY, name="unknown", client="tests.loadtest.there_is_none_such")
    missing = replace(TINY, name="missing", packages=("there-is-no-such-package==1",))
    found = compared([failing, missing, unknown, TINY], workplace, rounds=1)
    assert [each.system.name for each in found.contenders] == ["tiny"]
    assert found.absent["failing"] == "failing: RuntimeError: no room"
    assert "there-is-no-such-package==1" in found.absent["missing"]
    assert str(workplace.cache) not in found.absent["missing"]
    assert "there_is_none_such" in found.absent["unknown"]


def test_a_server_that_refuses_call_after_call_is_given_up(monkeypatch):
    class RefusedError(grpc.RpcError):
        def code(self):
            return grpc.StatusCode.RESOURCE_EXHAUSTED

    asked = []

    def search(_request):
        asked.append(1)
        raise RefusedError

    stub = SimpleNamespace(Search=search)
    monkeypatch.setattr(own_client.pb2_grpc, "FaissServiceStub", lambda _: stub)
    monkeypatch.setattr(own_client, "_PATIENCE_SECONDS", 0.01)
    place = Place(1, Path(), 5, {"nprobe": 1, "release": 1})
    with pytest.raises(RefusedError):
        own_client.connect(place, 1)(np.zeros(8, np.float32))
    assert len(asked) > 1


def test_nothing_is_installed_for_what_runs_here(tmp_path):
    assert environment_of("any", None, tmp_path) is OWN
    assert list(tmp_path.iterdir()) == []


def test_an_environment_sees_the_clients_and_nothing_else_of_ours(tmp_path):
    environment = environment_of("empty", (), tmp_path)
    assert environment.python.startswith(str(tmp_path))
    assert [path.name for path in (tmp_path / "code").iterdir()] == ["loadtest"]
    assert environment_of("empty", (), tmp_path) == environment


def test_a_client_that_ends_is_told_with_its_last_words(tmp_path):
    site = Site("tests.loadtest.there_is_none_such", OWN, tmp_path, 0, {})
    with (
        pytest.raises(LoadTestError, match="there_is_none_such"),
        running_client("gone", site) as client,
    ):
        client.reaches_server()


def test_a_halted_server_takes_no_cpu_and_ends_all_the_same(tmp_path):
    process = Process("busy", [sys.executable, "-c", "while True: pass"], tmp_path / "log", {})
    with ended(Server(process, 0)) as server:
        process.wait_until(lambda: cpu_seconds(process.pid) > 0.2, 20)
        server.halt()
        process.wait_until(lambda: psutil.Process(process.pid).status() == "stopped", 20)
        before = cpu_seconds(process.pid)
        with pytest.raises(StackError):
            process.wait_until(lambda: cpu_seconds(process.pid) > before + 0.02, 0.3)
    assert process.returncode() is not None


def test_cpu_of_children_that_have_ended_counts():
    before = cpu_seconds(os.getpid())
    work = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", work], check=True)
    assert cpu_seconds(os.getpid()) - before >= 0.28  # the system counts in ticks of 10 ms


def turn(clients, milliseconds, cpu_us=100):
    latencies = Latencies()
    latencies.record(milliseconds / 1000)
    return Turn(clients, latencies, 1.0, cpu_us / 1e6, 0.0, 100.0)


def contender(name, turns, *, server="some.server", recall=0.991):
    system = System(name, "some.client", Effort("ef", 1, 9), server=server)
    site = Site("some.client", OWN, None, 0, {})
    choice = Choice(9, True, recall, ((1, 0.91, 1.0), (9, 0.991, 2.0)))
    return Contender(system, site, 12.0, None, choice, turns)


def rounds(milliseconds, milliseconds_of_many, cpu_us, cpu_us_of_many):
    """The machine is slower by half in the second round."""
    return [
        [turn(1, milliseconds * slow, cpu_us), turn(MANY, milliseconds_of_many, cpu_us_of_many)]
        for slow in (1, 1.5, 1)
    ]


def scripted():
    alone = [[turn(1, 0.25 * slow)] for slow in (1, 1.5, 1)]
    return Compared(
        [
            contender(OURS, rounds(1.0, 4.0, 100, 80)),
            contender("other", rounds(2.0, 4.0, 400, 40)),
            contender(FAISS, alone, server=None),
        ],
        {"third": "cannot be installed: no room"},
    )


def test_figures_are_medians_of_the_rounds_ratios_with_their_aims():
    report = peers_report(scripted(), 1000, quick=False)
    figures = {figure.name: figure for figure in report.figures}
    assert figures["p99, 1 client / other"].value == pytest.approx(0.5, rel=0.01)
    assert figures["CPU per query, 1 client / other"].reaches_aim
    assert not figures[f"CPU per query, {MANY} clients / other"].reaches_aim
    assert figures["p50, 1 client / faiss in process"].value == pytest.approx(4, rel=0.01)
    assert not figures["p50, 1 client / faiss in process"].reaches_aim
    assert report.holds  # aims are no musts
    assert not [name for name in figures if name.endswith(" / faiss")]


def test_the_report_has_a_row_for_each_and_the_reason_for_those_that_have_none():
    report = peers_report(scripted(), 1000, quick=True)
    table = report.sections[0].content[0]
    assert [row[0] for row in table.rows] == [OURS, "other", FAISS]
    assert {len(row) for row in table.rows} == {len(table.headings)}
    assert ("third", "cannot be installed: no room") in report.sections[-1].content[0].rows
    assert report.details["absent"] == {"third": "cannot be installed: no room"}
    assert all(figure.aim is None for figure in report.figures)
