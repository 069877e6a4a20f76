"""The page for people, in a real browser at a real server: it searches while one types, filters, shows what is like an item, and harms nobody."""

import json
import shutil
import threading

import pytest

import twotower as tt
from conftest import WORLD_CONFIG, planted_world
from serving import serving
from test_pages import CONTRAST
from twotower.app.page import FILES, read

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium is installed here; on Debian: apt-get install chromium")
EVIL = "<img src=x onerror=\"document.title='taken'\">"


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A server of a world with columns of several kinds, one item of which has a title that wants to be HTML."""
    pairs, items = planted_world()
    rows = items.to_pylist()
    for number, row in enumerate(rows):
        row |= {"stock": number % 5, "sold": number % 3 == 0, "tags": ["new", "red"] if number % 2 else ["old"]}
    rows[0]["title"] += " " + EVIL
    config = {**WORLD_CONFIG, "item": {**WORLD_CONFIG["item"], "payload": ["title", "kind", "price", "stock", "sold", "tags"]}}
    run = tt.train(pairs, rows_of(rows), config=config, output=tmp_path_factory.mktemp("page") / "run")
    with serving(run.folder) as server:
        yield server.url


def rows_of(rows):
    import pyarrow as pa

    return pa.Table.from_pylist(rows)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


class Seen:
    """A page, and all that it asked for and complained about."""

    def __init__(self, browser, url, **options):
        self.page = browser.new_context(**options).new_page()
        self.lines, self.asked = [], []
        self.page.on("console", lambda line: self.lines.append(line.text))
        self.page.on("pageerror", lambda error: self.lines.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(url)
        self.page.wait_for_selector("#fields input")

    def search(self, text):
        self.page.fill("#fields input", text)
        self.page.wait_for_selector("#results li")
        return self.titles()

    def titles(self):
        return self.page.locator("#results h2").all_inner_texts()

    def settle(self):
        """Wait for the answer to what was set."""
        with self.page.expect_response(lambda answer: answer.request.method == "POST"):
            pass
        self.page.wait_for_timeout(50)


@pytest.fixture
def seen(browser, url):
    opened = Seen(browser, url, viewport={"width": 1200, "height": 900})
    yield opened
    assert not opened.lines, opened.lines
    assert all(each.startswith(url) for each in opened.asked)
    opened.page.context.close()


def test_the_files_of_the_page_and_no_others():
    for name in FILES:
        body, media = read(name)
        assert body and media.partition("/")[0] in ("text", "image")
    with pytest.raises(KeyError):
        read("__init__.py")


@needs_browser
def test_it_answers_while_one_types_and_shows_why(seen):
    seen.page.type("#fields input", "subject3 sort1", delay=20)
    seen.page.wait_for_selector("#results li")
    assert len(seen.titles()) == 10 and "items" in seen.page.inner_text("#status")
    assert seen.page.locator("#results .why").first.inner_text().startswith("similarity")
    assert "q.asked=subject3+sort1" in seen.page.url
    seen.page.fill("#fields input", "")
    seen.page.wait_for_selector("#hint:visible")
    assert not seen.titles()


@needs_browser
def test_an_answer_that_is_outdated_is_not_shown(seen):
    first = threading.Event()

    def slow(route):
        if json.loads(route.request.post_data or "{}").get("query") == "subject1":
            first.set()
            seen.page.wait_for_timeout(600)
        route.continue_()

    seen.page.route("**/search", slow)
    wanted = tuple(seen.search("subject3"))
    seen.page.fill("#fields input", "subject1")
    seen.page.wait_for_timeout(200)
    seen.page.fill("#fields input", "subject3")
    seen.page.wait_for_timeout(1000)
    assert first.is_set() and tuple(seen.titles()) == wanted


@needs_browser
def test_filters_are_made_of_the_columns_and_narrow(seen):
    seen.search("subject3")
    seen.page.click("#filtering")
    kinds = {
        each: seen.page.locator(f'#filters fieldset[data-column="{each}"]').get_attribute("data-kind") for each in ("price", "sold", "tags", "kind")
    }
    assert kinds == {"price": "number", "sold": "truth", "tags": "list", "kind": "text"}
    with seen.page.expect_response("**/search"):
        seen.page.fill('#filters fieldset[data-column="price"] input[data-end="greatest"]', "12")
    seen.page.wait_for_timeout(100)
    prices = [float(text) for text in seen.page.locator("#results dl div:has(dt:text-is('price')) dd").all_inner_texts()]
    assert prices and max(prices) <= 12 and "(1)" in seen.page.inner_text("#filtering")
    with seen.page.expect_response("**/search"):
        seen.page.select_option('#filters fieldset[data-column="sold"] select', "true")
    with seen.page.expect_response("**/search"):
        seen.page.check('#filters fieldset[data-column="tags"] input >> nth=0')
    seen.page.wait_for_timeout(100)
    shown = seen.page.locator("#results dl").all_inner_texts()
    assert all("true" in text for text in shown)
    address = seen.page.url
    seen.page.goto(address)  # an address can be passed on
    seen.page.wait_for_selector("#results li")
    assert seen.page.locator("#results dl").all_inner_texts() == shown
    seen.page.click("#filtering")
    with seen.page.expect_response("**/search"):
        seen.page.click(".clear")
    seen.page.wait_for_timeout(100)
    assert len(seen.titles()) == 10


@needs_browser
def test_a_filter_as_text_and_what_is_wrong_with_it(browser, url):
    seen = Seen(browser, url)
    seen.search("subject3")
    seen.page.click("#filtering")
    with seen.page.expect_response("**/search"):
        seen.page.fill("#where", "stock >= 3 and not sold")
    seen.page.wait_for_timeout(100)
    assert len(seen.titles()) == sum(number % 5 >= 3 and number % 3 > 0 for number in range(36))
    with seen.page.expect_response("**/search"):
        seen.page.fill("#where", "colour = 3")
    seen.page.wait_for_selector("#problem:visible")
    assert "stock" in seen.page.inner_text("#problem")


@needs_browser
def test_what_is_like_an_item_and_the_way_back(seen):
    before = seen.search("subject3 sort1")
    seen.page.click("#results li:nth-child(1) button")
    seen.page.wait_for_selector("#back:visible")
    assert seen.page.inner_text("#heading").startswith("Like ") and before[0] not in seen.titles()
    seen.page.go_back()
    seen.page.wait_for_selector("#back", state="hidden")
    seen.page.wait_for_timeout(200)
    assert seen.titles() == before


@needs_browser
def test_the_keyboard_suffices(seen):
    seen.search("subject3 sort1")
    seen.page.keyboard.press("ArrowDown")
    seen.page.keyboard.press("ArrowDown")
    assert seen.page.evaluate("[...document.querySelectorAll('#results > li')].indexOf(document.activeElement)") == 1
    seen.page.keyboard.press("Enter")
    seen.page.wait_for_selector("#back:visible")
    seen.page.keyboard.press("Escape")
    seen.page.wait_for_selector("#back", state="hidden")
    seen.page.locator("#results li").first.focus()
    seen.page.keyboard.press("/")
    assert seen.page.evaluate("document.activeElement.name") == "asked"


@needs_browser
def test_more_goes_on_behind_what_is_shown(seen):
    first = seen.search("subject3")
    with seen.page.expect_response("**/search"):
        seen.page.click("#more")
    seen.page.wait_for_timeout(150)
    assert seen.titles()[:10] == first and len(seen.titles()) == 20


@needs_browser
def test_what_comes_from_a_catalogue_is_text(seen):
    seen.page.fill("#fields input", "onerror document title taken img src subject0")
    seen.page.wait_for_selector("#results li")
    seen.page.click("#tuning")
    with seen.page.expect_response("**/search"):
        seen.page.fill("#k", "40")
    seen.page.wait_for_timeout(200)
    assert any("onerror" in text for text in seen.page.locator("#results li").all_inner_texts())
    assert seen.page.title() != "taken" and seen.page.locator("#results img").count() == 0


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_and_fits_a_phone(browser, url, scheme):
    seen = Seen(browser, url, viewport={"width": 360, "height": 740}, color_scheme=scheme)
    seen.search("subject3 sort1")
    seen.page.click("#filtering")
    seen.page.click("#tuning")
    seen.page.wait_for_timeout(300)
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 360
    assert seen.page.evaluate(CONTRAST) >= 4.5
    seen.page.goto(url + "/card")
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 360 and seen.page.inner_text("h1") == "Model card"
    assert not seen.lines


@needs_browser
def test_a_busy_server_and_one_that_is_gone_are_told_in_words(browser, url):
    seen = Seen(browser, url)
    seen.search("subject3")
    busy = json.dumps({"detail": "busy", "status": 503})
    seen.page.route("**/search", lambda route: route.fulfill(status=503, body=busy, headers={"retry-after": "1"}))
    seen.page.fill("#fields input", "subject4")
    seen.page.wait_for_timeout(400)
    assert "busy" in seen.page.inner_text("#status")
    seen.page.unroute("**/search")
    seen.page.wait_for_timeout(1400)
    assert "items" in seen.page.inner_text("#status")
    seen.page.route("**/search", lambda route: route.abort())
    seen.page.fill("#fields input", "subject5")
    seen.page.wait_for_selector("#problem:visible")
    assert "cannot be reached" in seen.page.inner_text("#problem")


@needs_browser
def test_a_key_is_asked_for_and_kept_for_the_session(browser, url):
    seen = Seen(browser, url)
    given = []

    def locked(route):
        given.append(route.request.headers.get("authorization"))
        if given[-1] == "Bearer the-right-key":
            route.continue_()
        else:
            route.fulfill(status=401, body=json.dumps({"detail": "a key is needed"}))

    seen.page.route("**/search", locked)
    seen.page.fill("#fields input", "subject3")
    seen.page.wait_for_selector("#locked[open]")
    seen.page.fill("#key", "the-right-key")
    seen.page.keyboard.press("Enter")
    seen.page.wait_for_selector("#results li")
    assert given[0] is None and given[-1] == "Bearer the-right-key"
