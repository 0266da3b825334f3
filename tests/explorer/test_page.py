"""The page against scripted parts: what it shows, and what it says when something is wrong."""

import re

import grpc
import pytest
from recsys.recommender.v1 import recommender_service_pb2 as pb2

from local_stack.redis import free_port
from tests.explorer.conftest import browsing
from tests.explorer.reading import changes, stages, text_of
from tests.explorer.scripted import NEW, OLD


async def test_without_a_question_there_is_the_form_and_nobody_is_asked(client, parts):
    answer = await client.get("/")
    assert answer.status_code == 200
    assert "Whose candidates?" in answer.text
    assert parts.recommender.asked == []


async def test_views_and_candidates_of_a_user(client, parts):
    answer = await client.get("/?user=u1")
    text = text_of(answer.text)
    assert answer.status_code == 200
    assert f"4 candidates of release {NEW} 2026-11-27 01:33 PERSONALIZED" in text
    assert "1 article 2 10.0000 2 article 1 9.0000" in text
    assert "Views 2, newest first" in text
    assert "article 7 2023-11-14 22:13" in text
    assert stages(answer.text).keys() == {"history", "user_vector", "search", "elsewhere"}
    assert stages(answer.text)["user_vector"] == "2.00"


async def test_every_field_reaches_the_recommender(client, parts):
    address = f"/?user=u1&limit=7&region=3&exclude_viewed=1&recent=5,+6+9&release={OLD}"
    answer = await client.get(address)
    assert parts.recommender.asked == [
        pb2.GetCandidatesRequest(
            user_id="u1", limit=7, region_id=3, exclude_viewed=True,
            recent_article_ids=[5, 6, 9], release=OLD,
        )
    ]  # fmt: skip
    text = text_of(answer.text)
    assert "Views given 3, newest first" in text
    assert "viewed left out" in text
    assert re.search(rf'name="release">.*<option value="{OLD}" selected>.*</select>', answer.text,
                     re.DOTALL)  # fmt: skip


async def test_fields_left_empty_are_not_sent(client, parts):
    await client.get("/?user=u1&limit=&region=&recent=&release=&compare=")
    assert parts.recommender.asked == [pb2.GetCandidatesRequest(user_id="u1", limit=20)]


async def test_candidates_already_viewed_are_marked(client, parts):
    parts.recommender.views = [4]
    text = text_of((await client.get("/?user=u1")).text)
    assert "3 article 4 viewed" in text
    assert text.count("viewed 8.0000") == 1


async def test_a_fallback_says_why(client, parts):
    parts.recommender.fields = {
        "source": pb2.SOURCE_POPULAR,
        "fallback_reason": pb2.FALLBACK_REASON_NO_HISTORY,
        "shorter_than_requested": True,
    }
    parts.recommender.views = []
    text = text_of((await client.get("/?user=u1")).text)
    assert "POPULAR NO_HISTORY: the user has no history" in text
    assert "fewer than the 20 asked for" in text
    assert "the recommender knows no view of this user" in text


async def test_what_a_newer_recommender_says_is_shown_by_number(client, parts):
    parts.recommender.fields = {"source": 77, "fallback_reason": 78}
    assert "77" in text_of((await client.get("/?user=u1")).text)


async def test_titles_from_a_csv(parts, tmp_path):
    items = tmp_path / "items.csv"
    items.write_text('item_id,title\n2,"Tea, & <b>cake</b>"\n')
    async with browsing(parts.settings(items=items)) as client:
        answer = await client.get("/?user=u1")
    assert "Tea, &amp; &lt;b&gt;cake&lt;/b&gt;" in answer.text
    assert "1 Tea, & <b>cake</b> 2 10.0000" in text_of(answer.text)
    assert "2 article 1 9.0000" in text_of(answer.text)


async def test_two_releases_side_by_side(client, parts):
    answer = await client.get(f"/?user=u1&release={OLD}&compare={NEW}")
    text = text_of(answer.text)
    assert answer.status_code == 200
    assert [request.release for request in parts.recommender.asked] == [OLD, NEW]
    assert f"{OLD} against {NEW}" in text
    assert "overlap@1 0 % 0 shared overlap@4 75 % 3 shared new / gone 1 / 1" in text
    assert changes(answer.text) == ["", "", "gone", "", "↑1", "↓1", "↑1", "new"]


async def test_a_comparison_of_the_pinned_release_with_itself_is_named_so(client):
    text = text_of((await client.get("/?user=u1&compare=pinned")).text)
    assert "Both answers are of the same release." in text
    assert "overlap@4 100 %" in text


