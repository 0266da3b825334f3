"""The health of all parts, as the page fetches it again and again."""

import grpc
import pytest
from grpc_health.v1 import health_pb2
from recsys.faiss.v1 import faiss_service_pb2 as faiss_pb2
from recsys.tfserving.v1 import model_status_pb2

from local_stack.redis import free_port
from tests.explorer.conftest import browsing
from tests.explorer.reading import states, text_of
from tests.explorer.scripted import NEW, OLD, ScriptedFaiss, listening

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
ALL_SERVE = dict.fromkeys(("recommender", "Redis", "faiss server", "model server"), "serving")


async def test_all_serve(client, parts):
    page = (await client.get("/health")).text
    text = text_of(page)
    assert states(page) == ALL_SERVE
    assert "Health all 4 parts serve" in text
    assert f"faiss server serving {parts.faiss.address} {NEW} {OLD}" in text
    assert f"model server serving {parts.model.address} {NEW} {OLD}" in text
    assert "1,500 articles, IVF4,Flat" in page
    assert 'aria-live="polite"' in page


async def test_the_page_itself_shows_it_too(client):
    assert states((await client.get("/?user=u1")).text) == ALL_SERVE


@pytest.mark.parametrize("part", ["recommender", "faiss", "model"])
async def test_a_part_that_says_not_serving(client, parts, part):
    getattr(parts, part).health = NOT_SERVING
    page = (await client.get("/health")).text
    assert list(states(page).values()).count("not serving") == 1
    assert "parts serve" not in page


async def test_a_release_on_its_way_is_named_with_its_state_and_cannot_be_asked(client, parts):
    parts.faiss.releases = {
        NEW: faiss_pb2.RELEASE_STATE_LOADING,
        OLD: faiss_pb2.RELEASE_STATE_READY,
    }
    parts.model.versions = {
        NEW: model_status_pb2.ModelVersionStatus.LOADING,
        OLD: model_status_pb2.ModelVersionStatus.AVAILABLE,
    }
    page = (await client.get("/")).text
    assert text_of(page).count(f"{NEW} LOADING") == 2
    assert f'<option value="{OLD}"' in page
    assert f'<option value="{NEW}"' not in page


async def test_tensorflow_serving_has_no_health_service_and_is_judged_by_its_versions(parts):
    parts.model.health = None
    async with listening(parts.model), browsing(parts.settings()) as client:
        assert states((await client.get("/health")).text)["model server"] == "serving"
        parts.model.versions = {NEW: model_status_pb2.ModelVersionStatus.LOADING}
        assert states((await client.get("/health")).text)["model server"] == "not serving"


async def test_redis_is_seen_through_the_recommender(client, parts):
    parts.recommender.history_code = grpc.StatusCode.UNAVAILABLE
    page = (await client.get("/health")).text
    assert states(page) == {**ALL_SERVE, "Redis": "down"}
    assert "UNAVAILABLE: Redis is away" in text_of(page)


async def test_without_a_recommender_nobody_knows_of_redis(parts):
    away = f"127.0.0.1:{free_port()}"
    async with browsing(parts.settings(recommender=away)) as client:
        page = (await client.get("/health")).text
    assert states(page) == {**ALL_SERVE, "recommender": "down", "Redis": "unknown"}
    assert "Health recommender down; Redis unknown" in text_of(page)


async def test_every_address_is_shown_and_one_that_is_away_hides_no_other(parts):
    second, away = ScriptedFaiss(), f"127.0.0.1:{free_port()}"
    second.releases = {NEW + 1: faiss_pb2.RELEASE_STATE_READY}
    async with listening(second):
        addresses = f"{parts.faiss.address}, {second.address},{away},nowhere.invalid:5"
        async with browsing(parts.settings(faiss_servers=addresses)) as client:
            page = (await client.get("/")).text
    text = text_of(page)
    assert f"faiss server serving {parts.faiss.address}" in text
    assert f"faiss server serving {second.address} {NEW + 1}" in text
    assert f"faiss server down {away}" in text
    assert "cannot resolve nowhere.invalid" in text
    # What any of them is ready with can be asked for.
    assert all(f'<option value="{release}"' in page for release in (NEW + 1, NEW, OLD))


async def test_a_part_that_comes_back_is_seen(parts):
    async with browsing(parts.settings()) as client:
        parts.faiss.health = NOT_SERVING
        assert states((await client.get("/health")).text)["faiss server"] == "not serving"
        parts.faiss.health = health_pb2.HealthCheckResponse.SERVING
        assert states((await client.get("/health")).text)["faiss server"] == "serving"
