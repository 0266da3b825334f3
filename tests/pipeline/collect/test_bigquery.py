"""BigQuery: the real client against its REST API, and one text for both engines."""

from dataclasses import replace
from datetime import UTC, date, datetime

import duckdb
import pyarrow.parquet as pq
import pytest
import sqlglot
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.collect import sql
from pipeline.errors import SourceError
from pipeline.options import BigQueryOptions, CollectOptions
from tests.support.bigquery import BYTES_OF_A_ROW, PROJECT, fake_bigquery
from tests.support.collecting import EVERYTHING, collect, rows_of_histories
from tests.support.firebase import write_firebase

VIEWS = "`shop.recsys.views`"
EXTRACTED = sql.extract_firebase("`shop.a.events_*`", "view", "a", "r", sql.TABLE_DAY)
TEXTS = {
    "create": sql.CREATE_VIEWS.format(views=VIEWS),
    "add_log_day": sql.ADD_LOG_DAY.format(views=VIEWS),
    "watermark": sql.watermark(VIEWS, date(2026, 11, 26)),
    "counts": sql.counts(EXTRACTED),
    "merge": sql.merge(VIEWS, EXTRACTED, date(2026, 11, 1)),
    "histories": sql.histories(VIEWS, 0, 10, 5),
    "article_views": sql.article_views(VIEWS, 0, 10, 9, 1.5),
    "summary": sql.summary(VIEWS, 0, 10, 5),
}


def second(day, hour=12):
    return int(datetime(2026, 11, day, hour, tzinfo=UTC).timestamp())


@pytest.mark.parametrize("name", TEXTS)
def test_bigquery_s_parser_takes_every_text(name):
    (statement,) = sqlglot.parse(TEXTS[name], read="bigquery")
    assert not list(statement.find_all(sqlglot.exp.Command))  # what it does not understand
    again = statement.sql(dialect="bigquery")
    assert sqlglot.parse_one(again, read="bigquery") == statement
    assert sql.for_duckdb(TEXTS[name])


@pytest.fixture
def server(monkeypatch):
    with fake_bigquery() as fake:
        monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", fake.url)
        yield fake


@pytest.fixture
def options(tmp_path):
    place = BigQueryOptions(
        project=PROJECT,
        source="analytics.events_*",
        views="recsys.views",
        export_url=f"file://{tmp_path}/bucket",
    )
    return CollectOptions(bigquery=place)


def add_day(server, tmp_path, day, views):
    name = f"202611{day:02}"
    server.add_day(name, write_firebase(tmp_path / f"{name}.parquet", views))


@pytest.fixture
def log(server, tmp_path):
    for day in range(1, 8):
        views = [("ann", day, second(day), 4), ("bob", 10 * day, second(day), None)]
        add_day(server, tmp_path, day, views)
    return server


def gather(options, directory, **window):
    moment = {"until": second(8, 0), **window}
    return collect(None, None, directory, options, replace(EVERYTHING, **moment))


def popularity(collected):
    return [pq.read_table(shard).to_pylist() for shard in collected.article_views]


@pytest.mark.usefixtures("log")
def test_histories_come_back_as_they_do_from_the_same_files(options, tmp_path):
    collected = gather(options, tmp_path / "1")
    folder = tmp_path / "log"
    folder.mkdir()
    for file in tmp_path.glob("2026*.parquet"):
        (folder / f"events_{file.name}").write_bytes(file.read_bytes())
    local = collect(folder, None, tmp_path / "2", window=replace(EVERYTHING, until=second(8, 0)))
    assert rows_of_histories(collected) == rows_of_histories(local)
    assert len({str(popularity(each)) for each in (collected, local)}) == 1
    assert replace(collected, directory=local.directory, bytes_scanned=0) == replace(
        local, bytes_scanned=0
    )


def test_a_second_run_scans_the_new_day_and_the_look_back_and_no_more(log, options, tmp_path):
    first = gather(options, tmp_path / "1")
    scans = 2  # counting, then merging
    assert first.bytes_scanned == 14 * BYTES_OF_A_ROW * scans
    add_day(log, tmp_path, 8, [("ann", 8, second(8), 4)])
    again = gather(replace(options, look_back_days=1), tmp_path / "2", until=second(9, 0))
    assert again.bytes_scanned == 5 * BYTES_OF_A_ROW * scans
    assert (again.rows_read, again.duplicates_dropped, again.event_count) == (5, 4, 15)


def test_a_clock_that_is_ahead_hides_no_later_table(log, options, tmp_path):
    """Two days after its table a view is one of time zones; later, it is none."""
    ahead = [("cat", 8, second(10), None), ("dan", 8, second(11, 0), None)]
    add_day(log, tmp_path, 8, [("ann", 8, second(8), 4), *ahead])
    first = gather(options, tmp_path / "1", until=second(9, 0))
    assert (first.unusable_dropped, first.future_dropped, first.event_count) == (1, 1, 15)
    add_day(log, tmp_path, 9, [("ann", 9, second(9), 4)])
    no_look_back = replace(options, look_back_days=0)
    again = gather(no_look_back, tmp_path / "2", until=second(11, 0))
    assert (again.rows_read, again.event_count) == (4, 17)


