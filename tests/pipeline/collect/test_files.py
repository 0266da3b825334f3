"""Reading events: what is accepted, and how each kind of bad input is refused."""

import gzip
import shutil

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pipeline.collect import sql
from pipeline.collect.sql import WEIGHT_UNITS
from pipeline.errors import EventsError, ItemsError
from pipeline.items import read_titles
from pipeline.options import CollectOptions
from recommender.requests import _MAX_USER_ID_BYTES, checked_user_id
from tests.support.collecting import collect, rows_of_histories
from tests.support.object_stores import AWS_ENVIRONMENT, s3_server

HEADER = "user_id,item_id,timestamp,region_id"
EVENTS = f"{HEADER},note\nbob,7,30,1,x\nann,5,20,,y\nann,6,10,2,z\nann,5,20,2,again\nann,4,20,2,\n"
COLLECTED = [("ann", 6, 2, 10), ("ann", 5, 2, 20), ("ann", 4, 2, 20), ("bob", 7, 1, 30)]


def collected_rows(source, workdir):
    shutil.rmtree(workdir / "histories", ignore_errors=True)
    shutil.rmtree(workdir / "article_views", ignore_errors=True)
    return rows_of_histories(collect(source, None, workdir))


def written(tmp_path, text, name="events.csv"):
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


def test_events_are_sorted_by_user_time_and_place_and_duplicates_are_dropped(tmp_path):
    """Of a view that is told twice, a region that is known is kept."""
    collected = collect(written(tmp_path, EVENTS), None, tmp_path / "work")
    assert rows_of_histories(collected) == COLLECTED
    assert collected.duplicates_dropped == 1
    assert (collected.event_count, collected.user_count, collected.article_count) == (4, 2, 4)
    assert (collected.first_event, collected.last_event) == (10, 30)
    assert collected.has_regions


def weights_of(collected):
    """What views weigh, by article and region."""
    (shard,) = collected.article_views
    rows = pq.read_table(shard).to_pylist()
    return {
        (row["article_id"], row["region_id"]): (row["views"], row["weight"] / WEIGHT_UNITS)
        for row in rows
    }


def test_a_view_weighs_half_as_much_after_each_half_life(tmp_path):
    days = [("ann", 5, 0, 1), ("ann", 5, 3, 1), ("bob", 5, 2, ""), ("bob", 6, 1, 1)]
    rows = [f"{user},{article},{86_400 * day},{region}" for user, article, day, region in days]
    events = written(tmp_path, "\n".join([HEADER, *rows, ""]))
    daily = collect(events, None, tmp_path / "1", CollectOptions(popular_half_life_days=1))
    assert weights_of(daily) == {(5, 1): (2, 1.125), (5, -1): (1, 0.5), (6, 1): (1, 0.25)}
    # By default there are sixteen half-lives from the first view to the last.
    weights = weights_of(collect(events, None, tmp_path / "2"))
    assert weights[5, 1] == (2, pytest.approx(1 + 2**-16, rel=1e-9))
    assert weights[6, 1] == (1, pytest.approx(2 ** -(16 * 2 / 3), abs=1e-6))


def test_a_view_that_came_after_the_newest_was_asked_for_weighs_no_more_than_it():
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone='UTC'")
        connection.execute(sql.for_duckdb(sql.CREATE_VIEWS.format(views="views")))
        rows = [
            f"('ann', {second}, -1, {second}, 0, '1970-01-01', NULL)" for second in (5, 7, 86_000)
        ]
        connection.execute(f"INSERT INTO views VALUES {', '.join(rows)}")
        query = sql.for_duckdb(sql.article_views("views", 0, 10**6, 7, 2.0))
        weights = [row[3] / WEIGHT_UNITS for row in connection.execute(query).fetchall()]
    assert weights == [0.5, 1, 1]


def test_a_half_life_without_end_is_refused():
    with pytest.raises(ValidationError, match="finite number"):
        CollectOptions(popular_half_life_days=float("inf"))


def test_views_of_one_second_weigh_the_same(tmp_path):
    events = written(tmp_path, f"{HEADER}\nann,5,7,\nbob,5,7,\nbob,6,7,\n")
    assert weights_of(collect(events, None, tmp_path)) == {(5, -1): (2, 2.0), (6, -1): (1, 1.0)}


