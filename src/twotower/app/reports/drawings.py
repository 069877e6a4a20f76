"""Pictures drawn by ourselves: as SVG for pages, as rows of blocks for terminals."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator, Sequence
from html import escape

from twotower.app.reports.documents import Map, Picture, plain_text

WIDTH, HEIGHT = 640, 280
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 12, 44
BAR = 26  # height of a bar and the room around it
MOST_POINTS = 12  # in words
BLOCKS = " ▏▎▍▌▋▊▉█"
PLANE, EDGE, ENTRY = 560, 14, 27  # the height of a map, the room at its edges, the height of an entry of its key
NAMED, LINES = 30, 3  # characters of a line of a point's name, and lines
# The signs of the groups of a map, from where the point is: told apart without colour too. The last is of those in no group.
SIGNS = (
    "m-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0z",
    "m-2.7-2.7h5.4v5.4h-5.4z",
    "m0-3.8l3.5 6.2h-7z",
    "m0-3.9l3.6 3.9l-3.6 3.9l-3.6-3.9z",
    "m0 3.8l3.5-6.2h-7z",
    "m-1.2-3.6h2.4v2.4h2.4v2.4h-2.4v2.4h-2.4v-2.4h-2.4v-2.4h2.4z",
    "m-3.6-2l1.6-1.6 2 2 2-2 1.6 1.6-2 2 2 2-1.6 1.6-2-2-2 2-1.6-1.6 2-2z",
    "m-3.3-3.3h6.6l-6.6 6.6h6.6z",
    "m-2 0a2 2 0 1 0 4 0a2 2 0 1 0-4 0z",
)


def svg(picture: Picture | Map, name: str) -> str:
    """A picture as inline SVG, with its title and a description for those who do not see it. name: unique on its page."""
    if isinstance(picture, Map):
        role, (width, height, body) = "group", _map(picture)
    else:
        role, (width, height, body) = "img", _bars(picture) if picture.kind == "bars" else _plane(picture)
    return (
        f'<svg viewBox="0 0 {width} {height}" role="{role}" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">{escape(plain_text(picture.title))}</title><desc id="{name}-d">{escape(in_words(picture))}</desc>{body}</svg>'
    )


def in_words(picture: Picture | Map) -> str:
    """What a picture shows, as a sentence."""
    if isinstance(picture, Map):
        return "; ".join(f"{plain_text(label)}: {count:,}" for label, count in picture.counted())
    step = max(1, -(-len(picture.y) // MOST_POINTS))
    at = list(range(0, len(picture.y), step))
    if at and at[-1] != len(picture.y) - 1:
        at.append(len(picture.y) - 1)
    between = {i: f" [{picture.said(low)}, {picture.said(high)}]" for i, (low, high) in enumerate(picture.band) if low < high}
    return "; ".join(f"{_label(picture.x[i], picture)}: {picture.said(picture.y[i])}{between.get(i, '')}" for i in at)


def _label(x: float | str, picture: Picture) -> str:
    if isinstance(x, str):
        return plain_text(x)
    return f"{x:.0%}" if picture.diagonal else f"{x:,.4g}" if x < 1e4 else f"{x:,.0f}"


def _bars(picture: Picture) -> tuple[int, int, str]:
    """A row for each value: its label, its bar, its number."""
    label = 190
    room = WIDTH - label - 80
    top = max([*picture.y, 1e-12])
    rows = []
    for number, (x, y) in enumerate(zip(picture.x, picture.y, strict=True)):
        middle = number * BAR + BAR / 2
        text = _label(x, picture)
        text = text if len(text) <= 26 else text[:25] + "…"
        rows.append(
            f'<text x="{label - 10}" y="{middle + 4:.1f}" text-anchor="end">{escape(text)}</text>'
            f'<rect class="fill" x="{label}" y="{middle - 8:.1f}" width="{max(1.0, room * y / top):.1f}" height="16" rx="2"/>'
            f'<text x="{label + room * y / top + 8:.1f}" y="{middle + 4:.1f}">{escape(picture.said(y))}</text>'
        )
    return WIDTH, max(BAR, len(rows) * BAR), "".join(rows)


def _plane(picture: Picture) -> tuple[int, int, str]:
    """Axes, a grid, and a line or the boxes of a histogram."""
    xs = _places(picture)
    top = 1.0 if picture.diagonal else _rounded(max([*picture.y, *(high for _, high in picture.band), 1e-12]), picture.share)
    inner_w, inner_h = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    across = [LEFT + inner_w * x for x in xs]
    up = [TOP + inner_h * (1 - y / top) for y in picture.y]
    parts = [_grid(picture, top, inner_w, inner_h)]
    if picture.kind == "histogram":
        parts += [
            f'<rect class="fill" x="{a + 0.5:.1f}" y="{y:.1f}" width="{max(0.5, b - a - 1):.1f}" height="{TOP + inner_h - y:.1f}"/>'
            for (a, b), y in zip(itertools.pairwise(across), up, strict=True)
        ]
    else:
        if picture.diagonal:
            parts.append(f'<line class="even" x1="{LEFT}" y1="{TOP + inner_h}" x2="{LEFT + inner_w}" y2="{TOP}"/>')
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, up, strict=True))
        floor = TOP + inner_h
        around = f"{across[0]:.1f},{floor} {points} {across[-1]:.1f},{floor}"
        if picture.band:
            ends = [
                [f"{x:.1f},{TOP + inner_h * (1 - y / top):.1f}" for x, y in zip(across, end, strict=True)] for end in zip(*picture.band, strict=True)
            ]
            around = " ".join([*ends[0], *reversed(ends[1])])
        parts.append(f'<polygon class="under" points="{around}"/>')
        parts.append(f'<polyline class="curve" points="{points}"/>')
        if len(points) < 400:
            parts += [f'<circle class="fill" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in zip(across, up, strict=True)]
    parts += [_x_texts(picture, across, inner_h)]
    return WIDTH, HEIGHT, "".join(parts)


def _places(picture: Picture) -> list[float]:
    """Where each x stands, from 0 to 1: by its value, or evenly where values are doubled from one to the next."""
    numbers = [float(x) if not isinstance(x, str) else float(n) for n, x in enumerate(picture.x)]
    n = len(numbers)
    doubling = n > 3 and numbers[0] > 0 and all(b == 2 * a for a, b in itertools.pairwise(numbers))
    if doubling or n < 2 or numbers[-1] == numbers[0]:
        return [k / max(1, n - 1) for k in range(n)]
    return [(x - numbers[0]) / (numbers[-1] - numbers[0]) for x in numbers]


def _rounded(top: float, share: bool) -> float:
    """The next round number, for the end of an axis."""
    power = 10.0 ** (len(f"{int(top)}") - 1) if top >= 1 else 1.0
    while power > top:
        power /= 10
    found = next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= top * (1 - 1e-9))
    return min(1.0, found) if share and top <= 1 else found


def _grid(picture: Picture, top: float, inner_w: int, inner_h: int) -> str:
    lines = []
    for step in range(5):
        y = TOP + inner_h * (1 - step / 4)
        value = top * step / 4
        text = f"{value:.0%}" if picture.share and top >= 0.04 else picture.said(value)
        lines.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{LEFT + inner_w}" y2="{y:.1f}"/>')
        lines.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>')
    return "".join(lines)


def _x_texts(picture: Picture, across: Sequence[float], inner_h: int) -> str:
    step = max(1, -(-len(across) // 9))
    at = range(0, len(across), step) if len(across) <= 12 else [round(k * (len(across) - 1) / 5) for k in range(6)]
    texts = [f'<text x="{across[i]:.1f}" y="{TOP + inner_h + 17}" text-anchor="middle">{escape(_label(picture.x[i], picture))}</text>' for i in at]
    middle, label = LEFT + (WIDTH - LEFT - RIGHT) / 2, escape(plain_text(picture.x_label))
    texts.append(f'<text class="axis" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{label}</text>')
    return "".join(texts)


def blocks(picture: Picture, width: int = 32) -> list[tuple[str, str, str]]:
    """A picture as rows of (label, bar, value), of a curve some points."""
    step = max(1, (len(picture.y) - 1) // 5) if picture.kind == "line" and len(picture.y) > MOST_POINTS else 1
    top = max([*picture.y, 1e-12])
    rows = []
    for i in range(0, len(picture.y), step):
        eighths = round(8 * width * picture.y[i] / top)
        rows.append((_label(picture.x[i], picture), BLOCKS[8] * (eighths // 8) + BLOCKS[eighths % 8].strip(), picture.said(picture.y[i])))
    return rows


# --- maps ---------------------------------------------------------------------------------------------------------


def _map(picture: Map) -> tuple[int, int, str]:
    """The points, their names above all of them, to be seen one at a time, and a key of their signs."""
    places, last = _fitted(picture.points), len(picture.labels)
    parts = [f'<rect class="frame" x="0.5" y="0.5" width="{WIDTH - 1}" height="{PLANE - 1}" rx="6"/>']
    for group in (last, *range(last)):  # those of no group below the others
        drawn = "".join(f"M{x:.1f} {y:.1f}{_sign(group, last)}" for (x, y), of in zip(places, picture.groups, strict=True) if of == group)
        parts += [f'<path class="dots {_colour(group, last)}" d="{drawn}"/>'] if drawn else []
    reached = _reached(places, picture.groups)
    parts += [_named(*place, name, n in reached) for n, (place, name) in enumerate(zip(places, picture.names, strict=True))]
    key = list(_key(picture))
    return WIDTH, PLANE + 12 + ENTRY * -(-len(key) // 2) if key else PLANE, "".join(parts + key)


def _sign(group: int, last: int) -> str:
    return SIGNS[-1] if group == last and last else SIGNS[group]


def _colour(group: int, last: int) -> str:
    return "rest" if group == last and last else f"g{group}"


def _fitted(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points where they are drawn, as large as there is room for."""
    across, up = zip(*points, strict=True)
    width, height = WIDTH - 2 * EDGE, PLANE - 2 * EDGE
    scale = min(width / max(max(across) - min(across), 1e-12), height / max(max(up) - min(up), 1e-12))
    middle = (max(across) + min(across)) / 2, (max(up) + min(up)) / 2
    return [(WIDTH / 2 + scale * (x - middle[0]), PLANE / 2 - scale * (y - middle[1])) for x, y in points]


