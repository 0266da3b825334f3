import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

from local_stack.processes import tied_to_this_process
from releases.__main__ import main
from releases.layout import Part, manifest_path
from releases.local import local_releases
from releases.serving import current_reports
from releases.store import ReleaseStore, claim_path
from tests.support.releases import publish_tiny, tiny_release


def run(store: ReleaseStore, command: str, *options: str | Path) -> int:
    return main([*command.split(), "--store", store.url, *map(str, options)])


def test_a_release_goes_through_its_life(
    store: ReleaseStore,
    staging: Path,
    into: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    document = tmp_path / "manifest.json"
    for release in (1, 2, 3):
        document.write_text(tiny_release(staging, release).model_dump_json())
        assert run(store, "publish", "--staging", staging, "--manifest", document) == 0
    assert run(store, "verify 3") == 0
    assert run(store, "pull --part model --part index", "--into", into) == 0
    assert local_releases(into, [Part.MODEL]) == local_releases(into, [Part.INDEX]) == {2, 3}
    assert local_releases(into, [Part.EMBEDDINGS]) == set()
    assert run(store, "withdraw 3") == 0
    assert run(store, "pull --keep 1", "--into", into) == 0
    assert local_releases(into, list(Part)) == {2}
    assert run(store, "prune --keep 2") == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert [line for line in output.out.splitlines() if line] == [
        "release 1 is published",
        "release 2 is published",
        "release 3 is published",
        "release 3: 7 files, 128 bytes, all as published",
        "holding 3, 2",
        "release 3 is withdrawn",
        "holding 2",
        "removed nothing",
    ]


def test_the_list_shows_every_release_and_its_state(
    store: ReleaseStore, staging: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for release in (1, 2):
        publish_tiny(store, staging, release)
    store.withdraw(1)
    store.create(manifest_path(3), b"{")
    assert run(store, "list") == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    figures = ["2026-11-23T06:00:00Z", "3", "2", "0.7500", "1.0000"]
    assert rows == [
        ["3", "", "", "", "", "", "unreadable"],
        ["2", *figures, "usable"],
        ["1", *figures, "withdrawn"],
    ]
    assert lines[-1].startswith(f"{store.url}/releases/3.json: document: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing command"),
        (["frobnicate"], "No such command 'frobnicate'"),
        (["list"], "Missing option '--store'"),
        (["list", "--store", "nope://x"], "nope://x: Protocol not known: nope"),
        (["verify", "7", "--store", "{tmp}"], "{tmp} has no release 7"),
        (["verify", "x", "--store", "{tmp}"], "Invalid value for 'release'"),
        (["copy", "7", "--from", "{tmp}", "--to", "x"], "{tmp} has no release 7"),
        (["copy", "5", "--from", "{tmp}/s", "--to", "{tmp}/t"], "{tmp}/t already has release 5"),
        (["copy", "5", "--from", "{tmp}/s", "--to", "{tmp}/file"], "{tmp}/file"),
        (["withdraw", "7", "--store", "{tmp}"], "{tmp} has no release 7"),
        (["prune", "--keep", "1", "--store", "{tmp}"], "Invalid value for '--keep'"),
        (["pull", "--into", "{tmp}/into", "--store", "{tmp}"], "{tmp} has no usable release"),
        (["pull", "--into", "{tmp}/file", "--store", "{tmp}/s"], "{tmp}/file"),
        (["pull", "--part", "x", "--into", "x", "--store", "x"], "Invalid value for '--part'"),
        (["publish", "--staging", "x", "--manifest", "{tmp}/x", "--store", "x"], "{tmp}/x"),
        (["publish", "--staging", "x", "--manifest", "{tmp}/file", "--store", "x"], "document"),
    ],
)
def test_an_error_is_one_line_and_exit_code_1(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    publish_tiny(ReleaseStore(f"{tmp_path}/s"), tmp_path / "staging", 5)
    publish_tiny(ReleaseStore(f"{tmp_path}/t"), tmp_path / "staging", 5, "other")
    assert main([argument.format(tmp=tmp_path) for argument in arguments]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    assert message.format(tmp=tmp_path) in output.err


def test_publishing_other_contents_under_the_same_id_is_an_error(
    store: ReleaseStore, staging: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "manifest.json"
    document.write_text(publish_tiny(store, staging, 7).model_dump_json())
    assert run(store, "publish", "--staging", staging, "--manifest", document) == 0
    assert capsys.readouterr().out == "release 7 is published\n"
    document.write_text(tiny_release(staging, 7, "other").model_dump_json())
    assert run(store, "publish", "--staging", staging, "--manifest", document) == 1
    assert capsys.readouterr().err.startswith(f"error: {store.url} already has release 7")


def test_a_dead_publish_of_other_contents_has_to_be_taken_over(
    store: ReleaseStore, staging: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.create(claim_path(7), b"{}")
    document = tmp_path / "manifest.json"
    document.write_text(tiny_release(staging, 7).model_dump_json())
    assert run(store, "publish", "--staging", staging, "--manifest", document) == 1
    assert "if that publisher is dead, repeat with --take-over" in capsys.readouterr().err
    again = run(store, "publish --take-over", "--staging", staging, "--manifest", document)
    assert (again, store.published()) == (0, [7])


def test_a_refused_release_fails_a_single_pull_and_is_named(
    disk_store: ReleaseStore, staging: Path, into: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for release in (1, 2):
        publish_tiny(disk_store, staging, release)
    (Path(disk_store.url) / "models/user_tower/2/saved_model.pb").unlink()
    assert run(disk_store, "pull", "--into", into) == 1
    error = capsys.readouterr().err
    assert "release 2 refused: " in error
    assert "models/user_tower/2/saved_model.pb: is missing (holding 1)" in error
    assert error.count("\n") == 1


def test_the_store_may_come_from_the_environment(
    store: ReleaseStore,
    staging: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish_tiny(store, staging, 7)
    monkeypatch.setenv("RELEASES_STORE", store.url)
    assert main(["verify", "7"]) == 0
    assert "release 7" in capsys.readouterr().out


@contextmanager
def side_car_process(
    store: ReleaseStore, into: Path, *arguments: str
) -> Iterator[subprocess.Popen[str]]:
    """`releases pull --watch`, its log on a pipe; ended, whatever happens to the test."""
    command = [sys.executable, "-m", "releases", "pull", "--watch", "0.1", "--into", str(into)]
    with subprocess.Popen(
        tied_to_this_process([*command, *arguments]),
        env=os.environ | {"RELEASES_STORE": store.url},
        stderr=subprocess.PIPE,
        text=True,
    ) as side_car:
        try:
            yield side_car
        finally:
            side_car.kill()


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_side_car_follows_the_store_until_it_is_told_to_stop(
    disk_store: ReleaseStore, staging: Path, into: Path, stop: signal.Signals
) -> None:
    publish_tiny(disk_store, staging, 1)
    with side_car_process(disk_store, into) as side_car:
        assert side_car.stderr is not None
        log = iter(side_car.stderr.readline, "")
        assert f"release 1 is in {into}" in next(log)
        publish_tiny(disk_store, staging, 2)
        assert f"release 2 is in {into}" in next(log)
        disk_store.withdraw(1)
        assert f"release 1 is no longer in {into}" in next(log)
        side_car.send_signal(stop)
        assert side_car.wait(timeout=30) == 0
        assert list(log) == []
    assert local_releases(into, list(Part)) == {2}


def test_a_side_car_tells_prometheus_what_it_holds_and_refuses(
    disk_store: ReleaseStore, staging: Path, into: Path
) -> None:
    publish_tiny(disk_store, staging, 1)
    publish_tiny(disk_store, staging, 2)
    (Path(disk_store.url) / "models/user_tower/2/saved_model.pb").write_bytes(b"spoilt")
    expected = [
        'recsys_release{kind="pulled"} 1.0',
        'recsys_release_refused_total{reason="mirror"} 1.0',
        "recsys_store_poll_failures_total 0.0",
    ]
    with side_car_process(disk_store, into, "--metrics", "127.0.0.1:0") as side_car:
        assert side_car.stderr is not None
        log = iter(side_car.stderr.readline, "")
        port = int(next(log).rpartition(" ")[2])
        assert any("release 1 is in" in line for line in log)
        for _ in range(200):  # its second look, and its report, come after a tenth of a second
            text = urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
            reports = current_reports(disk_store)
            refused = {release for report in reports for release in report.refused}
            if set(expected) <= set(text.splitlines()) and refused:
                break
            time.sleep(0.05)
        side_car.terminate()
        side_car.communicate(timeout=30)
    (report,) = reports
    assert [line for line in text.splitlines() if line in expected] == expected
    assert (report.held, report.in_use, report.refused) == ({1}, set(), {2})  # type: ignore[comparison-overlap]
    assert current_reports(disk_store) == []


def test_a_side_car_reports_while_it_fetches(
    disk_store: ReleaseStore, staging: Path, into: Path
) -> None:
    publish_tiny(disk_store, staging, 1)
    file = Path(disk_store.url) / "models/user_tower/1/saved_model.pb"
    whole = file.rename(file.with_name("whole"))
    os.mkfifo(file)

    def until_reported(held: set[int]) -> bool:
        for _ in range(200):
            if [report.held for report in current_reports(disk_store)] == [held]:
                return True
            time.sleep(0.05)
        return False

    with side_car_process(disk_store, into):
        assert until_reported(set())
        with file.open("wb"):  # opens once the side-car reads, whose look then fails
            whole.replace(file)
        assert until_reported({1})


@pytest.mark.parametrize("address", ["9104", "x:", "127.0.0.1:70000"])
def test_a_malformed_metrics_address_is_refused(
    disk_store: ReleaseStore, into: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(disk_store, "pull --watch 1", "--into", into, "--metrics", address) == 1
    assert capsys.readouterr().err == f"error: --metrics: {address!r} is not host:port\n"


@pytest.mark.parametrize("option", [("--stagger", "3"), ("--metrics", "127.0.0.1:0")])
def test_what_is_for_following_is_refused_without(
    disk_store: ReleaseStore,
    into: Path,
    option: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(disk_store, "pull", "--into", into, *option) == 1
    assert "are for --watch" in capsys.readouterr().err


def test_the_program_reports_errors_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "releases", "verify", "7", "--store", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {tmp_path} has no release 7")
    assert done.stderr.count("\n") == 1