def test_csv_gzip_and_parquet_give_the_same_table(tmp_path):
    plain = written(tmp_path, EVENTS)
    (tmp_path / "events.csv.gz").write_bytes(gzip.compress(EVENTS.encode()))
    typed = tmp_path / "events.parquet"
    duckdb.read_csv(str(plain)).write_parquet(str(typed))
    for source in (plain, tmp_path / "events.csv.gz", typed):
        assert collected_rows(source, tmp_path / "work") == COLLECTED


def test_regions_are_optional(tmp_path):
    events = written(tmp_path, "item_id,timestamp,user_id\n7,30,bob\n")
    assert collected_rows(events, tmp_path) == [("bob", 7, -1, 30)]
    assert not collect(events, None, tmp_path / "again").has_regions


def test_times_may_be_fractions_or_iso_8601(tmp_path):
    text = "user_id,item_id,timestamp\na,1,1577836800.9\nb,1,2020-01-01T00:00:00Z\n"
    events = written(tmp_path, text + "c,1,2020-01-01 02:00:00+02:00\n")
    assert {row[3] for row in collected_rows(events, tmp_path)} == {1577836800}


def test_a_byte_order_mark_and_quotes_are_understood(tmp_path):
    events = written(tmp_path, '\ufeffuser_id,item_id,timestamp\n"a ""b"", c",1,2\n')
    assert collected_rows(events, tmp_path) == [('a "b", c', 1, -1, 2)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "ann,x,1,",
            "line 3: item_id is 'x', it must be a whole number from 0 to 9223372036854775807",
        ),
        ("ann,-4,1,", "line 3: item_id is '-4'"),
        ("ann,1.5,1,", "line 3: item_id is '1.5'"),
        ("ann,9223372036854775808,1,", "line 3: item_id is '9223372036854775808'"),
        ("ann,99999999999999999999,1,", "line 3: item_id is '99999999999999999999'"),
        ("ann,1,1,9223372036854775808", "line 3: region_id is '9223372036854775808'"),
        ("ann,,1,", "line 3: item_id is ''"),
        (",1,1,", "line 3: user_id is '', it must be a text of 1 to 256 bytes in UTF-8"),
        (f"{'ä' * 128}n,1,1,", f"line 3: user_id is {'ä' * 60!r}..., it must be a text"),
        ("ann,1,yesterday,", "line 3: timestamp is 'yesterday', it must be unix seconds"),
        ("ann,1,nan,", "line 3: timestamp is 'nan'"),
        ("ann,1,-5,", "line 3: timestamp is '-5'"),
        ("ann,1,1700000000000,", "line 3: timestamp is '1700000000000'"),
        ("ann,1,,", "line 3: timestamp is ''"),
        ("ann,1", "line 3: timestamp is ''"),
        ("ann,1,1,north", "line 3: region_id is 'north'"),
        ("ann,1,1,-2", "line 3: region_id is '-2'"),
        ('\n\n"a\nb",1,never,', "line 6: timestamp is 'never'"),
    ],
)
def test_a_bad_value_is_named_with_its_line(tmp_path, row, message):
    events = written(tmp_path, f"{HEADER}\nann,1,1,2\n{row}\nann,wrong too,1,2\n")
    with pytest.raises(EventsError) as refused:
        collect(events, None, tmp_path / "work")
    assert str(refused.value).startswith(f"{events}: {message}")


