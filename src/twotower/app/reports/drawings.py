"""Pictures drawn by ourselves: as SVG for pages, as rows of blocks for terminals."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from html import escape

from twotower.app.reports.documents import Picture, plain_text

WIDTH, HEIGHT = 640, 280
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 12, 44
BAR = 26  # height of a bar and the room around it
MOST_POINTS = 12  # in words
BLOCKS = " ▏▎▍▌▋▊▉█"


def svg(picture: Picture, name: str) -> str:
    """A picture as inline SVG, with its title and a description for those who do not see it. name: unique on its page."""
    width, height, body = _bars(picture) if picture.kind == "bars" else _plane(picture)
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">{escape(plain_text(picture.title))}</title><desc id="{name}-d">{escape(in_words(picture))}</desc>{body}</svg>'
    )


def in_words(picture: Picture) -> str:
    """What a picture shows, as a sentence."""
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
