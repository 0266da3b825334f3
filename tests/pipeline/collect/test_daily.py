"""A log that grows by a file a day: only new days are read, and nothing twice."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest
from pydantic import ValidationError

from pipeline.errors import EventsError, SourceError
from pipeline.options import CollectOptions
from tests.support.collecting import EVERYTHING, collect, rows_of_histories
from tests.support.firebase import write_firebase

HEADER = "user_id,item_id,timestamp,region_id\n"


def second(day, hour=12):
    return int(datetime(2026, 11, day, hour, tzinfo=UTC).timestamp())


@pytest.fixture
def log(tmp_path):
    folder = tmp_path / "log"
    folder.mkdir()
    for day in range(1, 11):
        write_day(folder, day, [("ann", day, second(day), ""), ("bob", day, second(day), 3)])
    return folder


def write_day(folder, day, rows):
    path = folder / f"events_202611{day:02}.csv"
    path.write_text(HEADER + "".join(",".join(map(str, row)) + "\n" for row in rows))
    return path


def test_a_second_run_reads_the_new_day_and_the_look_back_and_no_more(log, tmp_path):
    first = collect(log, None, tmp_path / "1")
    assert (first.rows_read, first.event_count, first.duplicates_dropped) == (20, 20, 0)
    assert first.bytes_scanned == sum(file.stat().st_size for file in log.iterdir())
    new = write_day(log, 11, [("ann", 11, second(11), "")])
    second_run = collect(log, None, tmp_path / "2", CollectOptions(look_back_days=1))
    read_again = [log / "events_20261109.csv", log / "events_20261110.csv", new]
    assert second_run.bytes_scanned == sum(file.stat().st_size for file in read_again)
    assert (second_run.rows_read, second_run.duplicates_dropped) == (5, 4)
    assert second_run.event_count == 21


def test_repeating_a_run_changes_nothing_and_says_so(log, tmp_path, capsys):
    first = collect(log, None, tmp_path / "1")
    assert capsys.readouterr().err == ""
    again = collect(log, None, tmp_path / "2")
    told = f"collect: nothing new was read from {log}; the newest view is of 2026-11-10 12:00 UTC\n"
    assert capsys.readouterr().err == told
    assert rows_of_histories(first) == rows_of_histories(again)
    assert again.rows_read < first.rows_read
    assert again.rows_read == again.duplicates_dropped


def test_a_late_event_is_taken_within_the_look_back_and_not_beyond(log, tmp_path):
    collect(log, None, tmp_path / "1")
    late = ("cat", 77, second(9), "")
    too_late = ("cat", 78, second(3), "")
    for day, row in ((9, late), (3, too_late)):
        with (log / f"events_202611{day:02}.csv").open("a") as file:
            file.write(",".join(map(str, row)) + "\n")
    after = collect(log, None, tmp_path / "2")
    assert [row for row in rows_of_histories(after) if row[0] == "cat"] == [
        ("cat", 77, -1, second(9))
    ]


def test_an_event_in_the_file_of_another_day_is_the_same_event(log, tmp_path):
    """What arrives after midnight is written into the next day's file as well."""
    before = collect(log, None, tmp_path / "1")
    write_day(log, 11, [("bob", 10, second(10), 3)])
    after = collect(log, None, tmp_path / "2")
    assert after.event_count == before.event_count
    assert rows_of_histories(after) == rows_of_histories(before)


def test_a_clock_that_is_ahead_hides_no_later_day(log, tmp_path):
    """Two days after its file a view is one of time zones; later, it is none."""
    ahead = [("cat", 5, second(13), ""), ("dan", 5, second(14, 0), "")]
    write_day(log, 11, [("ann", 11, second(11), ""), *ahead])
    first = collect(log, None, tmp_path / "1")
    assert (first.event_count, first.unusable_dropped) == (22, 1)
    assert (first.last_event, first.duplicates_dropped) == (second(13), 0)
    write_day(log, 12, [("ann", 12, second(12), "")])
    again = collect(log, None, tmp_path / "2", CollectOptions(look_back_days=0))
    assert (again.rows_read, again.event_count) == (4, 23)


