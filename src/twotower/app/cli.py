"""The command line: each verb calls one function of the package and prints what it returns.

stdout carries the result only; progress goes to stderr. Exit code 0 is success, 1 a fault of ours, 2 the user's mistake,
3 a gate that said no.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twotower.errors import ConfigError, TwotowerError

if TYPE_CHECKING:
    from rich.console import Console

    from twotower.bundle import Found, Retriever

app = typer.Typer(
    name="twotower",
    help="From logged pairs to look-up: train a two-tower model, measure it honestly, search with it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="BLOCK.OPTION=VALUE", help="Override a config value, like train.epochs=3. May be repeated.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run that is there.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run that is there.")]
BundlePath = Annotated[Path, typer.Argument(metavar="RUN|BUNDLE", help="A run folder or a bundle.")]


def main() -> None:
    """Run a command, and turn what goes wrong into one message and an exit code."""
    try:
        app(standalone_mode=False)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except TwotowerError as error:
        _fail(str(error), 130 if type(error).__name__ == "Stopped" else 2)
    except (KeyboardInterrupt, typer.Abort):
        _fail("stopped", 130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        if hasattr(error, "format_message"):  # what click says of a wrong command line
            _fail(error.format_message() + " Try --help.", 2)
        import traceback

        traceback.print_exc()
        _fail(f"this is a fault of twotower, not yours: {type(error).__name__}. Please report it with the lines above.", 1)


def _fail(message: str, code: int) -> None:
    print(f"twotower: {message}", file=sys.stderr)
    sys.exit(code)


def _out() -> Console:
    from rich.console import Console

    # A pipe has no width: what reads it gets whole lines.
    return Console(width=None if sys.stdout.isatty() else 200, highlight=False, soft_wrap=False)


def _print_json(value: Any) -> None:
    from twotower.files import json_text

    print(json_text(value))


# --- demo, init, train --------------------------------------------------------------------------------------------


@app.command()
def demo(
    sample: Annotated[str, typer.Option(help="Which of the data sets that ship.")] = "tldr",
    output: Annotated[Path, typer.Option("-o", "--output", help="The run folder.")] = Path("runs/demo"),
    settings: Set = None,
    json: Json = False,
    prompt: Annotated[bool, typer.Option(help="At a terminal, end in a prompt for questions of your own.")] = True,
) -> None:
    """Train on real data that ship with the package, compare with baselines, and answer questions."""
    from twotower.app import reports
    from twotower.app.demonstration import ask, demonstrate
    from twotower.app.progress import watching

    with watching() as progress:
        shown = demonstrate(sample, output, settings or [], progress)
    if json:
        _print_json({"metrics": shown.run.metrics, "strangers": shown.strangers})
        return
    out = _out()
    out.print(f"[bold]{shown.sample.name}[/bold]: {shown.sample.about} [dim]({shown.sample.licence})[/dim]")
    out.print(reports.data(shown.run.metrics["data"]))
    out.print(reports.figures(shown.run.metrics))
    out.print(reports.strangers(shown.strangers, len(shown.sample.strangers), shown.k))
    for answered in shown.answers:
        out.print(reports.answer(answered.question, answered.satisfied, answered.found, shown.columns))
    out.print(f'\nThe run is in {output}. Ask it: [bold]twotower search {output} "show disk usage of each folder"[/bold]')
    if prompt and sys.stdin.isatty() and sys.stdout.isatty():
        ask(shown, out)


@app.command()
def init(
    pairs: Annotated[str, typer.Argument(help="The log of pairs: CSV, TSV, JSONL, Parquet; compressed, a folder or a glob.")],
    items: Annotated[str | None, typer.Option(help="The catalogue of items.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The config to write.")] = Path("twotower.toml"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that is there.")] = False,
) -> None:
    """Look at your files and write a config with a reason for each choice."""
    from twotower.app.starting import starting_config
    from twotower.errors import OutputError
    from twotower.files import write_text

    if output.exists() and not overwrite:
        raise OutputError(f"{output} exists. Replace it with --overwrite, or choose another with -o.")
    text = starting_config(pairs, items, output)
    write_text(output, text)
    print(text, end="")
    print(f"\nwrote {output}; read it, then: twotower train {output} -o runs/first", file=sys.stderr)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="A config; `twotower init` writes one.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The run folder; by default a new one under runs/.")] = None,
    settings: Set = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Train a model, evaluate it beside baselines, and write its bundle."""
    from twotower.app import reports
    from twotower.app.progress import watching
    from twotower.runs import train as train_run

    if resume and output is None:
        raise ConfigError("--resume needs the run to continue: -o RUN")
    if resume and overwrite:
        raise ConfigError("--resume continues a run and --overwrite replaces it: choose one")
    with watching() as progress:
        run = train_run(config=config, settings=settings or [], output=output, resume=resume, overwrite=overwrite, progress=progress)
    if json:
        _print_json(run.metrics)
        return
    out = _out()
    out.print(reports.data(run.metrics["data"]))
    out.print(reports.figures(run.metrics))
    out.print(f"The run is in {run.folder}, its bundle in {run.folder / 'bundle'}.")


