"""The house: a module imports only from floors above its own, and from modules listed before it on its floor."""

import ast
import re
from pathlib import Path

import pytest

import twotower

SOURCE = Path(twotower.__file__).parent
FLOORS = [
    ["errors"],
    ["files.single", "files.arrays", "files.folders", "files", "manifests"],
    [
        "search.vectors",
        "search.index.hits",
        "search.index.exact",
        "search.index.approximate",
        "search.index.automatic",
        "search.index",
        "search.lexical",
        "search.fusion",
        "search.calibration",
        "search.thresholds",
        "search.filters.conditions",
        "search.filters.language",
        "search.filters.wire",
        "search.filters.kinds",
        "search.filters.masks",
        "search.filters",
        "search.facets",
        "search.diversity",
    ],
    [
        "data.columns",
        "data.values",
        "data.hashes",
        "data.vectors",
        "data.tokens",
        "data.pretrained",
        "data.features.feature",
        "data.features.names",
        "data.features.measures",
        "data.features.numbers",
        "data.features.times",
        "data.features.vectors",
        "data.features.text",
        "data.features.pieces",
        "data.features.pretrained",
        "data.features.history",
        "data.features",
        "data.preparation.identity",
        "data.keys",
        "data.quantities",
        "data.schema",
        "data.encoder",
        "data.sources.formats",
        "data.sources.places",
        "data.sources.frames",
        "data.sources.databases",
        "data.sources",
        "data.splits",
        "data.preparation.groups",
        "data.preparation.spills",
        "data.prepared",
        "data.histories",
        "data.preparation.looks",
        "data.preparation.catalogue",
        "data.inference.names",
        "data.inference.looks",
        "data.inference.readings",
        "data.inference.links",
        "data.inference.roles",
        "data.inference.sides",
        "data.inference.guesses",
        "data.inference",
        "data.preparation.intake",
        "data.preparation.requirements",
        "data.preparation.division",
        "data.preparation.engine",
        "data.preparation",
        "data.doctor.findings",
        "data.doctor.evidence",
        "data.doctor.shingles",
        "data.doctor.duplicates",
        "data.doctor.leaks",
        "data.doctor.future",
        "data.doctor.negatives",
        "data.doctor.damage",
        "data.doctor.popularity",
        "data.doctor.coverage",
        "data.doctor.settings",
        "data.doctor.examination",
        "data.doctor",
        "data.batches",
        "data.scores",
        "data.samples",
    ],
    [
        "stores.facts",
        "stores.places",
        "stores.ledger",
        "stores.columns",
        "stores.conditions",
        "stores.store",
        "stores.postgres_words",
        "stores.postgres",
        "stores.lance_words",
        "stores.lance",
        "stores.qdrant_words",
        "stores.qdrant_shards",
        "stores.qdrant_server",
        "stores.qdrant",
        "stores",
    ],
    [
        "model.options",
        "model.layers.dropout",
        "model.layers.inputs",
        "model.layers.blocks",
        "model.layers.names",
        "model.layers.measures",
        "model.layers.text",
        "model.layers.history",
        "model.layers.pieces",
        "model.layers.pretrained",
        "model.layers",
        "model.bodies",
        "model.relations",
        "model.losses",
        "model.lessons",
        "model.blockwise",
        "model.towers",
        "model.probabilities",
        "model.negatives",
        "model.optimizers",
    ],
    [
        "learning.metrics",
        "learning.options",
        "learning.allocation",
        "learning.statistics",
        "learning.shifts",
        "learning.binning",
        "learning.distributed",
        "learning.evaluation",
        "learning.slices",
        "learning.curves",
        "learning.growth",
        "learning.subsets",
        "learning.suspects",
        "learning.lists",
        "learning.projection",
        "learning.space",
        "learning.views",
        "learning.pretrained",
        "learning.factors",
        "learning.linear",
        "learning.alternating",
        "learning.categories",
        "learning.baselines",
        "learning.memory",
        "learning.material",
        "learning.mining",
        "learning.checkpoints",
        "learning.reader",
        "learning.health",
        "learning.caching",
        "learning.moving",
        "learning.inheritance",
        "learning.training",
        "learning.warming",
    ],
    [
        "bundle.graphs",
        "bundle.layout",
        "bundle.asking",
        "bundle.memory",
        "bundle.golden",
        "bundle.indexes",
        "bundle.narrowing",
        "bundle.catalogue",
        "bundle.changes",
        "bundle.growth",
        "bundle.lineage",
        "bundle.found",
        "bundle.ranking",
        "bundle.retriever",
        "bundle.reasons",
        "bundle.remote",
        "bundle.loading",
        "bundle.publication",
        "bundle",
    ],
    ["config.blocks", "config.reading", "config.writing", "config"],
    ["exports.towers", "exports.catalogue", "exports.encoders", "exports.graphs", "exports.sentences", "exports.formats", "exports.shipping"],
    [
        "runs.progress",
        "runs.board",
        "runs.signals",
        "runs.estimates",
        "runs.measuring",
        "runs.certainty",
        "runs.comparing",
        "runs.differences",
        "runs.exported",
        "runs.launch",
        "runs.finishing",
        "runs.teachers",
        "runs.predecessor",
        "runs.resumption",
        "runs.settings",
        "runs.shown",
        "runs.run",
        "runs.held",
        "runs.worth",
        "runs.approximation",
        "runs.explanation",
        "runs.drifting",
        "runs.spaces",
        "runs.trials",
        "runs.study",
        "runs.tuning",
        "runs.remedies",
        "runs.suspicion",
        "runs.starved",
        "runs.forecasting",
        "runs",
    ],
    ["client"],
    [
        "app.exits",
        "app.reports.documents",
        "app.reports.drawings",
        "app.reports.terminal",
        "app.reports.webpage",
        "app.reports.markdown",
        "app.reports.rendering",
        "app.reports.tables",
        "app.reports.results",
        "app.reports.grown",
        "app.reports",
        "app.reports.diagnosis",
        "app.reports.advice",
        "app.reports.tuned",
        "app.reports.forecasted",
        "app.reports.account",
        "app.reports.card",
        "app.reports.explained",
        "app.reports.drifted",
        "app.questions",
        "app.jobs",
        "app.shelf",
        "app.bulk",
        "app.starting",
        "app.checking",
        "app.reporting",
        "app.demonstration",
        "app.page",
        "app.server.problems",
        "app.server.options",
        "app.server.logs",
        "app.server.wire",
        "app.server.shown",
        "app.server.versions",
        "app.server.gathering",
        "app.server.metrics",
        "app.server.answering",
        "app.server.information",
        "app.server.gate",
        "app.server.connections",
        "app.server.routes",
        "app.server.launch",
        "app.cli.application",
        "app.cli.making",
        "app.cli.measuring",
        "app.cli.searching",
        "app.cli.exporting",
        "app.cli.growing",
        "app.cli.serving",
        "app.cli",
        "app.cli.__main__",
        "__main__",
    ],
]
ORDER = [name for floor in FLOORS for name in floor]
PACKAGES = ["", "search", "data", "model", "learning", "exports", "app", "app.server"]  # their __init__ only says what they are for
TORCH = {name for name in ORDER if name.startswith("model.layers")}
TORCH |= {
    "model.bodies",
    "model.towers",
    "model.relations",
    "model.losses",
    "model.lessons",
    "model.blockwise",
    "model.optimizers",
    "learning.memory",
    "learning.mining",
    "learning.checkpoints",
    "learning.reader",
    "learning.caching",
    "learning.moving",
    "learning.inheritance",
    "learning.training",
    "learning.warming",
    "exports.towers",
}
LOOK_UP = [
    "bundle.graphs",
    "bundle.layout",
    "bundle.retriever",
    "bundle",
    "config",
    "search.vectors",
    "search.index",
    "search.lexical",
    "data.encoder",
    "app.cli",
    "app.server.launch",
    "client",
    "exports.formats",
]


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


