"""report.html in a browser: it works by mouse and keyboard, fits a phone, can be read by all, and stays silent."""

import json
import shutil
from pathlib import Path

import pytest

from bench.store.store import Run, read_run
from tests.factories import reports
from tests.factories.records import glue_small
from tests.report.test_html import write_folder

PUBLISHED = Path(__file__).resolve().parents[2] / "results/published"
RUNS = ("glue-small", "cost-minilm", "scaling")
CUT = """
const style = (e, part) => getComputedStyle(e, part);
return [...document.querySelectorAll("main *")].filter(e => e.clientWidth && e.scrollWidth > e.clientWidth + 1)
    .filter(e => style(e).overflowX !== "visible" && !style(e, "::before").content.includes("scroll"))
    .map(e => e.outerHTML.slice(0, 80));
"""
"""What scrolls or cuts its text without a word that it does."""
SMALL = """
const written = e => [...e.childNodes].some(node => node.nodeType === 3 && node.data.trim());
return [...document.querySelectorAll("body *")].filter(written)
    .filter(e => parseFloat(getComputedStyle(e).fontSize) < 9).map(e => e.outerHTML.slice(0, 80));
"""
FRAMES = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done));"
"""Waits until what follows a change of size has happened."""
LABELS = """
const rows = [...document.querySelectorAll("#main-table tbody tr")];
return rows.filter(row => !row.hidden).map(row => row.cells[0].innerText);
"""


@pytest.fixture(scope="session")
def pages(tmp_path_factory, drawn):
    """The page of each committed run, as a file's address."""
    folder = tmp_path_factory.mktemp("pages")
    for name in RUNS:
        (folder / f"{name}.html").write_text(reports.page(read_run(PUBLISHED / name), drawn(name)))
    run = glue_small(folder, labels=["full", "lora(rank=8)"])
    long = "<b>" + "W" * 300
    records = (r.model_dump_json(by_alias=True).replace("lora(rank=8)", long) for r in run.records)
    told = {"name": long, "question": long, "methods": ["full", long]}
    write_folder(folder / "long", Run.of(folder, run.suite.changed(**told), ()))
    (folder / "long/records.jsonl").write_text("".join(f"{line}\n" for line in records))
    (folder / "long.html").write_text(reports.page(read_run(folder / "long")))
    yield {name: (folder / f"{name}.html").as_uri() for name in (*RUNS, "long")}
    shutil.rmtree(folder)


def size(browser, width, height):
    values = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", values)


def prefers(browser, scheme):
    features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", features)


@pytest.fixture
def opened(browser, pages):
    """Opens a run's page anew, at a desk and in the light unless told otherwise; nothing kept from another test."""

    def open_page(name="glue-small", width=1280, height=900, scheme="light"):
        size(browser, width, height)
        prefers(browser, scheme)
        for kind in ("browser", "performance"):  # of the page before
            browser.get_log(kind)
        browser.get(pages[name])
        return browser

    yield open_page
    browser.execute_script("localStorage.clear()")


def labels(browser):
    return browser.execute_script(LABELS)


def button(browser, text):
    heads = browser.find_elements("css selector", "#main-table thead button")
    return next(head for head in heads if head.text.startswith(text))


def column(browser, head):
    """Aria-sort of a column."""
    return browser.execute_script("return arguments[0].closest('th').getAttribute('aria-sort')", head)


@pytest.mark.parametrize("name", RUNS)
def test_a_page_opens_without_a_complaint_or_a_request(opened, name):
    browser = opened(name)
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert asked  # the log holds the page itself, so it would hold others
    assert all(url.startswith(("file:", "data:")) for url in asked), asked
    assert browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)") == []


def test_the_first_screen_of_a_desk_holds_question_answers_and_heat_map(opened):
    browser = opened()
    script = "return [...document.querySelectorAll(arguments[0])].map(e => e.getBoundingClientRect().bottom)"
    assert max(browser.execute_script(script, "h1, .answers li, .first .note, .choose button")) < 400
    first, second = browser.execute_script(
        "return [...document.querySelectorAll('#lead img')].map(e => [e.getBoundingClientRect().top, e.clientWidth])"
    )
    assert first[0] < 420 and min(first[1], second[1]) > 1150  # begins there, as wide as the page


@pytest.mark.parametrize("name", [*RUNS, "long"])
@pytest.mark.parametrize("width", [390, 768])
def test_a_phone_scrolls_no_page_sideways(opened, name, width):
    browser = opened(name, width, 844)
    assert browser.execute_script("return document.documentElement.scrollWidth") == width
    assert browser.execute_script("return document.body.scrollWidth") <= width


