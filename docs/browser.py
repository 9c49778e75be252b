"""Look at the built site with a browser: `python -m docs.browser [SITE]`.

It needs selenium, Chromium and its driver (Debian: chromium, chromium-driver). Pages are opened at
the widths of a desktop and of a telephone, light and dark; search is asked for something. A message
of an error in the browser's console, a missing picture, a page that is wider than the screen or a
search that finds nothing is a failure. `--shots FOLDER` keeps a picture of each.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from .__main__ import HERE

PAGES = (
    "index.html",
    "mathematics.html",
    "which-method.html",
    "scoreboard.html",
    "results.html",
    "tutorials/bilevel-problem.html",
    "tasks/BilevelToll-v0.html",
    "methods/trace.html",
    "reference/bilevel_gym.model.tabular.html",
)
SIZES = {"desktop": (1280, 1600), "telephone": (390, 1600)}
THEMES = ("light", "dark")

# What is asked for, and the page that must be among the answers.
SEARCH, FOUND = "response part", "mathematics.html"

BROKEN = "return [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
# A page may scroll down only. What is wider scrolls by itself.
WIDER = "return document.documentElement.scrollWidth - window.innerWidth"
ASK = "arguments[0].value = arguments[1]; arguments[0].form.submit()"
THEME = "localStorage.setItem('theme', arguments[0])"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@contextmanager
def served(site: Path) -> Iterator[str]:
    """Serve a folder on this machine alone, and yield its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def browser() -> Iterator[Any]:
    """Open a browser without a window."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService("/usr/bin/chromedriver")
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


def faults(driver: Any) -> list[str]:
    """Return what is wrong with the page that is open."""
    errors = [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    missing = [f"no picture at {source}" for source in driver.execute_script(BROKEN)]
    wider = driver.execute_script(WIDER)
    return [*errors, *missing, *([f"{wider} pixels wider than the screen"] if wider > 0 else [])]


def looked_at(driver: Any, address: str, shots: Path | None) -> Iterator[str]:
    """Open the pages in all sizes and themes; yield what is wrong."""
    driver.get(f"{address}/index.html")
    for theme in THEMES:
        driver.execute_script(THEME, theme)
        for size, (width, height) in SIZES.items():
            # The window of a headless browser has no least width in this protocol.
            metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            for page in PAGES:
                driver.get(f"{address}/{page}")
                for fault in faults(driver):
                    yield f"{page}, {size}, {theme}: {fault}"
                if shots is not None:
                    name = page.replace("/", "_").removesuffix(".html")
                    driver.save_screenshot(str(shots / f"{name}-{size}-{theme}.png"))


def searched(driver: Any, address: str) -> Iterator[str]:
    """Search as a reader does; yield what is wrong."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    driver.get(f"{address}/index.html")
    box = driver.find_element(By.CSS_SELECTOR, "input[name=q]")
    driver.execute_script(ASK, box, SEARCH)
    WebDriverWait(driver, 30).until(
        lambda d: "finished" in d.find_element(By.ID, "search-results").text
    )
    links = driver.find_elements(By.CSS_SELECTOR, "#search-results li a")
    if not any(FOUND in link.get_attribute("href") for link in links):
        yield f"search for {SEARCH!r} does not find {FOUND}"
    yield from (f"search: {fault}" for fault in faults(driver))


def main() -> int:
    """Look at the site and print what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m docs.browser", description=__doc__)
    parser.add_argument("site", nargs="?", type=Path, default=HERE.parent / "build" / "site")
    parser.add_argument("--shots", type=Path, help="folder for pictures of the pages")
    arguments = parser.parse_args()
    if arguments.shots is not None:
        arguments.shots.mkdir(parents=True, exist_ok=True)
    with served(arguments.site) as address, browser() as driver:
        found = [*looked_at(driver, address, arguments.shots), *searched(driver, address)]
    for fault in found:
        print(fault)
    opened = len(PAGES) * len(SIZES) * len(THEMES)
    print(f"{opened} views and a search, {len(found)} faults")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
