"""The web page in a real headless Chromium: what it shows, the keys, both languages, phones; it needs nobody else."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.helpers.serving import KEYS, SEARCHER, SECRET, FakeIndex, listening, png, tiny_app
from tests.helpers.tiny import tiny_images

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="the page's tests need playwright: pip install -e '.[dev]'"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("the page's tests need a browser: apt-get install chromium fonts-wqy-microhei", allow_module_level=True)

CARD = "#results > li:not(.skeleton)"


@dataclass
class Visit:
    """A page in the browser; what went wrong in it, and where it sent requests."""

    page: Any
    index: FakeIndex
    url: str
    errors: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def search(self, text: str) -> None:
        self.page.fill("#text", text)
        self.page.keyboard.press("Enter")
        self.until(f"document.title.startsWith({json.dumps(text)})")
        self.page.wait_for_selector("#results:not([aria-busy]) > li:not(.skeleton)")

    def until(self, expression: str) -> None:
        """Wait until an expression of the page holds; a script of the page's own may not evaluate one."""
        deadline = time.monotonic() + 10
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, expression
            self.page.wait_for_timeout(20)

    def names(self) -> list[str]:
        return [name.strip() for name in self.page.locator(f"{CARD} .name").all_text_contents()]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """The page of a server of twelve images; parameters are of the browser's context, and `keys` of the server."""
    options = {"locale": "zh-CN", "reduced_motion": "reduce"} | dict(getattr(request, "param", {}))
    keys = options.pop("keys", None)
    index = FakeIndex()
    with listening(tiny_app(index, keys, wait=0.0)) as url:
        context = browser.new_context(**options)
        page = context.new_page()
        page.set_default_timeout(10_000)
        result = Visit(page, index, url)
        page.on("pageerror", lambda error: result.errors.append(str(error)))
        page.on("console", lambda line: result.errors.append(line.text) if line.type == "error" else None)
        page.on("request", lambda item: result.asked.append(item.url))
        page.goto(url)
        page.wait_for_selector(".say")
        yield result
        context.close()
    # Browsers log answers of 4xx as errors; scripts and the policy of contents must raise none.
    assert [line for line in result.errors if "status of 4" not in line and "status of 5" not in line] == []
    assert all(item.startswith((url, "blob:", "data:")) for item in result.asked)


def test_a_text_finds_images_with_both_scores_and_the_stages_show_what_ranking_moves(visit: Visit) -> None:
    page = visit.page
    visit.search("红船")
    assert visit.names() == [f"{index}.png" for index in range(11, -1, -1)]
    first = page.locator(CARD).first
    assert first.locator(".bar.cosine b").text_content() == "0.400"
    assert first.locator(".bar.match b").text_content() == "100%"
    assert first.locator(".moved.up").text_content() == "↑11"
    visit.until("document.querySelector('#results .frame.here img')?.naturalWidth > 0")
    assert "12 个候选" in page.text_content("#status")
    assert page.get_attribute("#second", "aria-checked") == "true"

    page.click("#first")
    visit.until("!document.querySelector('#results .bar.match')")
    assert visit.names() == [f"{index}.png" for index in range(12)]
    assert "stage=1" in page.url
    calls = len(visit.index.queries)
    page.keyboard.press("2")
    page.wait_for_selector(".bar.match")
    assert len(visit.index.queries) == calls  # both orders are at hand
    page.go_back()
    visit.until("!document.querySelector('#results .bar.match')")