# --- measuring ----------------------------------------------------------------------------------------------------


@app.command()
def evaluate(
    model: BundlePath,
    pairs: Annotated[str | None, typer.Option(help="Pairs to measure on; without them, a run's own figures are shown.")] = None,
    against: Annotated[Path | None, typer.Option(help="Another run or bundle to compare with on the same pairs.")] = None,
    fail_if_worse: Annotated[bool, typer.Option("--fail-if-worse", help="Exit 3 if the paired test finds the first worse.")] = False,
    json: Json = False,
) -> None:
    """Measure a model on its held-out pairs, or on new ones, alone or against another."""
    from twotower.app import reports
    from twotower.bundle import load
    from twotower.data.sources import open_source
    from twotower.runs import evaluate as evaluate_pairs
    from twotower.runs import open_run
    from twotower.runs.measuring import compare_on, evaluation_options, facts_of

    if fail_if_worse and against is None:
        raise ConfigError("--fail-if-worse compares: name the other model with --against")
    if pairs is None:
        if against is not None:
            raise ConfigError("--against needs --pairs; to compare two runs on their own test pairs use: twotower compare A B")
        metrics = open_run(model).metrics
        _print_json(metrics) if json else _out().print(reports.figures(metrics))
        return
    source, retriever = open_source(pairs), load(model)
    options = evaluation_options(retriever)
    if against is None:
        evaluated, asked = evaluate_pairs(retriever, source, options)
        facts = facts_of(retriever, evaluated, asked, options)
        _print_json(facts) if json else _out().print(reports.figures(facts), reports.dropped(asked.dropped), sep="\n")
        return
    compared = compare_on([retriever, load(against)], (str(model), str(against)), source, options)
    _print_json(compared) if json else _out().print(reports.comparison(compared))
    if fail_if_worse and compared.worse(options.select):
        print(f"twotower: {model} is worse than {against} by {options.select}", file=sys.stderr)
        raise typer.Exit(3)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="A run.")],
    b: Annotated[Path, typer.Argument(help="Another run that held out the same pairs.")],
    json: Json = False,
) -> None:
    """Compare two runs, ranking by ranking, on the test pairs that both held out."""
    from twotower.app import reports
    from twotower.runs import compare as compare_runs

    compared = compare_runs(a, b)
    _print_json(compared) if json else _out().print(reports.comparison(compared))


@app.command()
def info(model: BundlePath, json: Json = False, verify: Annotated[bool, typer.Option(help="Check every byte first.")] = False) -> None:
    """Say what a bundle is: its model, catalogue, features and figures."""
    from twotower import bundle
    from twotower.bundle.layout import find_bundle
    from twotower.files import read_json

    if verify:
        bundle.verify(model)
    opened = bundle.open_bundle(model)
    metrics = read_json(find_bundle(model) / "model" / "metrics.json")
    facts = {
        "bundle": str(opened.folder),
        "made_by": opened.model["made_by"],
        "fingerprint": opened.fingerprint[:16],
        "catalogue_version": opened.version,
        "items": sum(segment.items.num_rows for segment in opened.segments),
        "dimensions": opened.dimensions,
        "similarity": opened.model["similarity"],
        "search": opened.model["search"]["mode"],
        "query": {f.column: f.type for f in opened.encoder.features["query"]},
        "item": {f.column: f.type for f in opened.encoder.features["item"]},
        "shows": [name for name in opened.segments[0].items.column_names if name != "_id"],
        "figures": metrics["model"],
        "verified": verify,
    }
    if json:
        _print_json(facts)
        return
    for name, value in facts.items():
        if name == "figures":
            value = ", ".join(f"{metric} {figure['value']:.3f}" for metric, figure in value.items())
        elif isinstance(value, dict):
            value = ", ".join(f"{column} ({kind})" for column, kind in value.items())
        elif isinstance(value, list):
            value = ", ".join(value)
        print(f"{name.replace('_', ' '):18} {value}")