@pytest.mark.usefixtures("log")
def test_repeating_a_run_changes_nothing(options, tmp_path):
    first, again = gather(options, tmp_path / "1"), gather(options, tmp_path / "2")
    assert rows_of_histories(first) == rows_of_histories(again)


@pytest.mark.usefixtures("log")
def test_only_what_this_export_wrote_is_read_and_nothing_of_it_is_left(options, tmp_path):
    bucket = tmp_path / "bucket"
    left = bucket / "1" / "histories" / "part-7.parquet"
    left.parent.mkdir(parents=True)
    left.write_text("a shard of an export before this one")
    other = bucket / "of-somebody-else"
    other.touch()
    assert len(gather(options, tmp_path / "1").histories) == 1
    assert [path for path in bucket.rglob("*") if path.is_file()] == [other]


@pytest.mark.usefixtures("log")
def test_what_cloud_storage_answers_is_one_line_and_no_user_is_left_there(
    options, tmp_path, monkeypatch
):
    """Its client's errors have no base but Exception."""
    answer = type("HttpError", (Exception,), {})

    def fail(*_, **__):
        raise answer("we are\nsorry, 500")

    monkeypatch.setattr(LocalFileSystem, "get_file", fail)
    with pytest.raises(SourceError) as refused:
        gather(options, tmp_path / "1")
    assert str(refused.value) == f"file://{tmp_path}/bucket/1/histories: we are sorry, 500"
    assert not [path for path in (tmp_path / "bucket").rglob("*") if path.is_file()]


def test_every_query_says_what_it_may_cost_and_too_dear_a_one_is_told(log, options, tmp_path):
    dear = replace(options, bigquery=replace(options.bigquery, max_bytes_billed=200))
    with pytest.raises(SourceError) as refused:
        gather(dear, tmp_path / "1")
    assert str(refused.value).startswith(f"BigQuery, project {PROJECT}: ")
    assert "limit for bytes billed: 200" in str(refused.value)
    assert "(raise max_bytes_billed in the --bigquery file, or give fewer" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert {query["maximumBytesBilled"] for query in log.queries} == {"200"}
    assert not any(query.get("useLegacySql") for query in log.queries)


def test_a_refused_merge_is_one_line_and_the_run_can_be_repeated(log, options, tmp_path):
    log.fail_with = (403, "accessDenied", "Access Denied: Table shop:recsys.views")
    with pytest.raises(SourceError, match=r"project shop: Access Denied: Table shop:recsys\.views"):
        gather(options, tmp_path / "1")
    assert gather(options, tmp_path / "2").event_count == 14


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["ann", "bob", "cat"]),
        st.integers(0, 4),
        st.integers(0, 6),
        st.sampled_from([None, 1, 2]),
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=40)
@given(EVENTS, EVENTS, st.integers(1, 4), st.integers(0, 3), st.integers(3, 7))
def test_histories_are_those_of_a_plain_model(tmp_path_factory, first, then, most, since, until):
    """Whatever comes twice, late, at the same second or outside of the window."""
    folder = tmp_path_factory.mktemp("model")
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone='UTC'")
        connection.execute(sql.for_duckdb(sql.CREATE_VIEWS.format(views="views")))
        for number, events in enumerate((first, then, first)):
            path = write_firebase(folder / f"{number}.parquet", events)
            connection.execute(
                f"CREATE OR REPLACE TEMP VIEW log AS SELECT * FROM read_parquet('{path}')"
            )
            fresh = sql.extract_firebase(
                "log", "view_article", "article_id", "region_id", sql.day_of_a_file(None)
            )
            connection.execute(sql.for_duckdb(sql.merge("views", fresh, date(1970, 1, 1))))
        query = sql.for_duckdb(sql.histories("views", since, until, most))
        found = connection.execute(query).fetchall()
        summary = connection.execute(
            sql.for_duckdb(sql.summary("views", since, until, most))
        ).fetchone()
    kept: dict[tuple[str, int, int], tuple[int, int]] = {}
    for events in (first, then):
        new: dict[tuple[str, int, int], tuple[int, int]] = {}
        for place, (user, article, at, region) in enumerate(events):
            known, earliest = new.get((user, article, at), (-1, 10**9))
            known = max(known, -1 if region is None else region)
            new[user, article, at] = known, min(earliest, at * 10**6 + place)
        kept = {**new, **kept}
    expected = {}
    for (user, article, at), (region, _) in sorted(
        kept.items(), key=lambda each: (each[0][0], each[0][2], each[1][1], each[0][1])
    ):
        if since <= at < until:
            expected.setdefault(user, []).append((article, region, at))
    assert found == [
        (user, *(list(column) for column in zip(*views[-most:], strict=True)))
        for user, views in sorted(expected.items())
    ]
    assert summary[:4] == (
        sum(at >= until for _, _, at in kept),
        sum(max(len(views) - most, 0) for views in expected.values()),
        sum(map(len, expected.values())),
        len(expected),
    )