async def test_a_release_that_is_not_in_service_names_those_that_are(client):
    answer = await client.get(f"/?user=u1&release=5&compare={NEW}")
    text = text_of(answer.text)
    assert answer.status_code == 409
    assert "FAILED_PRECONDITION" in text
    assert f"In service: {NEW}, {OLD}. Choose one of these" in text
    assert f"4 candidates of release {NEW}" in text  # the other one is shown all the same
    assert "overlap@" not in text
    assert '<option value="5" selected>5 (not in service)</option>' in answer.text


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("/?user=", "user: whose candidates?"),
        ("/?user=+", "user: whose candidates?"),
        ("/?limit=5", "user: whose candidates?"),
        ("/?user=u&limit=many", "limit: 'many' is no whole number"),
        ("/?user=u&limit=99999999999", "limit: '99999999999' is no whole number"),
        ("/?user=u&region=-1", "region: '-1' is no whole number"),
        ("/?user=u&region=9223372036854775808", "region: '9223372036854775808'"),
        ("/?user=u&recent=1,x", "recent: 'x' is no whole number"),
        ("/?user=u&release=newest", "release: 'newest' is no whole number"),
        (
            "/?user=u&compare=%F0%9D%9F%98",
            "compare: '\N{MATHEMATICAL DOUBLE-STRUCK DIGIT ZERO}' is no",
        ),
    ],
)
async def test_a_field_that_cannot_be_sent_is_named(client, parts, address, message):
    answer = await client.get(address)
    assert answer.status_code == 400
    assert message in text_of(answer.text)
    assert parts.recommender.asked == []


async def test_a_recommender_that_is_away(parts):
    away = f"127.0.0.1:{free_port()}"
    async with browsing(parts.settings(recommender=away)) as client:
        answer = await client.get("/?user=u1")
    text = text_of(answer.text)
    assert answer.status_code == 502
    assert f"UNAVAILABLE recommender at {away}" in text
    assert "Is `make up` running? EXPLORER_RECOMMENDER says where to ask." in text
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("name", ["nowhere.invalid", "no..name", "x" * 70])
async def test_a_name_that_nobody_knows(parts, name):
    async with browsing(parts.settings(recommender=f"{name}:1")) as client:
        answer = await client.get("/?user=u1")
    assert answer.status_code == 502
    assert f"cannot resolve {name}" in text_of(answer.text)


@pytest.mark.parametrize(
    ("code", "status", "advice"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 400, "Change the field"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 502, "too many calls"),
        (grpc.StatusCode.INTERNAL, 502, "in the log of that part"),
    ],
)
async def test_an_error_of_the_recommender_with_what_to_do(client, parts, code, status, advice):
    parts.recommender.code = code
    answer = await client.get("/?user=u1")
    text = text_of(answer.text)
    assert answer.status_code == status
    assert f"{code.name} recommender at {parts.recommender.address} : told to <fail>" in text
    assert advice in text


async def test_a_recommender_that_hangs_is_given_up_in_time(parts):
    parts.recommender.hang = True
    async with browsing(parts.settings(deadline_seconds=0.2)) as client:
        answer = await client.get("/?user=u1")
    assert answer.status_code == 504
    assert "DEADLINE_EXCEEDED" in text_of(answer.text)


async def test_candidates_are_shown_though_the_views_are_not_to_be_had(client, parts):
    parts.recommender.history_code = grpc.StatusCode.UNAVAILABLE
    answer = await client.get("/?user=u1")
    text = text_of(answer.text)
    assert answer.status_code == 200
    assert "4 candidates" in text
    assert "UNAVAILABLE recommender" in text


@pytest.mark.parametrize("field", ["user", "limit", "region", "recent", "release", "compare"])
async def test_what_is_typed_is_text_and_never_markup(client, field):
    attack = '"><script>alert(1)</script>'
    answer = await client.get("/", params={"user": "u1", field: attack})
    assert "<script>alert" not in answer.text
    assert '"><script' not in answer.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in answer.text


async def test_a_view_at_a_time_of_no_calendar(client, parts):
    parts.recommender.viewed_at_ms = 2**53 - 1
    assert "9007199254740991 ms" in text_of((await client.get("/?user=u1")).text)


async def test_example_users_can_be_picked(parts):
    async with browsing(parts.settings(users="ada, grace,,ada,a&b")) as client:
        page = (await client.get("/")).text
    assert '<option value="ada"><option value="grace"><option value="a&amp;b">' in page
    assert 'href="/?user=a%26b"' in page


async def test_headers_keep_the_page_to_itself(client):
    for address in ("/", "/health", "/static/explorer.js", "/nothing", "/?user="):
        headers = (await client.get(address)).headers
        assert headers["content-security-policy"].startswith("default-src 'self';")
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("127.0.0.1", "127.0.0.1:8080"),
        ("127.0.0.2", "127.0.0.2:8080"),
        ("::1", "[::1]:8080"),
        ("localhost", "localhost:8080"),
        ("127.0.0.2", "127.0.0.1:8080"),  # of a port that is forwarded
        ("::ffff:127.0.0.1", "127.0.0.1:8080"),
        ("127.1", "127.0.0.1:8080"),
        ("LOCALHOST", "localhost:8080"),
    ],
)
async def test_another_site_cannot_reach_it_under_a_name_of_its_own(parts, host, name):
    async with browsing(parts.settings(host=host)) as client:
        assert (await client.get("/", headers={"host": "evil.example"})).status_code == 400
        assert (await client.get("/", headers={"host": name})).status_code == 200


async def test_beyond_this_machine_it_answers_to_any_name(parts):
    async with browsing(parts.settings(host="0.0.0.0")) as client:
        assert (await client.get("/", headers={"host": "explorer.example"})).status_code == 200


async def test_pages_hold_nothing_from_elsewhere(client):
    for address in ("/?user=u1", "/static/explorer.css", "/static/explorer.js"):
        text = (await client.get(address)).text
        assert not re.search(r"(https?:)?//[a-z]", text.replace("// ", ""))
