"""The page in a real browser, over a real stack with two releases in service.

Leaves its pictures in build/explorer.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import grpc
import pytest
from recsys.recommender.v1 import recommender_service_pb2 as pb2
from recsys.recommender.v1 import recommender_service_pb2_grpc as pb2_grpc
from selenium.webdriver import Keys
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

from local_stack.processes import Process, tied_to_this_process
from local_stack.stack import LocalStack
from tests.explorer.browsing import complaints, headless, missing, requested

pytestmark = [
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
    pytest.mark.timeout(300),
]

PICTURES = Path("build/explorer")
OLD, NEW = "1795700000", "1795743200"
USER, VIEWED = "ada", [1030, 1060, 1090, 1031, 1061]
SECONDS = 20
ALL_SERVE = dict.fromkeys(("recommender", "Redis", "faiss server", "model server"), "serving")


@dataclass
class Open:
    """The page in a browser, and the stack that it shows."""

    driver: WebDriver
    stack: LocalStack
    url: str

    def ask(self, user: str, **chosen: str) -> None:
        """Fill in the form as a person does, with the keyboard."""
        self.driver.get(self.url)
        for name, value in chosen.items():
            Select(self.find(f"select[name={name}]")).select_by_value(value)
        field = self.find("input[name=user]")
        field.send_keys(user)
        field.send_keys(Keys.ENTER)
        self.until(lambda: self.driver.find_elements(By.CSS_SELECTOR, "section.answer"))

    def find(self, selector: str):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        return [each.text for each in self.driver.find_elements(By.CSS_SELECTOR, selector)]

    def states(self) -> dict[str, str]:
        """The state of each part, read at once: the table may be replaced at any time."""
        return self.driver.execute_script(
            "return Object.fromEntries([...document.querySelectorAll('[data-part]')]"
            ".map(row => [row.dataset.part, row.dataset.state]))"
        )

    def until(self, condition) -> None:
        WebDriverWait(self.driver, SECONDS, poll_frequency=0.05).until(lambda _: condition())

    def picture(self, name: str) -> None:
        PICTURES.mkdir(parents=True, exist_ok=True)
        assert self.driver.save_screenshot(PICTURES / f"{name}.png")


@pytest.fixture(scope="module")
def stack(tmp_path_factory) -> Iterator[LocalStack]:
    directory = tmp_path_factory.mktemp("stack")
    store = directory / "store"
    command = [sys.executable, "-m", "tests.explorer.making", str(store), OLD, NEW]
    making = subprocess.Popen(tied_to_this_process(command))
    try:
        with LocalStack(directory, str(store)) as stack:  # starts while they are made
            assert making.wait(120) == 0
            stack.wait_until_serving()
            record_views(stack)
            yield stack
    finally:
        making.kill()
        making.wait()


def record_views(stack: LocalStack) -> None:
    views = [
        pb2.View(article_id=article, viewed_at_ms=1_795_600_000_000 + minute * 60_000)
        for minute, article in enumerate(reversed(VIEWED))
    ]
    with grpc.insecure_channel(stack.addresses["recommender"].target) as channel:
        stub = pb2_grpc.RecommenderServiceStub(channel)
        stub.RecordViews(pb2.RecordViewsRequest(user_id=USER, views=views), timeout=5)


@pytest.fixture(scope="module")
def explorer_url(stack, tmp_path_factory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("explorer")
    items, ready = directory / "items.csv", directory / "ready.json"
    titles = (f"{article},Story {article % 30}.{article // 30}" for article in range(1000, 2500))
    items.write_text("\n".join(["item_id,title", *titles]))
    settings = {
        "EXPLORER_PORT": "0",
        "EXPLORER_READY_FILE": str(ready),
        "EXPLORER_RECOMMENDER": stack.addresses["recommender"].target,
        "EXPLORER_FAISS_SERVERS": stack.addresses["faiss-server"].target,
        "EXPLORER_MODEL_SERVERS": stack.addresses["model-server"].target,
        "EXPLORER_ITEMS": str(items),
        "EXPLORER_USERS": f"{USER},grace",
    }
    process = Process("explorer", [sys.executable, "-m", "explorer"], directory / "log", settings)
    try:
        process.wait_until(ready.exists, 30)
        yield f"http://127.0.0.1:{json.loads(ready.read_text())['port']}/"
        assert process.stop() == 0
        assert "Traceback" not in process.log.read_text()
    finally:
        process.stop()


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[WebDriver]:
    with headless(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def page(browser, stack, explorer_url) -> Iterator[Open]:
    browser.get("about:blank")
    complaints(browser), requested(browser)
    yield Open(browser, stack, explorer_url)
    assert complaints(browser) == []
    addresses = requested(browser)
    assert f"{explorer_url}static/explorer.js" in addresses  # so this is where they would be seen
    assert [url for url in addresses if not url.startswith((explorer_url, "about:"))] == []


def test_a_user_with_views_candidates_and_times(page):
    page.ask(USER)
    assert page.driver.current_url == f"{page.url}?user={USER}&limit=20"
    views = page.texts("#views tbody td:first-child")
    assert views == [f"Story {each % 30}.{each // 30} {each}" for each in VIEWED]
    assert page.texts(".badge") == ["PERSONALIZED"]
    assert page.texts(".answer .release") == [NEW]
    assert len(page.texts(".candidates tbody tr")) == 20
    scores = [float(score) for score in page.texts(".candidates td:nth-child(3)")]
    assert scores == sorted(scores, reverse=True)
    page.until(lambda: page.states() == ALL_SERVE)
    page.picture("explorer")


def test_the_bars_of_the_waterfall_are_drawn_one_after_the_other(page):
    page.ask(USER)
    stages = [row.get_attribute("data-stage") for row in
              page.driver.find_elements(By.CSS_SELECTOR, "[data-stage]")]  # fmt: skip
    assert stages == ["history", "user_vector", "search", "elsewhere"]
    boxes = page.driver.execute_script(
        "return [...document.querySelectorAll('[data-stage] rect')].map(bar => {"
        "const box = bar.getBoundingClientRect(); return [box.left, box.right, box.top]; })"
    )
    for (_, right, top), (left, next_right, next_top) in pairwise(boxes):
        assert left == pytest.approx(right, abs=4)  # the shortest bar is drawn 0.3 % wide
        assert next_right > left
        assert next_top > top


def test_two_releases_side_by_side(page):
    page.ask(USER, release=OLD, compare=NEW)
    assert f"release={OLD}&compare={NEW}" in page.driver.current_url
    assert page.texts("#comparison .release") == [OLD, NEW]
    assert page.texts(".answer .release") == [OLD, NEW]
    first, second = (
        [row.get_attribute("data-article") for row in
         card.find_elements(By.CSS_SELECTOR, ".candidates tr[data-article]")]
        for card in page.driver.find_elements(By.CSS_SELECTOR, ".answer")
    )  # fmt: skip
    shared = len(set(first) & set(second))
    assert 0 < shared < 20
    assert page.find("[data-depth='20'] dd").text == f"{5 * shared} % {shared} shared"
    changes = page.texts(".answer:nth-child(2) td.change")
    for rank, (article, change) in enumerate(zip(second, changes, strict=True)):
        rise = first.index(article) - rank if article in first else None
        expected = "new" if rise is None else f"↑{rise}" if rise > 0 else f"↓{-rise}"
        assert change == (expected if rise != 0 else "=")
    assert page.texts(".answer:nth-child(1) td.change").count("gone") == 20 - shared
    # Both on one axis: the budget is at one place of both.
    lines = page.driver.execute_script(
        "return [...document.querySelectorAll('tfoot .budget')]"
        ".map(line => line.x1.baseVal.valueAsString)"
    )
    assert len(set(lines)) == 1
    page.picture("comparison")


def test_the_same_article_is_marked_in_both_lists(page):
    page.ask(USER, compare=OLD)
    row = page.find(".answer:nth-child(2) tr[data-article]")
    page.driver.execute_script("arguments[0].dispatchEvent(new Event('mouseenter'))", row)
    article = row.get_attribute("data-article")
    marked = {each.get_attribute("data-article") for each in
              page.driver.find_elements(By.CSS_SELECTOR, "tr.same")}  # fmt: skip
    assert marked == {article}


def test_it_reads_well_in_the_dark_and_on_a_small_screen(page):
    media = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    size = {"width": 420, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.ask(USER)
        background = page.find("body").value_of_css_property("background-color")
        assert background == "rgba(13, 20, 32, 1)"
        width = page.driver.execute_script("return document.documentElement.scrollWidth")
        assert width <= 420
    finally:
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_every_field_has_a_label(page):
    page.driver.get(page.url)
    unlabelled = page.driver.execute_script(
        "return [...document.querySelectorAll('input, select')]"
        ".filter(field => !field.labels.length).map(field => field.name)"
    )
    assert unlabelled == []


def test_parts_that_stop_are_seen_without_a_reload(page):
    """The last test of this module: what it stops stays stopped."""
    page.ask(USER)
    page.until(lambda: page.states() == ALL_SERVE)
    page.stack.processes["redis"].stop()
    page.until(lambda: page.states() == {**ALL_SERVE, "Redis": "down"})
    page.stack.processes["faiss-server"].stop()
    down = {**ALL_SERVE, "Redis": "down", "faiss server": "down"}
    page.until(lambda: page.states() == down)
    assert page.find("#health-summary").text == "Redis down; faiss server down"
    page.picture("health")
    page.ask(USER)
    assert page.texts(".badge") == ["POPULAR"]
    assert page.texts("#views .failure h2") == ["UNAVAILABLE"]
