"""The page for people, in a real browser at a real server: it searches while one types, filters, shows what is like an item, and harms nobody."""

import datetime
import json
import threading
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pytest

import twotower as tt
from conftest import WORLD_CONFIG, needs_browser, planted_world
from serving import serving
from test_pages import CONTRAST
from twotower.app.page import FILES, read

PATIENCE = 15_000  # milliseconds, of a machine that has much else to do
NAMELESS = """() => [...document.querySelectorAll("input, select, button, a")].filter((node) => {
  const labels = [...node.labels ?? []].map((label) => label.textContent.trim()).join("");
  return !(node.ariaLabel || labels || (node.tagName !== "SELECT" && node.textContent.trim()));
}).map((node) => node.outerHTML)"""
EVIL = "<img src=x onerror=\"document.title='taken'\">"


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A server of a world with columns of several kinds, one item of which has a title that wants to be HTML."""
    pairs, items = planted_world()
    rows = items.to_pylist()
    for number, row in enumerate(rows):
        row |= {"stock": number % 5, "sold": number % 3 == 0, "tags": ["new", "red"] if number % 2 else ["old"]}
        row |= {"added": datetime.date(2024, 5, 1 + number % 28), "it's `odd`": number % 4}
    rows[0]["title"] += " " + EVIL
    config = {**WORLD_CONFIG, "item": {**WORLD_CONFIG["item"], "payload": ["title", "kind", "price", "stock", "sold", "tags", "added", "it's `odd`"]}}
    run = tt.train(pairs, pa.Table.from_pylist(rows), config=config, output=tmp_path_factory.mktemp("page") / "run")
    with serving(run.folder) as server:
        yield server.url


class Seen:
    """A page, and all that it asked for and complained about."""

    def __init__(self, browser, url, **options):
        self.page = browser.new_context(**options).new_page()
        self.page.set_default_timeout(PATIENCE)
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
        return self.page.locator("#results h3").all_inner_texts()

    def body(self, act):
        """What is asked when this is done."""
        with self.page.expect_request(lambda request: request.method == "POST") as asked:
            act()
        self.page.wait_for_selector("#results[aria-busy=false]")
        return json.loads(asked.value.post_data)

    def focused(self):
        return self.page.evaluate("document.activeElement.id || document.activeElement.name || document.activeElement.dataset.id")


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
    assert seen.page.locator("#results .why").first.inner_text().startswith("vectors")
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
    assert all("yes" in text for text in shown)
    address = seen.page.url
    seen.page.goto(address)  # an address can be passed on
    seen.page.wait_for_selector("#results li")
    assert seen.page.locator("#results dl").all_inner_texts() == shown
    assert seen.page.is_visible("#filters") and seen.page.input_value('fieldset[data-column="price"] input[data-end="greatest"]') == "12"
    with seen.page.expect_response("**/search"):
        seen.page.click(".clear")
    seen.page.wait_for_timeout(100)
    assert len(seen.titles()) == 10 and "filters" not in parse_qs(urlsplit(seen.page.url).query)


@needs_browser
def test_filters_become_json_and_go_together_with_one_as_text(seen):
    seen.search("subject3")
    seen.page.click("#filtering")
    column = "fieldset[data-column={}]".format
    assert seen.body(lambda: seen.page.fill(f'{column("price")} [data-end="least"]', "4"))["where"] == {"and": [{"price": {"ge": 4}}]}
    assert seen.body(lambda: seen.page.fill(f'{column("added")} [data-end="greatest"]', "2024-05-20"))["where"]["and"][1] == {
        "added": {"le": "2024-05-20"}
    }
    assert seen.body(lambda: seen.page.check(f"{column('kind')} [data-value='\"k1\"']"))["where"]["and"][0] == {"kind": {"in": ["k1"]}}
    assert seen.body(lambda: seen.page.check(f"{column('tags')} [data-value='\"red\"']"))["where"]["and"][2] == {"or": [{"tags": {"has": "red"}}]}
    assert seen.body(lambda: seen.page.select_option(f"{column('sold')} select", "false"))["where"]["and"][2] == {"sold": False}
    odd = seen.page.locator("fieldset", has_text="it's `odd`").locator('[data-end="greatest"]')
    both = seen.body(lambda: odd.fill("1"))["where"]
    before = seen.titles()
    assert {"it's `odd`": {"le": 1}} in both["and"] and before
    asked = seen.body(lambda: seen.page.fill("#where", "stock >= 0 or stock < 0"))["where"]
    assert asked.startswith("(stock >= 0 or stock < 0) and ") and "`it's ``odd``` <= 1" in asked and "kind in ['k1']" in asked
    assert seen.titles() == before and "(7)" in seen.page.inner_text("#filtering")


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
    seen.page.wait_for_selector("#wrong:visible")
    assert "stock" in seen.page.inner_text("#wrong") and not seen.page.is_visible("#problem")
    assert seen.page.get_attribute("#where", "aria-invalid") == "true"
    with seen.page.expect_response("**/search"):
        seen.page.fill("#where", "stock >= 3")
    seen.page.wait_for_selector("#wrong", state="hidden")


@needs_browser
def test_what_is_like_an_item_and_the_way_back(seen):
    before = seen.search("subject3 sort1")
    seen.page.click("#results li:nth-child(1) button")
    seen.page.wait_for_selector("#back:visible")
    assert seen.page.inner_text("#heading").startswith("Like ") and before[0] not in seen.titles()
    assert seen.focused() == "heading"
    address = seen.page.url
    seen.page.go_back()
    seen.page.wait_for_selector("#back", state="hidden")
    seen.page.wait_for_timeout(200)
    assert seen.titles() == before
    seen.page.goto(address)  # by an address that was passed on there is a way back, too, and the item has its name
    seen.page.wait_for_selector("#back:visible")
    assert seen.page.inner_text("#heading") == f"Like {before[0]}"
    seen.page.keyboard.press("Escape")
    seen.page.wait_for_selector("#back", state="hidden")
    seen.page.wait_for_timeout(200)
    assert seen.titles() == before and seen.focused() == seen.page.locator("#results > li").first.get_attribute("data-id")


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
    assert seen.focused() == "asked"
    for _ in range(11):
        seen.page.keyboard.press("ArrowDown")
    assert seen.focused() == "more"
    seen.page.keyboard.press("Enter")
    seen.page.wait_for_selector("#results > li:nth-child(11):focus")
    seen.page.keyboard.press("Escape")
    assert seen.focused() == "asked"
    for button, form in (("filtering", "filters"), ("tuning", "options")):
        seen.page.focus(f"#{button}")
        seen.page.keyboard.press("Enter")
        seen.page.locator(f"#{form} input").first.focus()
        seen.page.keyboard.press("Escape")
        assert seen.page.is_hidden(f"#{form}") and seen.focused() == button


@needs_browser
def test_all_that_can_be_used_has_a_name_and_headings_are_in_order(seen):
    seen.search("subject3")
    seen.page.click("#filtering")
    seen.page.click("#tuning")
    assert seen.page.evaluate(NAMELESS) == []
    levels = seen.page.evaluate("[...document.querySelectorAll('h1, h2, h3')].filter((node) => node.checkVisibility()).map((node) => node.tagName)")
    assert levels == ["H1", *10 * ["H3"]]
    assert seen.page.locator("main, header, footer, search, section[aria-label]").count() >= 5
    assert seen.page.get_attribute("#status", "role") == "status"


@needs_browser
def test_a_card_that_is_still_found_stays_the_same_one(seen):
    seen.search("subject3 sort1")
    seen.page.evaluate("document.querySelectorAll('#results > li').forEach((node) => { node.mine = true; })")
    seen.body(lambda: seen.page.fill("#fields input", "subject3 sort1 "))
    assert seen.page.evaluate("[...document.querySelectorAll('#results > li')].every((node) => node.mine && !node.className)")


@needs_browser
def test_nothing_moves_where_that_is_asked_for(browser, url):
    seen = Seen(browser, url, reduced_motion="reduce")
    seen.search("subject3")
    moving = """[...document.querySelectorAll("#results > li, .bar > span")].map(getComputedStyle)
      .filter((style) => style.animationName !== "none" || parseFloat(style.transitionDuration) > 0).length"""
    assert seen.page.evaluate(moving) == 0
    seen.page.emulate_media(reduced_motion="no-preference")
    assert seen.page.evaluate(moving) > 0


@needs_browser
def test_the_colours_are_the_systems_or_those_that_were_chosen(browser, url):
    seen = Seen(browser, url, color_scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = seen.page.evaluate(paper)
    assert seen.page.get_attribute("#scheme", "aria-pressed") == "true"
    seen.page.click("#scheme")
    light = seen.page.evaluate(paper)
    seen.page.reload()
    seen.page.wait_for_selector("#fields input")
    assert seen.page.evaluate(paper) == light != dark and seen.page.get_attribute("#scheme", "aria-pressed") == "false"


@needs_browser
def test_more_goes_on_behind_what_is_shown(seen):
    first = seen.search("subject3")
    with seen.page.expect_response("**/search"):
        seen.page.click("#more")
    seen.page.wait_for_timeout(150)
    assert seen.titles()[:10] == first and len(seen.titles()) == 20


def told_otherwise(seen, path, change):
    """Answers of the server, changed on their way."""

    def changed(route):
        answer = route.fetch()
        route.fulfill(response=answer, json=change(answer.json()))

    seen.page.route(path, changed)


@needs_browser
def test_more_of_a_newer_version_begins_again_and_a_note_says_so(browser, url):
    seen = Seen(browser, url)
    first = seen.search("subject3")

    def newer(told):
        for each in [told, *told.get("variants", [])]:
            each["version"] = "000002"
        return told

    told_otherwise(seen, "**/search", newer)
    told_otherwise(seen, "**/info", newer)
    seen.page.click("#more")
    seen.page.wait_for_selector("#note:visible")
    assert seen.titles() == first and "000002" in seen.page.inner_text("#note") and "000002" in seen.page.inner_text("footer")


@needs_browser
def test_several_fields_and_a_history(browser, url):
    seen = Seen(browser, url)

    def other(told):
        told["variants"][0]["query"] = {"columns": ["asked", "device"], "history": True}
        return told

    told_otherwise(seen, "**/info", other)
    found = seen.search("subject3")
    sent = []

    def answered(route):
        sent.append(json.loads(route.request.post_data))
        route.continue_(post_data=json.dumps({"query": "subject3", "k": sent[-1]["k"]}))

    seen.page.route("**/search", answered)
    seen.page.reload()
    seen.page.wait_for_selector("#results li")
    assert sent[-1]["query"] == {"asked": "subject3", "device": None}
    seen.page.fill("[name=device]", "phone")
    seen.page.click("text=Add to history >> nth=0")
    seen.page.fill("#touch", "1005")
    seen.page.press("#touch", "Enter")
    seen.page.wait_for_selector("#history li:nth-child(2)")
    seen.page.wait_for_timeout(300)
    one = json.loads(seen.page.locator("#results li").first.get_attribute("data-id"))
    assert sent[-1]["query"]["device"] == "phone" and sent[-1]["history"] == [one, "1005"]
    chips = seen.page.locator("#history li").all_inner_texts()
    assert chips[0].startswith(found[0]) and chips[1].startswith("tovar1 vid2")  # ids are shown by their names
    seen.page.click("#history li:nth-child(1) button")
    seen.page.wait_for_timeout(300)
    assert sent[-1]["history"] == ["1005"]


@needs_browser
def test_a_way_of_searching_and_variety_are_asked_for(seen):
    seen.search("subject3")
    seen.page.click("#tuning")
    assert seen.page.locator("#mode option").all_inner_texts()[0] == "vectors"
    assert seen.body(lambda: seen.page.select_option("#mode", "words"))["mode"] == "words"
    seen.page.locator("#diversity").focus()
    assert seen.body(lambda: seen.page.keyboard.press("End"))["diversity"] == 1
    assert seen.body(lambda: seen.page.fill("#k", "3"))["k"] == 3 and len(seen.titles()) == 3
    assert seen.body(lambda: seen.page.fill("#k", "5000"))["k"] == 100


@needs_browser
def test_variety_ends_where_a_server_would_refuse_more(seen):
    sent = []

    def answered(route):
        sent.append(asked := json.loads(route.request.post_data))
        many = [{"id": asked.get("skip", 0) + n, "score": 0.5, "item": {"title": "x"}} for n in range(asked["k"])]
        route.fulfill(json={"model": "m", "version": "v", "variant": "default", "results": many})

    seen.page.goto(seen.page.url.split("#")[0].split("?")[0] + "?q.asked=subject3&k=100&variety=0.5")
    seen.page.route("**/search", answered)
    seen.page.reload()
    for page in range(1, 6):
        seen.page.wait_for_selector(f"#results li:nth-child({100 * page})")
        if page < 5:
            seen.page.click("#more")
    assert seen.page.locator("#more").is_hidden() and max(each.get("skip", 0) + each["k"] for each in sent) == 500
    assert all(each["diversity"] == 0.5 for each in sent)


def test_the_page_may_load_and_run_nothing_else(url):
    from urllib.request import urlopen

    policy = dict(each.strip().split(" ", 1) for each in urlopen(url).headers["content-security-policy"].split(";"))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self' data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    sources = [body.decode() for body, media in map(read, FILES) if media.startswith("text/")]
    assert not [
        each
        for each in sources
        if "innerHTML" in each or "eval(" in each or "http:" in each.replace("http://www.w3.org/2000/svg", "") or "https:" in each
    ]


@needs_browser
def test_what_is_written_into_the_page_does_not_run(browser, url):
    seen = Seen(browser, url)
    seen.page.evaluate("""() => {
      const script = document.createElement("script");
      script.textContent = "document.title = 'taken'";
      document.body.append(script);
      const image = document.createElement("img");
      image.setAttribute("onerror", "document.title = 'taken'");
      image.src = "http://elsewhere.invalid/x";
      document.body.append(image);
    }""")
    seen.page.wait_for_timeout(200)
    assert seen.page.title() != "taken" and len([line for line in seen.lines if "Content Security Policy" in line]) >= 2


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
    assert seen.page.evaluate(CONTRAST.replace("main *", "body *")) >= 4.5
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
    seen.page.wait_for_selector("#status:text('The server is busy; asking again in 1 s')")
    assert len(seen.titles()) == 10  # what was found before stays
    seen.page.unroute("**/search")
    seen.page.wait_for_selector("#status:text-is('10 items')")
    seen.page.route("**/search", lambda route: route.fulfill(status=503, body=busy, headers={"retry-after": "0.1"}))
    seen.page.fill("#fields input", "subject6")
    seen.page.wait_for_selector("#problem:visible")
    assert "The server is busy. Try again in a moment." in seen.page.inner_text("#problem")
    seen.page.unroute("**/search")
    seen.page.route("**/search", lambda route: route.abort())
    seen.page.fill("#fields input", "subject5")
    seen.page.wait_for_selector("#said:text('cannot be reached')")
    seen.page.unroute("**/search")
    seen.page.click("#again")
    seen.page.wait_for_selector("#problem", state="hidden")


@needs_browser
def test_too_many_requests_and_no_network_are_told_in_words(browser, url):
    seen = Seen(browser, url)
    seen.search("subject3")
    seen.page.route("**/search", lambda route: route.fulfill(status=429, body="{}", headers={"retry-after": "0.1"}))
    seen.page.fill("#fields input", "subject4")
    seen.page.wait_for_selector("#problem:visible")
    assert "Too much was asked in too short a time" in seen.page.inner_text("#problem")
    seen.page.unroute("**/search")
    seen.page.context.set_offline(True)
    seen.page.fill("#fields input", "subject5")
    seen.page.wait_for_selector("#said:text('You are offline')")
    seen.page.context.set_offline(False)
    seen.page.wait_for_selector("#problem", state="hidden")
    seen.page.wait_for_selector("#status:text-is('10 items')")


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
    assert seen.page.is_hidden("#unfit")
    seen.page.click("text=Not now")
    seen.page.wait_for_selector("#problem:visible")
    assert "asks for a key" in seen.page.inner_text("#problem")
    seen.page.click("#again")
    for key in ("another", "the-right-key"):
        seen.page.wait_for_selector("#locked[open]")
        seen.page.fill("#key", key)
        seen.page.keyboard.press("Enter")
        if key == "another":
            seen.page.wait_for_selector("#unfit:visible")
    seen.page.wait_for_selector("#results li")
    assert given == [None, None, "Bearer another", "Bearer the-right-key"] and seen.page.is_hidden("#problem")
    seen.page.fill("#fields input", "subject4")
    seen.page.wait_for_timeout(400)
    assert given[-1] == "Bearer the-right-key" and seen.page.evaluate("localStorage.length") == 0


@needs_browser
def test_a_server_with_a_key_shows_the_page_to_a_browser_that_has_it(browser, world_folder):
    key = "a-key-of-many-characters"
    with serving(world_folder, keys=(key,)) as server:
        seen = Seen(browser, server.url, http_credentials={"username": "", "password": key})
        assert len(seen.search("subject3")) == 10 and not seen.lines
