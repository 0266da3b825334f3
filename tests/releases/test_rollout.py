"""A release waits for the one before it; what is in service is known from reports in the store."""

import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from releases.__main__ import main
from releases.errors import NotInServiceError, StoreError
from releases.layout import SERVING
from releases.prune import prune
from releases.publish import publish
from releases.rollout import Wait, hindrance, refuse_in_split, wait_for_service
from releases.serving import (
    ServingReport,
    current_reports,
    releases_in_use,
    remove_report,
    write_report,
)
from releases.split import Split
from releases.store import ReleaseStore
from tests.support.releases import publish_tiny, tiny_release


def now_ms() -> int:
    return time.time_ns() // 10**6


def report(server: str = "faiss-1", age_ms: int = 0, **fields: Any) -> ServingReport:
    said: dict[str, Any] = {"held": {1}, "in_use": {1}, "refused": set(), **fields}
    return ServingReport(server=server, reported_at_ms=now_ms() - age_ms, **said)


def test_reports_replace_each_other_and_grow_old(store: ReleaseStore) -> None:
    assert current_reports(store) == []
    write_report(store, report())
    write_report(store, report("faiss-2", in_use={2}))
    write_report(store, newer := report(in_use={3, 4}))
    write_report(store, report("faiss-3", age_ms=60_000, in_use={5}))
    clock_put_back = report("faiss-4", age_ms=-60_000, in_use={6})
    write_report(store, clock_put_back)
    assert {one.server: one.in_use for one in current_reports(store)} == {
        "faiss-1": {3, 4},
        "faiss-2": {2},
    }
    assert releases_in_use(current_reports(store)) == {2, 3, 4}
    assert newer in current_reports(store)
    remove_report(store, "faiss-1")
    remove_report(store, "faiss-1")
    assert releases_in_use(current_reports(store)) == {2}


def test_what_is_no_report_says_nothing(store: ReleaseStore) -> None:
    store.put(f"{SERVING}/strange.json", b"{")
    store.put(f"{SERVING}/future.json", b'{"schema_version": 2}')
    write_report(store, report())
    assert len(current_reports(store)) == 1


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"held": {1}, "in_use": {1}}, None),
        ({"held": {1, 2}, "in_use": set()}, None),
        ({"held": set(), "in_use": set()}, "faiss-1 does not hold release 1 yet"),
        ({"held": {1, 2}, "in_use": {2}}, "callers of faiss-1 still answer from release 2"),
        ({"held": {1, 2}, "in_use": {1, 2}}, "callers of faiss-1 still answer from release 2"),
        ({"held": {2}, "in_use": {2}, "refused": {1}}, None),
    ],
)
def test_the_release_before_has_to_be_held_and_answered_from_everywhere(
    store: ReleaseStore, staging: Path, said: dict[str, Any], why: str | None
) -> None:
    publish_tiny(store, staging, 1)
    write_report(store, report("faiss-0"))
    write_report(store, report(**said))
    assert hindrance(store, 3) == why


def test_a_release_that_anybody_refuses_is_not_waited_for(
    store: ReleaseStore, staging: Path
) -> None:
    publish_tiny(store, staging, 1)
    publish_tiny(store, staging, 2)
    write_report(store, report(held={1, 2}, in_use={1}))
    assert hindrance(store, 3) is not None
    write_report(store, report("side-car", held={1}, in_use=set(), refused={2}))
    assert hindrance(store, 3) is None


