import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tf_serving.versions import (
    All,
    Latest,
    Load,
    Specific,
    Unload,
    VersionPolicy,
    fingerprint,
    next_step,
    versions_in,
)

numbers = st.frozensets(st.integers(1, 9), max_size=6)
policies: st.SearchStrategy[VersionPolicy] = st.one_of(
    st.builds(Latest, st.integers(1, 3)), st.just(All()), st.builds(Specific, numbers)
)


@given(found=numbers, count=st.integers(1, 4))
def test_latest_wants_the_highest_and_as_many_as_there_are(found, count):
    wanted = Latest(count).wanted(found)
    assert wanted <= found
    assert len(wanted) == min(count, len(found))
    assert all(version < min(wanted) for version in found - wanted)


@given(found=numbers, named=numbers)
def test_specific_wants_the_named_that_exist_and_all_wants_everything(found, named):
    assert Specific(named).wanted(found) == named & found
    assert All().wanted(found) == found


def settle(found, wanted, available, broken):
    """Take every step; answer what was in memory after each, and what failed."""
    refused = set[int]()
    history = [set(available)]
    for _ in range(50):
        available = set(history[-1])
        match next_step(found=found, wanted=wanted, available=available, refused=refused):
            case Load(version):
                assert version in wanted - available - refused
                (refused if version in broken else available).add(version)
            case Unload(version):
                available.remove(version)
            case None:
                return history, refused
        history.append(available)
    raise AssertionError("it never comes to rest")


changes = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=5)


@given(policy=policies, rounds=changes)
def test_steps_end_with_what_is_wanted_and_loadable(policy, rounds):
    available = set[int]()
    for found, broken in rounds:
        wanted = policy.wanted(found)
        history, refused = settle(found, wanted, available, broken)
        available = history[-1]
        good = wanted - refused
        assert good <= available
        if good:
            assert available == good
        else:
            # Nothing better: at most one old version stays, and only while its directory does.
            assert len(available) <= 1
            assert available <= found


@given(rounds=changes, count=st.integers(1, 3))
def test_a_server_that_answers_never_stops_answering_for_a_change(rounds, count):
    available = set[int]()
    for found, broken in rounds:
        history, _ = settle(found, Latest(count).wanted(found), available, broken)
        available = history[-1]
        if available and history[0]:
            assert all(history)


@given(rounds=changes, count=st.integers(2, 3))
def test_memory_never_holds_more_versions_than_the_policy_asks_for(rounds, count):
    available = set[int]()
    for found, broken in rounds:
        history, _ = settle(found, Latest(count).wanted(found), available, broken)
        available = history[-1]
        assert max(map(len, history)) <= count


def test_the_oldest_of_two_goes_before_a_third_is_loaded():
    step = next_step(found={1, 2, 3}, wanted={2, 3}, available={1, 2}, refused=set())
    assert step == Unload(1)


def test_the_only_version_stays_until_its_successor_is_there():
    assert next_step(found={1, 2}, wanted={2}, available={1}, refused=set()) == Load(2)
    assert next_step(found={1, 2}, wanted={2}, available={1}, refused={2}) is None


def test_a_withdrawn_version_goes_even_when_it_is_the_last():
    assert next_step(found=set(), wanted=set(), available={1}, refused=set()) == Unload(1)
    assert next_step(found={2}, wanted={2}, available={1}, refused={2}) == Unload(1)


def test_only_directories_with_numbers_for_names_are_versions(tmp_path: Path):
    for name in ("1", "0020", "3.partial", "-4", "latest", "५", "9" * 30):
        (tmp_path / name).mkdir()
    (tmp_path / "7").touch()
    assert versions_in(tmp_path) == {1: tmp_path / "1", 20: tmp_path / "0020"}


def test_a_fingerprint_tells_a_changed_directory_from_the_same(tmp_path: Path):
    (tmp_path / "variables").mkdir()
    file = tmp_path / "variables" / "data"
    file.write_bytes(b"one")
    first = fingerprint(tmp_path)
    assert fingerprint(tmp_path) == first
    os.utime(file, ns=(1, 1))
    second = fingerprint(tmp_path)
    file.write_bytes(b"other")
    third = fingerprint(tmp_path)
    (tmp_path / "more").touch()
    assert len({first, second, third, fingerprint(tmp_path)}) == 4