def test_the_longest_user_id_is_the_recommender_s(tmp_path):
    longest = "ä" * (_MAX_USER_ID_BYTES // 2)
    assert checked_user_id(longest) == longest
    events = written(tmp_path, f"user_id,item_id,timestamp\n{longest},7,30\n")
    assert collected_rows(events, tmp_path) == [(longest, 7, -1, 30)]
    with pytest.raises(EventsError, match="256 bytes"):
        collect(
            written(tmp_path, f"user_id,item_id,timestamp\n{longest}b,7,30\n"),
            None,
            tmp_path / "again",
        )


def test_ids_are_whole_numbers_of_64_bits(tmp_path):
    longest = 2**63 - 1
    events = written(tmp_path, f"{HEADER}\nann,{longest},1,{longest}.0\n")
    items = written(tmp_path, f"item_id,title\n{longest},Last\n", "items.csv")
    collected = collect(events, str(items), tmp_path / "work")
    assert rows_of_histories(collected) == [("ann", longest, longest, 1)]
    assert read_titles(collected.items, np.array([longest])) == {longest: "Last"}


@pytest.mark.parametrize(
    ("column", "values", "told"),
    [
        ("item_id", pa.array([1, -3]), "item_id is '-3'"),
        ("user_id", pa.array(["a", ""]), "user_id is ''"),
        ("user_id", pa.array(["a", None]), "user_id is ''"),
        ("timestamp", pa.array([1, -86_400], pa.timestamp("s", "UTC")), "timestamp is '1969-12-31"),
    ],
)
def test_a_bad_value_in_parquet_is_named_with_its_row(tmp_path, column, values, told):
    columns = {"user_id": ["a", "b"], "item_id": [1, 3], "timestamp": [1, 2], column: values}
    pq.write_table(pa.table(columns), tmp_path / "events.parquet")
    with pytest.raises(EventsError, match=f"row 2: {told}"):
        collect(tmp_path / "events.parquet", None, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        (f"{HEADER}\n", "there are no events in it"),
        ("user_id,item_id,when\na,1,2\n", "column timestamp is missing; the columns are: user_id"),
        ("user_id,item_id,timestamp,item_id\na,1,2,3\n", "two columns have the same name"),
        ("user_id,item_id,timestamp\na,1,2,3\n", "cannot be read"),
        ("PAR1 and no more", "neither readable CSV"),
        ("user_id,item_id,timestamp\n\x00\x01", "cannot be read|item_id is"),
    ],
)
def test_a_file_that_is_no_table_of_events_is_refused(tmp_path, text, message):
    with pytest.raises(EventsError, match=message):
        collect(written(tmp_path, text), None, tmp_path / "work")


def test_a_missing_file_and_a_broken_archive_are_refused(tmp_path):
    with pytest.raises(EventsError, match="no such file"):
        collect(tmp_path / "none.csv", None, tmp_path)
    broken = gzip.compress(EVENTS.encode() * 2000)[:-20]
    (tmp_path / "events.csv.gz").write_bytes(broken)
    with pytest.raises(EventsError, match=r"events\.csv\.gz"):
        collect(tmp_path / "events.csv.gz", None, tmp_path)


def test_titles_are_read_and_bad_items_refused(tmp_path):
    events = written(tmp_path, EVENTS)
    items = written(tmp_path, "item_id,title,year,name\n5,Five,1999,x\n4,,,7\n", "items.csv")
    collected = collect(events, str(items), tmp_path / "good")
    assert read_titles(collected.items, np.array([5, 4, 5, 6])) == {4: "", 5: "Five"}
    assert read_titles(collected.items, np.array([-1, 5])) == {5: "Five"}
    assert pq.read_schema(collected.items).names == ["article_id", "title", "year"]
    for text, message in [
        ("item_id,title\n5,Five\nsix,Six\n", "line 3: item_id is 'six'"),
        ("item_id,title\n5,Five\n5,Cinq\n", "item_id 5 has more than one row"),
        ("item_id,name\n5,Five\n", "column title is missing"),
    ]:
        with pytest.raises(ItemsError, match=message):
            collect(events, str(written(tmp_path, text, "items.csv")), tmp_path / message[:12])


@pytest.fixture
def shelf(monkeypatch):
    for name, value in AWS_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with s3_server() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
        server.make_bucket("shelf")
        yield server.client("s3")


def test_titles_may_be_elsewhere(shelf, tmp_path):
    events = written(tmp_path, EVENTS)
    shelf.put_object(Bucket="shelf", Key="items.csv", Body=b"item_id,title\n5,Five\n")
    collected = collect(events, "s3://shelf/items.csv", tmp_path / "good")
    assert read_titles(collected.items, np.array([5])) == {5: "Five"}
    assert not (tmp_path / "good" / "items.fetched").exists()
    shelf.put_object(Bucket="shelf", Key="items.csv", Body=b"item_id,title\nsix,Six\n")
    with pytest.raises(ItemsError, match=r"^s3://shelf/items\.csv: line 2: item_id is 'six'"):
        collect(events, "s3://shelf/items.csv", tmp_path / "bad")
    with pytest.raises(ItemsError, match=r"^s3://shelf/none\.csv cannot be fetched: "):
        collect(events, "s3://shelf/none.csv", tmp_path / "none")
    with pytest.raises(ItemsError, match=r"^ftps://x/y cannot be fetched: .*ftps"):
        collect(events, "ftps://x/y", tmp_path / "odd")