def test_a_file_of_a_day_that_has_not_come_hides_no_other(log, tmp_path):
    (log / "events_20991231.csv").write_text(f"{HEADER}ann,1,{second(3, 1)},\n")
    assert collect(log, None, tmp_path / "1").event_count == 21
    write_day(log, 11, [("ann", 11, second(11), "")])
    assert collect(log, None, tmp_path / "2").event_count == 22


def test_views_that_were_kept_without_the_days_of_their_log_are_read_anew_once(log, tmp_path):
    first = collect(log, None, tmp_path / "1")
    with duckdb.connect(str(tmp_path / "log.views.duckdb")) as views:
        views.execute("ALTER TABLE views DROP COLUMN log_day")
        views.execute(f"INSERT INTO views VALUES ('cat', 1, -1, {second(30)}, 1, '2026-11-30')")
    write_day(log, 11, [("ann", 11, second(11), "")])
    second_run = collect(log, None, tmp_path / "2")
    assert (second_run.rows_read, second_run.duplicates_dropped) == (21, 20)
    assert second_run.event_count == first.event_count + 2
    third = collect(log, None, tmp_path / "3")
    assert third.rows_read == 5


def test_a_bad_line_leaves_the_views_as_they_were(log, tmp_path):
    collect(log, None, tmp_path / "1")
    write_day(log, 11, [("ann", 11, second(11), "")])
    bad = write_day(log, 12, [("ann", 12, second(12), ""), ("ann", "x", second(12), "")])
    with pytest.raises(EventsError) as refused:
        collect(log, None, tmp_path / "2")
    assert str(refused.value).startswith(f"{bad}: line 3: item_id is 'x'")
    bad.unlink()
    mended = collect(log, None, tmp_path / "3")
    assert (mended.rows_read - mended.duplicates_dropped, mended.event_count) == (1, 21)


def test_a_run_that_is_killed_in_the_middle_leaves_the_views_as_they_were(log, tmp_path):
    collect(log, None, tmp_path / "1")
    write_day(log, 11, [("ann", 11, second(11), "")])
    program = """
import os, signal, sys
from pathlib import Path
import pipeline.collect.files as files
from tests.support.collecting import collect
merged = files._merge
def merge_and_die(*arguments):
    merge_and_die.count += 1
    read = merged(*arguments)
    if merge_and_die.count == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return read
merge_and_die.count = 0
files._merge = merge_and_die
collect(Path(sys.argv[1]), None, Path(sys.argv[2]))
"""
    command = [sys.executable, "-c", program, str(log), str(tmp_path / "2")]
    killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(Path.cwd())}, check=False)
    assert killed.returncode == -signal.SIGKILL
    with duckdb.connect(str(tmp_path / "log.views.duckdb"), read_only=True) as views:
        assert views.execute("SELECT count(*) FROM views").fetchone() == (20,)
    assert not (tmp_path / "2" / "record.json").exists()
    assert collect(log, None, tmp_path / "3").event_count == 21


