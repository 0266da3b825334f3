"""A headless Chromium that has no internet, and tells everything that a page asked for."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def missing() -> str | None:
    """What the machine lacks for a browser test."""
    if not any(map(shutil.which, _BROWSERS)):
        return "no Chromium on the PATH"
    return None if shutil.which("chromedriver") else "no chromedriver on the PATH"


@contextmanager
def headless(profile: Path) -> Iterator[webdriver.Chrome]:
    """A browser with a profile of its own, ended with the context."""
    options = Options()
    options.binary_location = next(filter(None, map(shutil.which, _BROWSERS)))
    for argument in (
        "--headless=new",
        "--no-sandbox",  # containers run as root
        "--disable-dev-shm-usage",
        "--window-size=1400,1060",
        "--hide-scrollbars",
        f"--user-data-dir={profile}",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # Without a path selenium would look for a driver on the internet.
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def requested(driver: webdriver.Chrome) -> list[str]:
    """Every address that was asked for since this was called last."""
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]


def complaints(driver: webdriver.Chrome) -> list[str]:
    """What stands in the console since this was called last: errors, and what the CSP refused."""
    return [entry["message"] for entry in driver.get_log("browser")]
