"""What a row depends on, as digests by file: its module with all that this imports of ours, its recipes and its peers.

Comments, docstrings and layout of Python files do not count: their syntax trees are digested.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from benchmarks.rows import HERE, ROOT, Row

PACKAGES = {"benchmarks": ROOT / "benchmarks", "twotower": ROOT / "src" / "twotower"}


def fingerprint(name: str, row: Row) -> dict[str, str]:
    """A digest for each file that decides the figures of a row, by its path from the root."""
    own = HERE / "rows" / f"{name}.py"
    others = [HERE / "recipes" / f"{recipe}.toml" for recipe in row.recipes]
    for module in row.modules:
        others += [path for file in files_of(module) for path in modules(file)]
    others += [HERE / "peers" / f"{peer}.py" for peer in ("exchange", *row.peers) if row.peers]
    others += [HERE / "peers" / f"{environment}.txt" for environment in ("own", *row.environments) if row.peers]
    # The list of rows, and what runs them, decide no figure.
    left_out = {HERE / "__init__.py", HERE / "rows" / "__init__.py"}
    return {path.relative_to(ROOT).as_posix(): digest(path) for path in sorted({*modules(own), *others} - left_out)}


def changed(kept: dict[str, str], now: dict[str, str]) -> list[str]:
    """The files that differ."""
    return sorted(path for path in {*kept, *now} if kept.get(path) != now.get(path))


def digest(path: Path) -> str:
    """Of a file's meaning."""
    content = path.read_bytes()
    if path.suffix == ".py":
        content = json.dumps(shape(ast.parse(content))).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def shape(node: object) -> object:
    """A syntax tree as lists, without docstrings and what is empty: the same under every version of Python."""
    if isinstance(node, ast.AST):
        parts = {name: value for name, value in ast.iter_fields(node) if name != "kind" and value is not None and value != []}
        body = parts.get("body")
        if isinstance(body, list) and not isinstance(node, ast.If) and _is_text(body[0]):
            parts["body"] = body[1:]
        return [type(node).__name__, *([name, shape(value)] for name, value in sorted(parts.items()))]
    return [shape(each) for each in node] if isinstance(node, list) else repr(node)


def _is_text(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def modules(path: Path) -> set[Path]:
    """A Python file and all of ours that it imports, directly or not."""
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += imports(one)
    return found


def imports(path: Path) -> Iterator[Path]:
    """The files of ours that a file imports."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            yield from files_of(name)
    if path == PACKAGES["twotower"] / "__init__.py":  # which imports by name
        yield from files_of("twotower.runs")


def files_of(name: str) -> Iterator[Path]:
    """The file of a module by its dotted name, and those of the packages around it."""
    first, *rest = name.split(".")
    place = PACKAGES.get(first)
    for part in [None, *rest] if place else []:
        place = place / part if part else place
        for path in (place / "__init__.py", place.with_suffix(".py")):
            if path.is_file():
                yield path
