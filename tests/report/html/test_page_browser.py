"""report.html in a real Chromium: what is drawn, what answers, that nothing is fetched, on a phone and in the dark."""

import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mllm_probe.report.figures.layers import telling
from mllm_probe.results.score_file import load_scores
from mllm_probe.results.selection import headline, real
from tests.support.other_pages import KINDS as OTHERS
from tests.support.other_pages import NAME, made
from tests.support.pages import Markup, shown_run
from tests.support.runs import tiny

NEEDED = {"chromium": shutil.which("chromium"), "chromedriver": shutil.which("chromedriver")}
MISSING = [name for name, path in NEEDED.items() if path is None]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(MISSING), reason=f"{' and '.join(MISSING)} not installed: make test-browser"),
]
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run")
QUIET = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-default-browser-check",
)
READY = (
    "return document.documentElement.classList.contains('live') && document.querySelectorAll('.js-plotly-plot').length"
)
Browser = Any
Open = Callable[..., Browser]


@pytest.fixture(scope="module")
def page(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shown_run(tmp_path_factory.mktemp("browser"), checkpoint) / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = NEEDED["chromium"] or ""
    for flag in (*FLAGS, *QUIET, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(NEEDED["chromedriver"]))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser: Browser, page: Path) -> Open:
    """Open the page at a width, in a colour scheme and a medium; it is drawn when this returns."""
    from selenium.webdriver.support.ui import WebDriverWait

    def open_page(width: int = 1200, scheme: str = "light", medium: str = "") -> Browser:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        emulate(browser, scheme, medium)
        browser.get("about:blank")
        for kind in ("browser", "performance"):
            browser.get_log(kind)  # what the browser did before
        browser.get(page.as_uri())
        WebDriverWait(browser, 30).until(lambda driver: driver.execute_script(READY))
        return browser

    return open_page


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("kind", OTHERS)
def test_pages_of_other_commands_are_drawn_without_an_error_or_a_request(
    browser: Browser, tmp_path: Path, kind: str
) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    page = made(kind, tmp_path / kind) / "report.html"
    emulate(browser, "light")
    browser.get("about:blank")
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(page.as_uri())
    WebDriverWait(browser, 30).until(lambda driver: driver.execute_script(READY))
    assert browser.title != "owned" and " ".join(NAME.split()) in " ".join(browser.title.split())
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    asked = [e["message"] for e in browser.get_log("performance") if 'Network.requestWillBeSent"' in e["message"]]
    assert asked and not [line for line in asked if page.as_uri() not in line and '"url":"data:' not in line]


def test_a_picture_is_looked_at_layer_by_layer_with_the_slider_keys_and_on_hover(
    browser: Browser, tmp_path: Path
) -> None:
    """The left token is covered, and found at the last layer alone."""
    from selenium.webdriver.common.keys import Keys

    emulate(browser, "dark")
    browser.get((made("regions", tmp_path / "regions") / "report.html").as_uri())
    box = browser.find_element("css selector", ".viewer")
    assert box.is_displayed() and box.find_element("css selector", "img").size["width"] > 200
    seen = "return Array.from(document.querySelectorAll('.viewer rect')).map(r => r.getAttribute('class').trim())"
    told = box.find_element("css selector", ".told")
    assert sorted(browser.execute_script(seen)) == ["no", "yes there"]
    assert told.text.endswith("at lm.02: 1 tokens found, 0 missed, 0 wrong")
    slider = box.find_element("css selector", "input[type=range]")
    slider.send_keys(Keys.ARROW_LEFT)
    assert sorted(browser.execute_script(seen)) == ["no there", "yes"]
    assert told.text.endswith("at lm.01: 0 tokens found, 1 missed, 1 wrong")
    assert slider.get_attribute("aria-valuetext") == "lm.01"
    slider.send_keys(Keys.HOME)
    assert told.text.endswith("at lm.00: 0 tokens found, 1 missed, 0 wrong")
    _hover(browser, "rect.there")
    token = box.find_element("css selector", ".token")
    assert token.text.startswith("token 0: the probe says no;") and token.text.endswith("covers 100 % of it")
    rect, image = (box.find_element("css selector", name).rect for name in ("rect.there", "img"))
    assert abs(rect["x"] - image["x"]) < 3 and abs(2 * rect["width"] - image["width"]) < 6, "over the left half"
    assert not browser.find_element("css selector", "select.picture").is_displayed(), "there is one picture"