def test_the_keys_do_all_of_it(visit: Visit) -> None:
    page = visit.page
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.type("红船")
    page.keyboard.press("Enter")
    page.wait_for_selector(CARD)
    focused = "[...document.querySelectorAll('#results .open')].indexOf(document.activeElement)"
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) == 0
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == 1
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) > 2
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    assert page.text_content("dialog h2") == "11.png"
    page.keyboard.press("ArrowRight")
    assert page.text_content("dialog h2") == "10.png"
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog[open]", state="detached")
    visit.until(f"{focused} === 1")  # the focus comes back just after the dialog has gone
    page.keyboard.press("m")
    page.wait_for_selector(".chip")
    visit.until("document.querySelectorAll('#results > li').length === 11")
    assert "10.png" not in visit.names()
    assert visit.index.queries[-1].like is not None
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_an_image_is_dropped_and_joined_by_a_text(visit: Visit, tmp_path: Any) -> None:
    page = visit.page
    large = tiny_images(1, seed=3)[0].resize((1000, 700), 0)
    (tmp_path / "query.png").write_bytes(png(large))
    transfer = page.evaluate_handle(
        """data => { const transfer = new DataTransfer();
        transfer.items.add(new File([Uint8Array.from(data)], "query.png", { type: "image/png" }));
        return transfer; }""",
        list(png(large)),
    )
    page.dispatch_event("body", "dragenter", {"dataTransfer": transfer})
    assert page.is_visible("#drop")
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})
    page.wait_for_selector(CARD)
    assert not page.is_visible("#drop")
    assert page.is_visible(".chip img")
    assert page.is_disabled("#second")  # an image alone is not ranked
    assert visit.index.queries[-1].image is not None
    visit.search("红船")
    assert (visit.index.queries[-1].text, visit.index.queries[-1].rank) == ("红船", True)
    assert visit.index.queries[-1].image is not None
    page.click(".chip button")
    page.wait_for_selector(".chip", state="detached")
    page.wait_for_selector(f"{CARD} .bar.match")
    assert visit.index.queries[-1].image is None

    page.set_input_files("#file", tmp_path / "query.png")
    page.wait_for_selector(".chip img")
    (tmp_path / "no.png").write_bytes(b"not an image")
    page.set_input_files("#file", tmp_path / "no.png")
    page.wait_for_selector("[role=alert]")
    assert "不是能读的图片" in page.text_content("[role=alert]")


def test_filters_are_set_shown_and_taken_away(visit: Visit) -> None:
    page = visit.page
    visit.search("红船")
    page.click("#open-filters")
    page.fill("#filters input[aria-label='文件夹']", "夏")
    page.fill("#filters input[aria-label='宽（像素） 从']", "500")
    page.click("#filters .go")
    visit.until("document.querySelectorAll('#results > li').length === 4")
    assert visit.names() == ["11.png", "9.png", "7.png", "5.png"]
    assert [text.strip("×") for text in page.locator(".chip").all_text_contents()] == [
        "文件夹 / 夏",
        "宽（像素） ≥ 500",
    ]
    assert page.text_content("#filter-count") == "2"
    page.reload()
    page.wait_for_selector(CARD)
    assert visit.names() == ["11.png", "9.png", "7.png", "5.png"]  # the address holds all of it
    page.click("#open-filters")
    page.fill("#filters input[aria-label='宽（像素） 从']", "5000")
    page.click("#filters .go")
    page.wait_for_selector(".say")
    assert page.text_content(".say h1") == "没有匹配的图片"
    page.click(".say .go")
    visit.until("document.querySelectorAll('#results > li').length === 12")


@pytest.mark.parametrize("visit", [{"locale": "en-GB", "color_scheme": "dark"}], indirect=True)
def test_the_other_language_and_the_dark(visit: Visit) -> None:
    page = visit.page
    assert page.get_attribute("html", "lang") == "en"
    assert page.text_content(".say h1") == "Find an image"
    visit.search("红船")
    assert "12 candidates · 12 ranked" in page.text_content("#status")
    label = page.locator(f"{CARD} .open").first.get_attribute("aria-label")
    assert label == "Place 1, 11.png, Cosine 0.400, Probability 100%"
    page.click("#zh")
    assert page.get_attribute("html", "lang") == "zh-CN"
    assert "12 个候选" in page.text_content("#status")
    assert page.locator(".like").first.text_content() == "找相似"
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert max(dark) < 60


PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}


@pytest.mark.parametrize("visit", [PHONE], indirect=True)
def test_a_phone_has_two_columns_and_nothing_sticks_out(visit: Visit) -> None:
    page = visit.page
    visit.search("红船")
    tops = page.evaluate("[...document.querySelectorAll('#results > li')].map(of => of.getBoundingClientRect().top)")
    assert tops[0] == tops[1] < tops[2]
    page.tap(f"{CARD} .open")
    page.wait_for_selector("dialog[open]")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.tap("dialog .actions .quiet")
    page.tap(f"{CARD} >> nth=2 >> .like")
    page.wait_for_selector(".chip")
    touched = "[...document.querySelectorAll('.box .go, .icon, .stages button, #open-filters, .like, .chip button')]"
    assert page.evaluate(f"Math.min(...{touched}.map(of => of.getBoundingClientRect().height))") >= 24


@pytest.mark.parametrize("visit", [{"keys": KEYS}], indirect=True)
def test_a_key_is_asked_for_and_images_come_with_it(visit: Visit) -> None:
    page = visit.page
    assert page.text_content(".say h1") == "需要密钥"
    page.fill(".key input", "wrong-key-of-the-tests")
    page.click(".key .go")
    page.wait_for_selector(".key input")
    page.fill(".key input", SEARCHER)
    page.keyboard.press("Enter")
    visit.until("document.querySelector('.say h1')?.textContent === '找一张图片'")
    visit.search("红船")
    visit.until("document.querySelector('#results .frame.here img')?.naturalWidth > 0")
    assert SEARCHER not in page.url


def test_faults_and_lost_connections_are_said_and_can_be_tried_again(visit: Visit) -> None:
    page, times = visit.page, iter([True, False])

    def fail(queries: object) -> None:
        if next(times, False):
            raise RuntimeError("broken")

    visit.index.before = fail
    page.fill("#text", "红船")
    page.keyboard.press("Enter")
    page.wait_for_selector("[role=alert]")
    assert "log says why" in page.text_content("[role=alert]")
    page.click("[role=alert] .go")
    page.wait_for_selector(CARD)
    page.route("**/search", lambda route: route.abort())
    visit.page.fill("#text", "白船")
    page.keyboard.press("Enter")
    page.wait_for_selector("[role=alert]")
    assert "连接不到服务器" in page.text_content("[role=alert]")
    visit.errors.clear()  # the browser's own word of the lost connection


def test_names_and_texts_are_never_taken_for_markup(visit: Visit) -> None:
    page = visit.page
    odd = "<img src=x onerror=alert(1)>"
    visit.index._keep(odd + ".png", tiny_images(1)[0], {"folder": f"{SECRET}/{odd}"})
    visit.search(odd)
    assert odd + ".png" in visit.names()
    page.click(f"{CARD} .open")
    page.wait_for_selector("dialog[open]")
    assert odd in page.text_content("dialog dl")
    assert page.locator("img[src=x]").count() == 0


def test_the_page_works_below_a_path_prefix(browser: Any) -> None:
    with listening(tiny_app(FakeIndex(), wait=0.0, prefix="/photos")) as url:
        page = browser.new_page()
        page.set_default_timeout(10_000)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{url}/photos?q=红船&stage=1")
        page.wait_for_selector(f"{CARD} img")
        assert page.url.startswith(f"{url}/photos/?q=")
        page.fill("#text", "白船")
        page.keyboard.press("Enter")
        page.wait_for_function("document.title.startsWith('白船')")
        assert page.url.startswith(f"{url}/photos/?q=%E7%99%BD")
        page.close()
    assert {"search", "about", "page.js"} <= {request.split("/photos/")[-1] for request in asked}
    assert all(request.startswith((f"{url}/photos", "blob:", "data:")) for request in asked)