def test_a_look_that_fails_is_one_more_reason_to_wait(
    disk_store: ReleaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([StoreError("no route to host")])
    told: list[str] = []

    def usable() -> list[int]:
        for failure in looks:
            raise failure
        return []

    monkeypatch.setattr(disk_store, "usable", usable)
    wait_for_service(disk_store, 7, Wait(30, told.append))
    assert told == ["the store does not tell what is in service: no route to host"]


def test_nothing_hinders_the_first_release_an_older_one_or_without_reports(
    store: ReleaseStore, staging: Path
) -> None:
    write_report(store, report(held=set(), in_use=set()))
    assert hindrance(store, 1) is None
    publish_tiny(store, staging, 5)
    assert hindrance(store, 4) is None
    assert hindrance(store, 6) is not None
    store.withdraw(5)
    assert hindrance(store, 6) is None
    publish_tiny(store, staging, 6)
    remove_report(store, "faiss-1")
    assert hindrance(store, 7) is None


def test_a_split_that_goes_on_hinders(store: ReleaseStore, staging: Path) -> None:
    publish_tiny(store, staging, 1)
    publish_tiny(store, staging, 2)
    write_report(store, report(held={1, 2}, in_use={1}))
    store.set_split(Split(release=2, share=0.1, changed_at_ms=1))
    why = hindrance(store, 3)
    assert why is not None
    with pytest.raises(NotInServiceError, match=re.escape(why)):
        refuse_in_split(store, 3)
    assert "10.0% of the users get release 2" in why
    assert "`python -m releases split 2=100%`" in why
    assert "`python -m releases withdraw 2`" in why
    store.set_split(Split(release=2, share=0.0, changed_at_ms=1))
    assert hindrance(store, 3) is None
    refuse_in_split(store, 3)
    write_report(store, report(held={1, 2}, in_use={2}))
    store.set_split(Split(release=2, share=1.0, changed_at_ms=1))
    assert hindrance(store, 3) is None
    store.set_split(Split(release=3, share=0.1, changed_at_ms=1))  # of the one to be published
    assert hindrance(store, 3) is None
    refuse_in_split(store, 3)


def test_what_waiting_ends_is_no_split(store: ReleaseStore, staging: Path) -> None:
    refuse_in_split(store, 1)
    publish_tiny(store, staging, 1)
    publish_tiny(store, staging, 2)
    write_report(store, report(held={1}, in_use={1}))
    assert hindrance(store, 3) is not None
    refuse_in_split(store, 3)
    store.set_split(Split(release=2, share=0.5, changed_at_ms=1))
    store.withdraw(2)
    refuse_in_split(store, 3)


def test_publishing_waits_says_why_and_goes_on(disk_store: ReleaseStore, staging: Path) -> None:
    publish_tiny(disk_store, staging, 1)
    write_report(disk_store, report(held=set()))
    told: list[str] = []
    waiting = threading.Event()

    def tell(why: str) -> None:
        told.append(why)
        waiting.set()

    manifest = tiny_release(staging, 2)
    publisher = threading.Thread(
        target=publish, args=(disk_store, staging, manifest), kwargs={"wait": Wait(30, tell)}
    )
    publisher.start()
    assert waiting.wait(10)
    assert disk_store.published() == [1]
    write_report(disk_store, report())
    publisher.join(10)
    assert disk_store.published() == [2, 1]
    assert told == ["faiss-1 does not hold release 1 yet"]


def test_publishing_gives_up_shows_nothing_and_can_be_forced(
    disk_store: ReleaseStore, staging: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_tiny(disk_store, staging, 1)
    write_report(disk_store, report(held={1, 9}, in_use={9}))
    manifest = tiny_release(staging, 2)
    with pytest.raises(NotInServiceError, match="from release 9; wait and repeat it") as refused:
        publish(disk_store, staging, manifest, wait=Wait(0))
    assert "--force" not in str(refused.value)  # workflows have no such option
    assert disk_store.published() == [1]
    path = tmp_path / "manifest.json"
    path.write_text(manifest.model_dump_json())
    command = ["publish", "--store", disk_store.url, "--staging", str(staging)]
    command += ["--manifest", str(path), "--wait", "0.1"]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "waiting: callers of faiss-1 still answer from release 9" in said
    assert "error: " in said
    assert "--force" in said
    assert main([*command, "--force"]) == 0
    assert disk_store.published() == [2, 1]


def test_prune_leaves_what_is_held_or_answered_from(store: ReleaseStore, staging: Path) -> None:
    for release in (1, 2, 3, 4, 5):
        publish_tiny(store, staging, release)
    write_report(store, report(held={5, 2}, in_use={2}))
    write_report(store, report("long-gone", age_ms=2 * 24 * 3600 * 1000, held={1}))
    assert prune(store, 2) == [3, 1]
    assert store.published() == [5, 4, 2]
    assert [name for name in store.files_in(SERVING) if "long-gone" in name] == []