def test_two_runs_at_once_are_told_apart(log, tmp_path):
    collect(log, None, tmp_path / "1")
    other = (
        "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True);"
        "sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", other, str(tmp_path / "log.views.duckdb")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(SourceError, match=r"log\.views\.duckdb: the views cannot be opened"):
            collect(log, None, tmp_path / "2")
        holder.stdin.close()


def test_a_folder_without_daily_files_is_told(tmp_path):
    folder = tmp_path / "log"
    folder.mkdir()
    with pytest.raises(EventsError, match="no daily file such as"):
        collect(folder, None, tmp_path / "1")
    (folder / "events.csv").write_text(HEADER)
    with pytest.raises(EventsError, match="must end in its day"):
        collect(folder, None, tmp_path / "1")
    (folder / "events.csv").rename(folder / "events_20261399.csv")
    with pytest.raises(EventsError, match="must end in its day"):
        collect(folder, None, tmp_path / "1")


def test_firebase_s_nested_events_are_read_as_the_flat_ones_are(tmp_path):
    views = [("ann", 5, second(1), 7), ("ann", 6, second(1), None), ("bob", 5, second(2), -3)]
    nested, flat = tmp_path / "nested", tmp_path / "flat"
    nested.mkdir()
    flat.mkdir()
    write_firebase(nested / "events_20261101.parquet", views)
    rows = [(u, a, at, "" if r is None or r < 0 else r) for u, a, at, r in views]
    write_day(flat, 1, rows)
    of_nested = collect(nested, None, tmp_path / "1")
    assert rows_of_histories(of_nested) == rows_of_histories(collect(flat, None, tmp_path / "2"))
    assert of_nested.has_regions


def test_what_is_no_view_of_an_article_is_passed_over_and_counted(tmp_path):
    views = [("ann", 5, second(1), None), ("ann", "home", second(1), None), ("ann", -4, 9, None)]
    path = write_firebase(tmp_path / "events.parquet", views)
    collected = collect(path, None, tmp_path / "1")
    assert (collected.event_count, collected.rows_read, collected.unusable_dropped) == (1, 3, 2)
    others = write_firebase(tmp_path / "others.parquet", views, name="screen_view")
    with pytest.raises(EventsError, match="there are no events in it"):
        collect(others, None, tmp_path / "2")
    useless = write_firebase(tmp_path / "useless.parquet", views[1:])
    with pytest.raises(EventsError, match="none of its 2 events is a view of an article"):
        collect(useless, None, tmp_path / "3")


def test_users_who_are_logged_out_are_told_apart_by_their_devices(tmp_path):
    """An app clears the id with an empty text."""
    views = [("ann", 5, 1, None), ("bob", 5, 1, None), ("", 5, 1, None)]
    logged_out = write_firebase(tmp_path / "events.parquet", views, user_id="")
    collected = collect(logged_out, None, tmp_path / "1")
    assert [row[0] for row in rows_of_histories(collected)] == ["ann", "bob"]
    assert collected.unusable_dropped == 1
    logged_in = write_firebase(tmp_path / "known.parquet", views, user_id="cat")
    assert collect(logged_in, None, tmp_path / "2").user_count == 1


def test_firebase_s_user_ids_may_be_as_long_as_the_recommender_s(tmp_path):
    views = [("ä" * 128, 5, 1, None), ("ä" * 128 + "b", 5, 1, None)]
    path = write_firebase(tmp_path / "events.parquet", views)
    collected = collect(path, None, tmp_path / "1")
    assert [row[0] for row in rows_of_histories(collected)] == ["ä" * 128]
    assert collected.unusable_dropped == 1


@pytest.mark.parametrize("name", ["it's", "", "a b", "a" * 41, "a\n"])
def test_a_name_that_firebase_has_none_of_is_refused(name):
    for option in ("event_name", "article_param", "region_param"):
        with pytest.raises(ValidationError, match=rf"{option}\n +String should match"):
            CollectOptions(**{option: name})
    assert CollectOptions(event_name="a" * 40).event_name == "a" * 40


def test_views_of_clocks_that_are_wrong_and_of_other_times_are_left_out(log, tmp_path):
    window = replace(EVERYTHING, since=second(3, 0), until=second(6, 0))
    collected = collect(log, None, tmp_path / "1", window=window)
    assert {row[1] for row in rows_of_histories(collected)} == {3, 4, 5}
    assert collected.future_dropped == 10
    assert (collected.first_event, collected.last_event) == (second(3), second(5))
    with pytest.raises(EventsError, match="all 20 views claim to come after the start"):
        collect(log, None, tmp_path / "2", window=replace(EVERYTHING, until=second(1, 0)))
    with pytest.raises(EventsError, match="no views in the window: give more --window-days"):
        collect(log, None, tmp_path / "3", window=replace(EVERYTHING, since=second(20)))


def test_of_a_user_with_very_many_views_the_newest_are_kept(tmp_path):
    rows = [("robot", n, n, "") for n in range(100_000)] + [("ann", 5, 1, "")]
    path = tmp_path / "events.csv"
    path.write_text(HEADER + "".join(",".join(map(str, row)) + "\n" for row in rows))
    collected = collect(path, None, tmp_path / "1", CollectOptions(max_user_views=50))
    views = [row[1] for row in rows_of_histories(collected) if row[0] == "robot"]
    assert views == list(range(99_950, 100_000))
    assert collected.views_dropped == 99_950
    assert collected.event_count == 100_001
