"""A headless browser and axe-core, where this machine has them; nothing is looked up or fetched."""

import os
import shutil
from pathlib import Path

import pytest

PATHS = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """One browser for the session; every page that it opens is a file."""
    missing = [name for name, path in PATHS.items() if path is None]
    if missing:
        pytest.skip(f"no {' and no '.join(missing)} here: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = PATHS["chromium"]
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # Both paths are given, so that selenium looks for no driver of its own on the network.
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(PATHS["chromedriver"]))
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def axe():
    """Source of axe-core."""
    path = os.environ.get("AXE_CORE")
    if not path:
        pytest.skip("AXE_CORE names no axe.min.js: npm install --prefix DIR axe-core@4.14.1, as .ci/run does")
    return Path(path).read_text()