MODULES = {name_of(path): ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}


def imported(tree: ast.AST) -> set[str]:
    """Every module that a tree imports, wherever in it, but for type checking alone."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        found |= imported(node)
    return found


def ours(tree: ast.AST) -> set[str]:
    names = {name.removeprefix("twotower.") for name in imported(tree) if name.startswith("twotower.")}
    return names & set(ORDER)


def test_every_module_stands_on_a_floor():
    assert sorted([*ORDER, *PACKAGES]) == sorted(MODULES)


@pytest.mark.parametrize("name", ORDER)
def test_a_module_imports_only_from_before_it(name):
    allowed = set(ORDER[: ORDER.index(name)])
    assert ours(MODULES[name]) <= allowed


def top_level(tree: ast.Module) -> set[str]:
    return imported(ast.Module([node for node in tree.body if not isinstance(node, (ast.FunctionDef, ast.ClassDef))], []))


def reached(name: str, seen: set[str]) -> set[str]:
    """All modules that importing one runs."""
    if name in seen or name not in MODULES:
        return seen
    seen.add(name)
    for other in {n.removeprefix("twotower.") for n in top_level(MODULES[name]) if n.startswith("twotower")}:
        reached(other, seen)
    return seen


def test_torch_lives_in_the_model_and_below():
    heavy = {name for name, tree in MODULES.items() if any(n.split(".")[0] == "torch" for n in top_level(tree))}
    assert heavy <= TORCH


@pytest.mark.parametrize("name", LOOK_UP)
def test_look_up_reaches_no_torch(name):
    assert not reached(name, set()) & TORCH


WRITING = re.compile(
    r"open\([^)]*[\"'](w|a|x|wb|ab|xb|r\+|r\+b)[\"']|\.write_(text|bytes)\(|np\.save|to_parquet|save_file|\.mkdir\(|os\.replace|rmtree|\.unlink\("
)


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=name_of)
def test_only_files_writes(path):
    if name_of(path).partition(".")[0] == "files":
        return
    lines = [line for line in path.read_text().splitlines() if WRITING.search(line) and "files.write" not in line]
    assert lines == []


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=name_of)
def test_nothing_is_pickled_or_run_from_data(path):
    names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
    assert not names & {"eval", "exec", "__import__"}
    assert not imported(MODULES[name_of(path)]) & {"pickle", "joblib", "cloudpickle", "dill", "marshal", "shelve"}
    assert not re.search(r"torch\.(load|save)\(|allow_pickle=True", path.read_text())