def _reached(places: Sequence[tuple[float, float]], groups: Sequence[int]) -> set[int]:
    """The point nearest to the middle of each group, which the keyboard reaches: of a thousand it would reach none."""
    found = set()
    for group in set(groups):
        members = [n for n, of in enumerate(groups) if of == group]
        x, y = (sorted(places[n][axis] for n in members)[len(members) // 2] for axis in (0, 1))
        found.add(min(members, key=lambda n: (places[n][0] - x) ** 2 + (places[n][1] - y) ** 2))
    return found


def _named(x: float, y: float, name: str, reached: bool) -> str:
    """What shows the name of a point where it is pointed at, tapped or, of one in each group, reached by the keyboard."""
    text = plain_text(name, NAMED * LINES)
    lines = textwrap.wrap(text, NAMED, max_lines=LINES, placeholder="…") or ["-"]
    anchor = "start" if x < WIDTH / 3 else "middle" if x < 2 * WIDTH / 3 else "end"
    first = 1.9 if y < PLANE / 4 else -0.9 - 1.15 * (len(lines) - 1)
    spans = "".join(f'<tspan x="0" dy="{1.15 if n else first:.2f}em">{escape(line)}</tspan>' for n, line in enumerate(lines))
    return (
        f'<g class="at" tabindex="{0 if reached else -1}" role="img" aria-label="{escape(text)}" transform="translate({x:.1f} {y:.1f})">'
        f'<circle r="5"/><text text-anchor="{anchor}">{spans}</text></g>'
    )


def _key(picture: Map) -> Iterator[str]:
    """Signs and what they mean, in two columns."""
    last = len(picture.labels)
    shown = [(group, label) for group, label in enumerate([*picture.labels, "other"]) if last and group in picture.groups]
    for n, (group, label) in enumerate(shown):
        x, y = 14 + WIDTH // 2 * (n % 2), PLANE + 12 + ENTRY * (n // 2) + ENTRY / 2
        text = plain_text(label, 22)
        yield (
            f'<path class="dots {_colour(group, last)}" transform="translate({x} {y}) scale(1.7)" d="M0 0{_sign(group, last)}"/>'
            f'<text class="key" x="{x + 16}" y="{y}" dy=".35em">{escape(text)} <tspan class="count">{picture.groups.count(group):,}</tspan></text>'
        )