@pytest.mark.parametrize("name", [*RUNS, "long"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_cut_without_a_hint_and_no_text_is_too_small_to_read(opened, name, width):
    browser = opened(name, width, 844)
    browser.execute_async_script(FRAMES)
    assert browser.execute_script(CUT) == []
    assert browser.execute_script(SMALL) == []
    heads = browser.execute_script("return [...document.querySelectorAll('h1, h2, h3, caption')].map(e => e.innerText)")
    assert [head for head in dict.fromkeys(heads) if heads.count(head) > 1] == []


def test_wide_tables_scroll_in_a_box_that_the_keyboard_reaches(opened):
    browser = opened(width=390, height=844)
    boxes = browser.execute_script(
        "return [...document.querySelectorAll('.wide, .card, pre')].filter(b => b.scrollWidth > b.clientWidth)"
        ".map(b => [b.tabIndex, b.getAttribute('role'), b.getAttribute('aria-label')])"
    )
    assert len(boxes) > 5
    assert all(index == 0 and role == "region" and name for index, role, name in boxes)


def test_a_click_sorts_by_figures_a_second_turns_it_and_missing_stays_last(opened):
    browser = opened()
    start = labels(browser)
    memory = button(browser, "peak memory")
    memory.click()
    assert labels(browser)[:3] == ["head", "lst(reduction=8)", "parallel_adapter"]
    assert column(browser, memory) == "ascending"
    memory.click()
    assert labels(browser)[0] == "full"
    assert column(browser, memory) == "descending"
    merged = button(browser, "latency / base, batch 1, merged")
    for _ in range(2):
        merged.click()
        assert set(labels(browser)[:5]) == {"full", "lora(rank=8)", "bitfit", "ia3", "head"}
    assert column(browser, memory) is None
    assert sorted(labels(browser)) == sorted(start)


def test_the_keyboard_sorts_and_filters(opened):
    from selenium.webdriver.common.keys import Keys

    browser = opened()
    head = button(browser, "trainable")
    head.send_keys(Keys.ENTER)
    assert labels(browser)[:2] == ["head", "prompt_tuning(length=10)"]
    field = browser.find_element("id", "filter")
    field.send_keys("ADAPTER")
    assert sorted(labels(browser)) == ["houlsby_adapter", "parallel_adapter", "pfeiffer_adapter"]
    assert browser.find_element("id", "shown").text == "3 of 13"
    field.clear()
    field.send_keys(" ", Keys.BACKSPACE)
    assert len(labels(browser)) == 13


def picked(browser):
    return browser.execute_script(
        "return [...document.querySelectorAll('#main-table tr.picked')].map(r => r.cells[0].innerText)"
    )


def test_a_need_picks_its_rows_and_shows_its_rule(opened):
    browser = opened()
    (choices_of_page,) = reports.document(read_run(PUBLISHED / "glue-small")).section("recommendations").blocks
    found = choices_of_page.rows
    choices = browser.find_elements("css selector", "[data-need]")
    assert [choice.text for choice in choices] == [pick.need for pick in found]
    assert picked(browser) == []
    for choice, pick in zip(choices, found, strict=True):
        choice.click()
        assert set(picked(browser)) == set(pick.methods)
        (text,) = [text for text in browser.find_elements("css selector", ".pick") if text.is_displayed()]
        assert f"Rule: {pick.rule}" in text.text and pick.says in text.text
        assert [c.get_attribute("aria-pressed") for c in choices].count("true") == 1
    choices[-1].click()
    assert picked(browser) == []


def background(browser):
    return browser.execute_script("return getComputedStyle(document.body).backgroundColor")


def test_the_theme_follows_the_system_until_it_is_chosen_and_then_stays(opened):
    browser = opened(scheme="dark")
    dark = background(browser)
    toggle = browser.find_element("id", "theme")
    assert toggle.text == "Light theme"
    toggle.click()
    light = background(browser)
    assert light != dark and toggle.text == "Dark theme"
    browser.refresh()
    assert background(browser) == light
    prefers(browser, "light")
    browser.find_element("id", "theme").click()
    assert background(browser) == dark
    browser.refresh()
    assert background(browser) == dark
    assert browser.execute_script("return getComputedStyle(document.querySelector('.card')).backgroundColor") == (
        "rgb(255, 255, 255)"
    )


@pytest.mark.parametrize(
    ("name", "scheme"), [("glue-small", "light"), ("glue-small", "dark"), ("cost-minilm", "light")]
)
def test_axe_finds_nothing_serious(opened, axe, name, scheme):
    # Figures are left out: each is one image, tested elsewhere to have a text, and they are half of all elements.
    browser = opened(name, scheme=scheme)
    for choice in browser.find_elements("css selector", "[data-need='0']"):
        choice.click()
    browser.execute_script(axe)
    found = browser.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "axe.run({exclude: ['.card img']}, {resultTypes: ['violations']})"
        ".then(done, error => done({error: String(error)}))"
    )
    assert "error" not in found, found
    assert found["testEngine"]["name"] == "axe-core"
    serious = [
        (violation["id"], violation["impact"], [node["html"][:200] for node in violation["nodes"][:3]])
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
    ]
    assert serious == []


def test_print_shows_every_section_and_all_picks_without_controls(opened):
    browser = opened()
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    shown = "return [...document.querySelectorAll(arguments[0])].map(e => getComputedStyle(e).display)"
    assert set(browser.execute_script(shown, "nav, #theme, .filter, .choose")) == {"none"}
    assert "none" not in browser.execute_script(shown, "section, .pick, figure, table")
    size(browser, 690, 1000)  # A4 between its margins
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 690
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    printed = browser.execute_cdp_cmd("Page.printToPDF", {})["data"]
    assert len(printed) > 50_000
