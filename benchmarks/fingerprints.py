"""What a row depends on, as digests by file: its module with all that this imports of ours, its recipes and its peers.

Comments, docstrings and layout of Python files do not count: their syntax trees are digested.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import re
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
    left_out = {HERE / "__init__.py", HERE / "rows" / "__init__.py", HERE / "fingerprints.py"}
    return {path.relative_to(ROOT).as_posix(): digest(path) for path in sorted({*modules(own), *others} - left_out)}


def changed(kept: dict[str, str], now: dict[str, str]) -> list[str]:
    """The files that differ."""
    return sorted(path for path in {*kept, *now} if kept.get(path) != now.get(path))


def digest(path: Path) -> str:
    """Of a file's meaning."""
    about = path.stat()
    return _digest(path, about.st_mtime_ns, about.st_size)


@functools.cache
def _digest(path: Path, *_: int) -> str:
    content = path.read_bytes()
    if path.suffix == ".py":
        content = meaning(content).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def meaning(text: bytes) -> str:
    """A Python file as its syntax tree, without docstrings, and without what versions of Python write differently."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = node.body if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) else []
        if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant) and isinstance(body[0].value.value, str):
            del body[0]
    return re.sub(r", ctx=Load\(\)|, \w+=\[\]|(?<=\()\w+=\[\](, )?", "", ast.dump(tree))


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


def imports(path: Path) -> tuple[Path, ...]:
    """The files of ours that a file imports."""
    about = path.stat()
    return _imports(path, about.st_mtime_ns, about.st_size)


@functools.cache
def _imports(path: Path, *_: int) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(_named(path)))


def _named(path: Path) -> Iterator[Path]:
    if path == PACKAGES["twotower"] / "__init__.py":
        return  # it imports nothing before it is asked for a name
    for node in ast.walk(ast.parse(path.read_bytes())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            yield from files_of(name)
        if (isinstance(node, ast.Import) and "twotower" in names) or "twotower.train" in names:
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
