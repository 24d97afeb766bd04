"""A headless Chromium, where there is one, and what it asked for and complained about."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest


class Browser:
    """Selenium's driver with the few things that these tests do."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def run(self, script: str, *arguments: Any) -> Any:
        """What a JavaScript function body returns."""
        return self.driver.execute_script(script, *arguments)

    def until(self, script: str) -> Any:
        """Wait for an expression to be true."""
        from selenium.webdriver.support.wait import WebDriverWait

        return WebDriverWait(self.driver, 20, 0.05).until(lambda _: self.run(f"return {script}"))

    def point_at(self, selector: str) -> None:
        """Move the mouse onto an element."""
        from selenium.webdriver import ActionChains
        from selenium.webdriver.common.by import By

        ActionChains(self.driver, duration=0).move_to_element(
            self.driver.find_element(By.CSS_SELECTOR, selector)
        ).perform()

    def set(self, selector: str, value: str) -> None:
        """Give a slider, a choice or a text field a value, as its user would."""
        self.run(
            "const found = document.querySelector(arguments[0]);"
            "if (found.type === 'radio') found.checked = true; else found.value = arguments[1];"
            "found.dispatchEvent(new Event('input', {bubbles: true}));",
            selector,
            value,
        )

    def complaints(self) -> list[str]:
        """Errors and warnings of the console since the last call."""
        return [f"{entry['level']}: {entry['message']}" for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses that pages asked for since the last call, `data:` left out."""
        messages = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        asked = (
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        )
        return [address for address in asked if not address.startswith(("data:", "about:"))]


@contextmanager
def chromium(report: Callable[[str], Any] = pytest.skip) -> Iterator[Browser]:
    """Start it; skips, with the reason, where it or what drives it is missing."""
    selenium = pytest.importorskip("selenium", reason="needs selenium (lxmert-fast[test])")
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    assert selenium
    places = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
    if not all(places):
        report(
            "needs chromium and chromedriver: "
            "apt-get install -y --no-install-recommends chromium chromium-driver"
        )
    options = ChromeOptions()
    options.binary_location = places[0]
    for word in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--window-size=1200,900",
    ):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options, ChromeService(places[1]))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