def _hover(browser: Browser, name: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(browser).move_to_element(browser.find_element("css selector", f".viewer {name}")).perform()


def _chosen(box: Any, name: str, option: int) -> list[str]:
    """Choose an option of a list; the texts of all of them."""
    from selenium.webdriver.support.ui import Select

    found = Select(box.find_element("css selector", f"select.{name}"))
    found.select_by_index(option)
    return [each.text for each in found.options]


def test_words_of_a_token_are_told_on_hover_and_by_keys_layer_by_layer(browser: Browser, tmp_path: Path) -> None:
    """The left token's nearest word names what lies there, at the last layer alone."""
    from selenium.webdriver.common.keys import Keys

    emulate(browser, "light")
    browser.get((made("lens", tmp_path / "lens") / "report.html").as_uri())
    box = browser.find_element("css selector", ".viewer")
    told, token = (box.find_element("css selector", name) for name in (".told", ".token"))
    assert (
        told.text == "logit at lm.02: the nearest word names what lies there at 1 of 2 tokens, what is elsewhere at 0"
    )
    assert token.text == ""
    _hover(browser, "rect.there")
    assert token.text.startswith("token 0: logit 0 2 1, logit 0 2 2 (on: ")
    slider, picture = (box.find_element("css selector", name) for name in ("input[type=range]", "svg"))
    slider.send_keys(Keys.ARROW_LEFT)
    assert told.text.endswith("at 0 of 2 tokens, what is elsewhere at 1")
    assert token.text.startswith("token 0: logit 0 1 1"), "the same token at another layer"
    assert browser.execute_script("return document.querySelectorAll('.viewer rect.other').length") == 1
    browser.execute_script("arguments[0].focus()", picture)
    picture.send_keys(Keys.ARROW_RIGHT)
    assert token.text == "token 1: logit 1 1 1, logit 1 1 2"
    picture.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    assert token.text.startswith("token 1"), "there is none beyond"
    picture.send_keys(Keys.ARROW_LEFT)
    assert token.text.startswith("token 0") and slider.get_attribute("value") == "1"
    assert _chosen(box, "object", 1) == ["logit", "embedding"]
    assert token.text.startswith("token 0: embedding 0 1 1")
    assert not box.find_element("css selector", "select.way").is_displayed()


def test_attention_lies_over_the_picture_and_absent_objects_can_be_chosen(browser: Browser, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    emulate(browser, "dark")
    browser.get((made("attention", tmp_path / "attention") / "report.html").as_uri())
    box = browser.find_element("css selector", ".viewer")
    told, token = (box.find_element("css selector", name) for name in (".told", ".token"))
    rects = "Array.from(document.querySelectorAll('.viewer rect'))"
    strength = f"return {rects}.map(r => [r.dataset.token, Number(r.style.fillOpacity)])"
    assert told.text.endswith("at lm.03.attn: token 0 gets most; its object covers 100 % of it")
    assert dict(browser.execute_script(strength)) == {"0": pytest.approx(0.7), "1": pytest.approx(0.14)}
    _hover(browser, "rect:not(.there)")
    assert token.text == "token 1: 20 % of what the strongest token gets; its object covers 0 % of it"
    box.find_element("css selector", "input[type=range]").send_keys(Keys.HOME)
    assert told.text.endswith("at lm.01.attn: token 1 gets most; its object covers 0 % of it")
    assert _chosen(box, "way", 1) == ["one way", "another"]
    assert dict(browser.execute_script(strength)) == {"0": 0, "1": pytest.approx(0.7)}
    assert _chosen(box, "object", 1)[1] == "absent? (not in the picture)"
    assert told.text.endswith("token 1 gets most; its object is not in the picture")
    assert browser.execute_script("return document.querySelectorAll('.viewer rect.there').length") == 0
    size = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360, "fits a phone"


LABELS = ('<img src=x onerror="document.title=1">', "[red]ã[/red] **x**", "字 & %{x} ${7*7}")


@pytest.fixture(scope="module")
def own_table(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a table whose labels, texts and file names are markup."""
    import csv

    import numpy as np
    from PIL import Image

    from mllm_probe import run

    folder, rng = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    with (folder / "t.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("picture", "text", "label"))
        for i in range(36):
            shades = rng.integers(0, 90, (8, 8, 3)) + 150 * (np.arange(3) == i % 3)
            Image.fromarray(shades.astype(np.uint8)).resize((32, 32), 0).save(folder / f"<b>{i} [é].png")
            table.writerow((f"<b>{i} [é].png", "<script>document.title=2</script>?", LABELS[i % 3]))
    own = ("task=custom", f"dataset.root={folder}", "dataset.file=t.csv", "sweep.draws=50", "layers.stride=2")
    more = ("controls=none", "sweep.seeds=[0]", f"paths.outputs={folder / 'outputs'}")
    return run(*tiny(checkpoint), *own, *more, out=folder / "run", quiet=True).folder / "report.html"


def test_labels_that_are_markup_are_shown_as_they_are(browser: Browser, own_table: Path) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    emulate(browser, "light")
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get(own_table.as_uri())
    WebDriverWait(browser, 30).until(lambda driver: driver.execute_script(READY))
    heads = [cell.text for cell in browser.find_elements("css selector", "table.grid thead th")]
    assert all(label in heads for label in LABELS) and browser.title not in ("1", "2")
    entries = "document.querySelector('#labels .plot').querySelectorAll('.legendtext')"
    names = browser.execute_script(f"return Array.from({entries}).map(t => t.textContent)")
    assert names == sorted(LABELS)
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


def emulate(browser: Browser, scheme: str, medium: str = "") -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": medium, "features": features})


def plotted(browser: Browser) -> list[dict[str, Any]]:
    """The traces that the library holds of the layers."""
    traces = "Array.from(document.querySelector('#layers .plot').data)"
    return browser.execute_script(
        f"return {traces}.map(t => ({{name: t.name, y: t.y, mode: t.mode, visible: t.visible}}))"
    )


def press(browser: Browser, name: str) -> None:
    tabs = browser.find_elements("css selector", "#layers [role=tab]")
    next(tab for tab in tabs if tab.text == name).click()


def test_curves_are_drawn_without_an_error_or_a_request(opened: Open, page: Path) -> None:
    browser = opened()
    rows = telling(real(headline(load_scores(page.parent / "scores.csv"))))
    lines = [trace for trace in plotted(browser) if trace["mode"] == "lines+markers"]
    for position in dict.fromkeys(rows.position):
        drawn = [value for line in lines if line["name"] == position for value in line["y"]]
        assert drawn == rows[rows.position == position].value.tolist()
    points = browser.execute_script(
        "return document.querySelectorAll('#layers .plot .scatterlayer .points path').length"
    )
    assert points == len(rows)
    assert browser.title == "llava (nf4), entailment on coco"  # what the captions would have changed
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    asked = [
        line["message"] for line in browser.get_log("performance") if 'Network.requestWillBeSent"' in line["message"]
    ]
    assert asked and not [line for line in asked if page.as_uri() not in line and '"url":"data:' not in line]
    assert (
        browser.execute_script(
            "return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length"
        )
        == 0
    )
    assert browser.find_elements("css selector", ".modebar-btn[data-title*='hare']") == []


def test_tabs_and_the_legend_switch_what_is_shown(opened: Open, page: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    browser, charts = opened(), Markup(page).charts
    names = [tab.text for tab in browser.find_elements("css selector", "#layers [role=tab]")]
    assert names == list(charts) and names[0] == "all positions" and names[-1] == "map"
    for name in names:
        press(browser, name)
        chosen = browser.find_elements("css selector", "#layers [aria-selected=true]")
        assert [tab.text for tab in chosen] == [name]
        assert len(plotted(browser)) == len(charts[name]["data"])
    assert browser.find_elements("css selector", "#layers .heatmaplayer image")
    chosen[0].send_keys(Keys.ARROW_RIGHT)
    assert browser.find_element("css selector", "#layers [aria-selected=true]").text == names[0]
    press(browser, "last")
    lines = pairwise(charts["last"]["data"])
    name = next(line["name"] for line, band in lines if line.get("showlegend") and band.get("fill") and band["x"])
    entry = next(e for e in browser.find_elements("css selector", "#layers .legend .traces") if e.text == name)
    entry.find_element("css selector", ".legendtoggle").click()
    browser.implicitly_wait(0)
    hidden = until(lambda: [t for t in plotted(browser) if t["visible"] == "legendonly"])
    assert hidden[0]["name"] == name and len(hidden) == 2  # the line and its band


def until(what: Callable[[], Any]) -> Any:
    """What `what` returns as soon as it is something; plotly waits to tell one press from two."""
    import time

    for _ in range(50):
        if found := what():
            return found
        time.sleep(0.1)
    return what()


def test_a_phone_shows_all_without_moving_sideways(opened: Open) -> None:
    browser = opened(390)
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    for tab in browser.find_elements("css selector", "#layers [role=tab]"):
        tab.click()
        width = "return Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)"
        assert browser.execute_script(width) == 390
    letters = "[...document.querySelectorAll('p, li, td, dd, figcaption')].map(e => getComputedStyle(e).fontSize)"
    assert min(float(size.removesuffix("px")) for size in browser.execute_script(f"return {letters}")) >= 12


def test_a_wide_table_says_that_it_scrolls(opened: Open) -> None:
    """On a phone, whose browsers show no scroll bar; where all fits, nothing is said."""
    told = (
        "return [...document.querySelectorAll('.wide')].map(w => [w.scrollWidth > w.clientWidth + 1, "
        "getComputedStyle(w, '::before').content !== 'none'])"
    )
    for width, some in ((390, True), (1200, False)):
        browser = opened(width)
        browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
        browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
        found = browser.execute_script(told)
        assert found and all(wider == said for wider, said in found) and any(wider for wider, _ in found) == some


def luminance(colour: str) -> float:
    """Of `rgb(r, g, b)`, as WCAG 2 defines it."""
    parts = [int(part) / 255 for part in colour.partition("(")[2].rstrip(")").split(",")[:3]]
    red, green, blue = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(browser: Browser, selector: str) -> float:
    style = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    ink, paper = (
        luminance(browser.execute_script(style, *args)) for args in ((selector, "color"), ("body", "backgroundColor"))
    )
    return (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05)


def test_dark_and_light_are_both_readable_and_change_at_once(opened: Open) -> None:
    browser = opened(scheme="dark")
    paper = "return getComputedStyle(document.body).backgroundColor"
    letters = "return getComputedStyle(document.querySelector('#layers .xtick text')).fill"
    assert luminance(browser.execute_script(paper)) < 0.02 < 0.5 < luminance(browser.execute_script(letters))
    for scheme in ("dark", "light"):
        emulate(browser, scheme)
        assert all(contrast(browser, s) >= 4.5 for s in ("h1", ".dim", ".kicker", ".answer", "summary", "dt"))
    assert luminance(browser.execute_script(paper)) > 0.9
    assert until(lambda: luminance(browser.execute_script(letters)) < 0.1)


def test_paper_shows_the_still_figure(opened: Open) -> None:
    browser = opened(medium="print", scheme="dark")
    shown = "return getComputedStyle(document.querySelector(arguments[0])).display"
    assert browser.execute_script(shown, "#layers .still") == "block"
    assert browser.execute_script(shown, "#layers .plot") == browser.execute_script(shown, ".tabs") == "none"
    assert browser.execute_script("return document.querySelector('#layers .still').naturalWidth") > 300
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert contrast(browser, ".dim") >= 4.5


def test_headings_and_pictures_say_what_they_are(opened: Open) -> None:
    browser = opened()
    levels = browser.execute_script("return [...document.querySelectorAll('h1,h2,h3')].map(h => +h.tagName[1])")
    assert levels[0] == 1 and levels.count(1) == 1
    assert browser.execute_script("return [...document.images].every(i => i.alt && i.complete && i.naturalWidth)")
