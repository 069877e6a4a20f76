"""The renderer: one document in three forms, each whole, readable without colour, and safe against what the data hold."""

import itertools
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

import twotower
from twotower.app.reports import documents, render
from twotower.app.reports.diagnosis import diagnosis
from twotower.app.reports.documents import Code, Document, Facts, Map, Paragraph, Picture, Section, Statement, Table
from twotower.app.reports.drawings import in_words, svg
from twotower.app.reports.terminal import terminal
from twotower.data.doctor import Diagnosis, Figure, Finding, Setting
from twotower.errors import ConfigError

SOURCE = Path(twotower.__file__).parent.parent
EVIL = '<script>alert("x")</script> | `a` \x1b[2J & [b](http://c.d)\nnext'
VOID = {"meta", "line", "rect", "circle", "path", "polyline", "polygon"}
PICTURES = [
    Picture("bars", "A few bars", ("one", EVIL), (3, 4)),
    Picture(
        "line", "A curve", tuple(n / 50 for n in range(51)), tuple((n / 50) ** 2 for n in range(51)), "items", "pairs", share=True, diagonal=True
    ),
    Picture("line", "Doubling", (32, 64, 128, 256), (0.1, 0.2, 0.3, 0.4), "batch size", share=True),
    Picture("histogram", "Lengths", (0, 10, 20, 30), (5, 0, 2), "words"),
]
MAP = Map(
    "A map", [(n % 7 - 3.0, n / 9) for n in range(40)], [f"point {n} {EVIL if n == 3 else 'of a rather long name ' * 6}" for n in range(40)],
    [min(n % 5, 2) for n in range(40)], ("few", EVIL), "kind"
)  # fmt: skip
DOCUMENT = Document(
    f"A report {EVIL}",
    f"All is well {EVIL}",
    "warning",
    [
        Section(
            f"Found {EVIL}",
            [
                Statement(
                    "stop",
                    f"It stops {EVIL}",
                    f"Do this {EVIL}",
                    f"3 rows {EVIL}",
                    Table(["row", EVIL], [["7", EVIL]], EVIL, numbers=[0]),
                    PICTURES[0],
                ),
                *(Statement(tone, f"It is {tone}") for tone in ("warning", "note", "good")),
                Paragraph(f"Words {EVIL}"),
                Paragraph("In passing", faint=True),
            ],
        ),
        Section("Rest", [Facts([("pairs", "7"), (EVIL, EVIL)]), Code(f"[split]\n# ``` {EVIL}", "toml"), *PICTURES, MAP]),
    ],
    f"by hand {EVIL}",
)