# --- look-up ------------------------------------------------------------------------------------------------------


@app.command()
def search(
    model: BundlePath,
    query: Annotated[list[str] | None, typer.Argument(help="A question, or columns like country=DE user_id=42.")] = None,
    k: Annotated[int, typer.Option("-k", help="How many items.")] = 10,
    mode: Annotated[str | None, typer.Option(help="vectors, words or hybrid, instead of what validation chose.")] = None,
    queries: Annotated[str | None, typer.Option(help="A file of queries; answers go to -o.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="With --queries: the Parquet file to write.")] = None,
    json: Json = False,
) -> None:
    """Find the best items for a question, or for every row of a file."""
    from twotower.app import reports
    from twotower.bundle import load

    if (queries is None) == (not query):
        raise ConfigError('give a question, like: twotower search RUN "show disk usage", or a file of them: --queries FILE -o FOUND.parquet')
    retriever = load(model)
    if queries is not None:
        from twotower.app.bulk import search_file
        from twotower.app.progress import counting

        if output is None:
            raise ConfigError("--queries needs -o FOUND.parquet for the answers")
        with counting("searching") as report:
            rows = search_file(retriever, queries, output, k, mode, report)
        print(f"wrote {rows:,} rows to {output}", file=sys.stderr)
        return
    answers = _answers(retriever, retriever.search(_question(retriever, query or []), k=k, mode=mode))  # type: ignore[arg-type]
    columns = [name for name in retriever.items.column_names if name != "_id" and name not in _ids(retriever)]
    _print_json(answers) if json else _out().print(reports.found(answers, columns))


def _ids(retriever: Retriever) -> list[str]:
    """The columns that only repeat the id."""
    return [retriever.bundle.model["schema"]["item"]["id"] or "_id"]


def _question(retriever: Retriever, words: list[str]) -> str | dict[str, str]:
    """The words of a command line as a query: one text, or name=value for each column."""
    columns = retriever.encoder.columns("query")
    named = [word.partition("=") for word in words]
    if all(equals and name in columns for name, equals, _ in named):
        return {name: value for name, _, value in named}
    if len(columns) > 1:
        raise ConfigError(f"a query of this model has {len(columns)} columns; write {' '.join(f'{name}=...' for name in columns)}")
    return " ".join(words)


def _answers(retriever: Retriever, found: Found) -> list[dict[str, Any]]:
    shown = retriever.show(found.rows)
    return [
        {"id": row["_id"], "score": float(score), "item": {name: value for name, value in row.items() if name != "_id"}}
        for row, score in zip(shown, found.scores, strict=False)
    ]


@app.command()
def score(
    model: BundlePath,
    pairs: Annotated[str, typer.Option(help="A file with the query's columns and the item's id.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The Parquet file to write; without it, lines of JSON are printed.")] = None,
) -> None:
    """Score pairs: the raw similarity of each query with its item."""
    from twotower.app.bulk import score_file
    from twotower.app.progress import counting
    from twotower.bundle import load

    with counting("scoring") as report:
        rows = score_file(load(model), pairs, output, report)
    if output is not None:
        print(f"wrote {rows:,} rows to {output}", file=sys.stderr)


@app.command()
def embed(
    model: BundlePath,
    rows: Annotated[str, typer.Argument(help="A file with the feature columns of that side.")],
    side: Annotated[str, typer.Option(help="query or item.")] = "item",
    output: Annotated[Path, typer.Option("-o", "--output", help="The Parquet file to write.")] = Path("vectors.parquet"),
) -> None:
    """Write the vectors of queries or items, in the catalogue or not."""
    from twotower.app.bulk import embed_file
    from twotower.app.progress import counting
    from twotower.bundle import load

    if side not in ("query", "item"):
        raise ConfigError(f'--side is "query" or "item", not "{side}"')
    with counting("embedding") as report:
        written = embed_file(load(model), rows, side, output, report)  # type: ignore[arg-type]
    print(f"wrote {written:,} vectors to {output}", file=sys.stderr)


def _version(show: bool) -> None:
    if show:
        from twotower import __version__

        print(f"twotower {__version__}")
        raise typer.Exit


@app.callback()
def _options(version: Annotated[bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)] = False) -> None:
    """From logged pairs to look-up: train a two-tower model, measure it honestly, search with it."""


if __name__ == "__main__":
    main()
