"""Reports in a real browser: nothing is fetched, nothing fails, nothing sticks out, and both colour schemes can be read."""

import pytest

import twotower as tt
from conftest import WORLD_CONFIG, needs_browser, planted_world
from twotower.app.reporting import account_of
from twotower.app.reports import render
from twotower.app.reports.account import account
from twotower.app.reports.forecasted import forecasted
from twotower.app.reports.tuned import tuned
from twotower.files import write_text

pytestmark = needs_browser
# The lightness of a colour as the eye weighs it, WCAG 2, and the contrast of the text of every element with the paper behind it.
CONTRAST = """() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = parts(colour).slice(0, 3).map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = parts(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return getComputedStyle(node).backgroundColor;
    }
    return "rgb(255, 255, 255)";
  };
  const found = [];
  for (const node of document.querySelectorAll("main *:not(title, desc)")) {
    if (![...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim())) continue;
    const style = getComputedStyle(node), text = light(node.closest("svg") ? style.fill : style.color), paper = light(behind(node));
    found.push((Math.max(text, paper) + 0.05) / (Math.min(text, paper) + 0.05));
  }
  return Math.min(...found);
}"""


RUN = (
    "What the run came to",
    [
        "How good it is",
        "What stands out",
        "Where it does well and where not",
        "When to answer nothing",
        "How it was trained",
        "Test questions",
        "What people are shown",
        "How items lie in the space",
        "The data",
        "What was found in the data",
    ],
)
STUDY = ("What tuning came to", ["What was decided", "What to go on with", "What mattered", "What was tried"])
FORECAST = ("Whether more data would help", ["More data", "What pays most now", "Who is starved", "Pairs that look wrong", "What was measured"])


@pytest.fixture(scope="module")
def reports(world, world_run, tmp_path_factory):
    """A page of each kind, by its title."""
    folder, config = tmp_path_factory.mktemp("pages"), WORLD_CONFIG | {"train": WORLD_CONFIG["train"] | {"epochs": 2}}
    study = tt.tune(*world, config=config, settings=["tune.budget='5m'", "tune.trials=8"], output=folder / "study")
    forecast = tt.forecast(*planted_world(queries=900), config=config, budget="60s", output=folder / "forecast")
    documents = [account(account_of(world_run.folder)), tuned(study.result, "runs/tuned"), forecasted(forecast.result, "runs/forecast")]
    places = {document.title: folder / f"{number}.html" for number, document in enumerate(documents)}
    for document in documents:
        write_text(places[document.title], render(document, places[document.title]))
    return places


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize(("title", "sections"), [RUN, STUDY, FORECAST], ids=["run", "study", "forecast"])
def test_a_report_opens_in_a_browser(browser, reports, title, sections, width, scheme):
    report = reports[title]
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(report.as_uri())
    assert asked == [report.as_uri()] and said == []
    assert page.locator("h1").inner_text() == title
    assert page.locator(".verdict").is_visible()
    assert page.locator("h2").all_inner_texts()[: len(sections)] == sections
    # A table may be wider than a phone, and then scrolls by itself; the page never does.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for picture in page.locator("svg").all():
        box = picture.bounding_box()
        assert box["width"] > 100 and box["height"] > 20
        assert page.evaluate("(id) => document.getElementById(id).textContent", picture.get_attribute("aria-labelledby").split()[1])
    assert page.evaluate(CONTRAST) >= 4.5
    page.close()


def test_the_report_prints(browser, reports):
    report = reports[RUN[0]]
    page = browser.new_page()
    page.goto(report.as_uri())
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") in ("rgb(255, 255, 255)", "rgba(0, 0, 0, 0)")
    assert len(page.pdf()) > 10_000
    page.close()


def shown(page):
    """The names that a map shows."""
    seen = "getComputedStyle(point.querySelector('text')).display !== 'none'"
    return page.locator(".at").evaluate_all(f"all => all.filter(point => {seen}).map(point => point.ariaLabel)")


@pytest.mark.parametrize("width", [360, 1200])
def test_a_point_of_the_map_says_its_name(browser, reports, width):
    context = browser.new_context(viewport={"width": width, "height": 800}, has_touch=width == 360)
    page = context.new_page()
    page.goto(reports[RUN[0]].as_uri())
    points = page.locator(".at")
    assert points.count() == 36 and shown(page) == []
    for n in (0, 17, 35):
        point = points.nth(n)
        point.tap() if width == 360 else point.hover()
        assert shown(page) == [point.get_attribute("aria-label")] and "tovar" in shown(page)[0]
        name, frame = point.locator("text").bounding_box(), page.locator(".map svg").bounding_box()
        assert frame["x"] <= name["x"] and name["x"] + name["width"] <= frame["x"] + frame["width"] and name["y"] >= frame["y"]
        assert name["height"] > 10
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur()")
    page.locator("figure.map").evaluate("figure => { figure.previousElementSibling.tabIndex = 0; figure.previousElementSibling.focus() }")
    page.keyboard.press("Tab")
    assert len(shown(page)) == 1 and page.evaluate("document.activeElement.matches('.at')")
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_signs_of_a_map_can_be_told_from_its_paper(browser, reports, scheme):
    page = browser.new_page(color_scheme=scheme)
    page.goto(reports[RUN[0]].as_uri())
    light = """(names) => { const probe = document.createElement("i"); document.body.append(probe);
      return names.map((name) => { probe.style.color = `var(--${name})`; const [r, g, b] = getComputedStyle(probe).color.match(/[\\d.]+/g).map(Number)
        .map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; }); }"""
    paper, *signs = page.evaluate(light, ["paper", *(f"g{n}" for n in range(8))])
    assert min((max(sign, paper) + 0.05) / (min(sign, paper) + 0.05) for sign in signs) >= 3  # WCAG 2, of what is no text
    page.close()