class Reader(HTMLParser):
    """Reads a page; every element must be closed where it belongs."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.text, self.attributes = [], [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def page():
    return render(DOCUMENT, Path("report.html"))


def test_a_page_is_whole_and_closed(page):
    reader = Reader(page)
    assert reader.open == [] and page.startswith("<!doctype html>") and reader.tags.count("h1") == 1
    assert reader.tags.count("svg") == len(PICTURES) + 2 == reader.tags.count("figure") - reader.tags.count("table")


def test_a_page_needs_nothing_from_anywhere(page):
    assert not re.search(r"<(script|link|img|iframe|object)|@import|url\(|src=|href=", page)


def test_what_the_data_hold_stays_text(page):
    reader = Reader(page)
    assert "script" not in reader.tags and '<script>alert("x")</script>' in " ".join(reader.text)
    assert "\x1b" not in page


def test_a_page_can_be_read_by_those_who_do_not_see(page):
    reader = Reader(page)
    heads = [int(tag[1]) for tag in reader.tags if re.fullmatch(r"h\d", tag)]
    assert heads[0] == 1 and all(b - a <= 1 for a, b in itertools.pairwise(heads))
    assert all(attributes.get("scope") == "col" for tag, attributes in reader.attributes if tag == "th")
    pictures = [attributes for tag, attributes in reader.attributes if tag == "svg"]
    names = [name for attributes in pictures for name in attributes["aria-labelledby"].split()]
    assert len(set(names)) == 2 * len(pictures)
    assert [attributes["role"] for attributes in pictures] == ["img"] * (1 + len(PICTURES)) + ["group"]  # whose points can be reached
    assert sum(attributes.get("tabindex") == "0" for tag, attributes in reader.attributes if tag == "g") == 3  # one of each group
    assert set(names) <= {attributes.get("id") for _, attributes in reader.attributes}
    assert 'lang="en"' in page and "prefers-color-scheme: dark" in page and "@media print" in page and "width=device-width" in page


@pytest.mark.parametrize("tone", ["stop", "warning", "note", "good"])
def test_a_tone_is_told_in_words_and_by_a_sign_of_its_own(page, tone):
    mark = documents.MARKS[tone]
    assert f"</span> {tone}</span> It" in page and len({mark.sign for mark in documents.MARKS.values()}) == 4
    assert f"{mark.sign} {tone}" in drawn(DOCUMENT) and f"{mark.sign} {tone}: It" in render(DOCUMENT, Path("r.md"))


def drawn(document, width=100):
    console = Console(file=StringIO(), width=width, color_system=None)
    console.print(terminal(document))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [40, 100])
def test_a_terminal_shows_all_of_it_and_no_cursor_is_moved(width):
    told = drawn(DOCUMENT, width)
    flat = " ".join(told.split())
    for text in ("It stops", "Do this", "In passing", "A few bars", "100%", "[split]"):
        assert text in flat
    assert "\x1b" not in told


def test_markdown_reads_as_plain_text_where_data_speak():
    told = render(DOCUMENT, Path("report.MD"))
    fence = "````"  # longer than the one within
    before, code, after = told.split(fence)
    assert told.startswith("# A report") and code.startswith("toml\n[split]") and "\n# " not in before + after
    for line in (before + after).splitlines():
        assert "<script" not in line and "](http" not in line.replace("\\]", "")
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (3, 4)


def test_other_formats_are_refused_with_the_choices():
    with pytest.raises(ConfigError, match=r"report\.pdf: .* end its name in \.html or \.md"):
        render(DOCUMENT, Path("report.pdf"))


@pytest.mark.parametrize("picture", PICTURES)
def test_a_picture_stays_within_its_frame(picture):
    drawing = svg(picture, "x")
    width, height = map(float, re.search(r'viewBox="0 0 (\S+) (\S+)"', drawing).groups())
    for x in re.findall(r'(?:x|x1|x2|cx)="([-\d.]+)"', drawing):
        assert 0 <= float(x) <= width
    for y in re.findall(r'(?:y|y1|y2|cy)="([-\d.]+)"', drawing):
        assert 0 <= float(y) <= height
    for points in re.findall(r'points="([^"]+)"', drawing):
        assert all(0 <= float(x) <= width and 0 <= float(y) <= height for x, y in (point.split(",") for point in points.split()))


def test_a_curve_rises_on_paper_where_its_numbers_do():
    points = re.search(r'class="curve" points="([^"]+)"', svg(PICTURES[1], "x"))[1].split()
    heights = [float(point.split(",")[1]) for point in points]
    assert heights == sorted(heights, reverse=True) and heights[0] > heights[-1] + 200
    assert in_words(PICTURES[3]).startswith("0: 5; 10: 0")


def test_a_map_shows_every_point_where_it_is_by_a_sign_of_its_group():
    drawing = svg(MAP, "x")
    paths = {name: re.findall(r"M([-\d.]+) ([-\d.]+)(m[^M]*?z)(?=M|$)", d) for name, d in re.findall(r'class="dots (\w+)" d="([^"]+)"', drawing)}
    assert {name: len(found) for name, found in paths.items()} == {"g0": 8, "g1": 8, "rest": 24}
    assert len({sign for found in paths.values() for _, _, sign in found}) == 3
    places = [tuple(map(float, place)) for place in re.findall(r'class="at"[^>]*translate\(([\d.]+) ([\d.]+)\)', drawing)]
    assert len(places) == 40 and sorted(places) == sorted((float(x), float(y)) for found in paths.values() for x, y, _ in found)
    width, height = map(float, re.search(r'viewBox="0 0 (\S+) (\S+)"', drawing).groups())
    assert all(10 <= x <= width - 10 and 10 <= y <= height - 10 for x, y in places)
    # One scale for both ways, and up is up.
    (x0, y0), (x6, y6), (x7, y7) = places[0], places[6], places[7]
    assert (x6 - x0) / 6 == pytest.approx((y0 - y7) / (7 / 9), rel=0.02) and x7 == x0 and y6 < y0
    named = re.findall(r'aria-label="([^"]*)"', drawing)
    assert named[0].startswith("point 0 of a rather") and "<" not in named[3] and max(map(len, named)) <= 120
    assert all(len(line) <= 30 for line in re.findall(r'<tspan x="0" dy="[^"]*">([^<&]*)</tspan>', drawing))
    assert "few: 8" in in_words(MAP) and in_words(MAP).endswith("other: 24")


def test_a_map_without_groups_has_no_key():
    plain = Map("A map", [(0.0, 0.0), (1.0, 1.0)], ["a", "b"], [0, 0], ())
    drawing = svg(plain, "x")
    assert 'class="key"' not in drawing and 'class="dots g0"' in drawing and in_words(plain) == "all: 2"
    assert "all: 2" in render(Document("t", "v", "note", [plain]), Path("a.md"))


# --- a diagnosis --------------------------------------------------------------------------------------------------

FOUND = Diagnosis(
    (
        Finding("one_item", "stop", "Every training pair has the same item.", "Look at [pairs] item.", {"pairs": 70}, 1.0),
        Finding(
            "head_of_items", "note", "The head.", "Keep it.", {}, 0.5, ({"rows": [1, 3], "item": "a"},), Figure("line", "F", (0.0, 1.0), (0.0, 1.0))
        ),
    ),
    (Setting("split.by", "group", "random", "new queries come"), Setting("train.correction", True, True, "as it is")),
    {"pairs": 70_000, "share_of_top_1_percent_of_items": 0.25, "items_file": None},
)


def test_a_diagnosis_opens_with_its_verdict():
    told = drawn(diagnosis(FOUND, "shop.toml"), 120)
    assert told.index("cannot work") < told.index("Every training pair") < told.index("70,000") < told.index('by = "group"')
    assert "1 thing that cannot work and 1 note" in told and "25.0%" in told and "items file" not in told
    assert 'the config says "random"' in told and "--set split.by=group\n" in told and "1, 3" in told
    good = diagnosis(Diagnosis((), (), {"pairs": 7}), "shop.toml")
    assert (good.tone, good.verdict) == ("good", "Nothing stands against training on these data.")


CHECKED = """
version = 1
[data]
pairs = "pairs.csv"
[query]
features = [ { column = "q", type = "text" } ]
[item]
features = [ { column = "a", type = "category" } ]
[split]
by = "random"
"""


def typed(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(SOURCE), os.environ.get("PYTHONPATH")]))}
    return subprocess.run(
        [sys.executable, "-m", "twotower.app.cli", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_check_prints_writes_and_says_no(tmp_path):
    (tmp_path / "c.toml").write_text(CHECKED)
    (tmp_path / "pairs.csv").write_text("q,a\n" + "".join(f"same,{n}\n" for n in range(1200)))
    stopped = typed(tmp_path, "check", "c.toml")
    assert stopped.returncode == 3 and "constant_column" in stopped.stdout and "✖" in stopped.stdout, stopped.stderr
    (tmp_path / "pairs.csv").write_text("q,a\n" + "".join(f"word{n} x{n % 7} y{n % 11},{n % 30}\n" for n in range(1200)))
    told = typed(tmp_path, "check", "c.toml", "--json", "-o", "told.html")
    assert told.returncode == 0 and told.stdout.startswith('{\n "findings"') and "wrote told.html" in told.stderr
    assert Reader((tmp_path / "told.html").read_text()).open == []
    refused = typed(tmp_path, "check", "c.toml", "-o", "told.pdf")
    assert refused.returncode == 2 and ".html or .md" in refused.stderr
    refused = typed(tmp_path, "check", "pairs.csv")
    assert refused.returncode == 2 and "twotower init pairs.csv" in refused.stderr


def test_a_difference_that_luck_may_give_stands_in_parentheses():
    from twotower.app.reports.results import distance, verdict

    def test_of(difference, p_value, **more):
        return {"mrr": {"difference": difference, "low": difference - 0.1, "high": difference + 0.1, "p_value": p_value, **more}}

    metrics = {
        "evaluation": {"select": "mrr"},
        "search": {"mode": "vectors"},
        "baselines": {"bm25": {"mrr": {"value": 0.5}}, "popularity": {"mrr": {"value": 0.1}}},
        "against": {"bm25": test_of(0.084, 0.03, holm=0.06), "popularity": test_of(-0.5, 0.001, holm=0.002)},
    }
    assert distance(metrics, "bm25") == "(-.084)"
    assert distance(metrics, "popularity") == "+.500"
    assert verdict(metrics).tone == "note" and "not clearly different" in verdict(metrics).said
    metrics["against"]["bm25"] = test_of(0.084, 0.03)  # of a run that tells no more
    assert distance(metrics, "bm25") == "-.084"
    assert verdict(metrics).tone == "good"
