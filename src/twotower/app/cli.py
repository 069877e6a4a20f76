"""The command line: each verb calls one function of the package and prints what it returns.

stdout carries the result only; progress goes to stderr. To add a verb: a function below, with its examples.
"""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from twotower.app import exits
from twotower.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from twotower.app.bulk import Wrote


def _examples(*lines: str) -> str:
    r"""An epilog that keeps its lines: \b is click's mark for that."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


app = typer.Typer(
    name="twotower",
    help="From logged pairs to look-up: train a two-tower model, measure it honestly, search with it.",
    epilog=_examples(
        "twotower demo",
        "twotower init clicks.csv --items products.csv",
        "twotower train twotower.toml -o runs/first",
        'twotower search runs/first "waterproof boots" -k 5',
        "twotower evaluate runs/first --pairs newer_clicks.csv",
    )
    + "\n\n`twotower VERB --help` tells of one verb.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="BLOCK.OPTION=VALUE", help="Override a config value, like train.epochs=3. May be repeated.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run that is there.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run that is there.")]
BundlePath = Annotated[Path, typer.Argument(metavar="RUN|BUNDLE", help="A run folder or a bundle.", show_default=False)]


def main() -> None:
    """Run the verb of the command line."""
    exits.run(app, sys.argv[1:] or ["--help"])


def _print_json(value: Any) -> None:
    from twotower.files import json_text

    print(json_text(value))


def _show(*parts: Any) -> None:
    from twotower.app.reports import show

    show(*parts)


# --- demo, init, train --------------------------------------------------------------------------------------------


@app.command(epilog=_examples("twotower demo", "twotower demo -o runs/quick --set train.epochs=1 --no-prompt"))
def demo(
    sample: Annotated[str, typer.Option(help="Which of the data sets that ship.")] = "tldr",
    output: Annotated[Path, typer.Option("-o", "--output", help="The run folder; an earlier demo there is replaced.")] = Path("runs/demo"),
    settings: Set = None,
    json: Json = False,
    prompt: Annotated[bool, typer.Option(help="At a terminal, end in a prompt for questions of your own.")] = True,
) -> None:
    """Train on data that ship with the package, and ask it questions.

    It is compared with baselines on pairs held out, and with word search on questions of strangers.
    """
    from twotower.app import reports
    from twotower.app.demonstration import ask, demonstrate
    from twotower.runs.progress import watching
    from twotower.runs.run import Stopped

    try:
        with watching() as progress:
            shown = demonstrate(sample, output, settings or [], progress)
    except Stopped:
        exits.fail(f"stopped. The same command begins the demo again: twotower demo -o {shlex.quote(str(output))}", exits.STOPPED)
    if json:
        _print_json({"metrics": shown.run.metrics, "strangers": shown.strangers})
        return
    told = shown.sample
    _show(f"[bold]{told.name}[/bold]: {told.about} [dim]({told.licence})[/dim]", reports.data(shown.run.metrics["data"]))
    _show(reports.figures(shown.run.metrics), reports.strangers(shown.strangers, shown.k))
    for answered in shown.answers:
        _show(reports.answer(answered))
    _show(
        "",
        reports.plain(f"The run is in {output}. Ask it:"),
        reports.plain(f'  twotower search {shlex.quote(str(output))} "{told.strangers[0].query}"'),
    )
    if prompt and sys.stdin.isatty() and sys.stdout.isatty():
        ask(shown)


@app.command(
    epilog=_examples(
        "twotower init questions.csv", "twotower init clicks.parquet --items products.csv", 'twotower init "logs/*.jsonl.gz" -o shop.toml'
    )
)
def init(
    pairs: Annotated[str, typer.Argument(help="The log of pairs: CSV, TSV, JSONL, Parquet; compressed, a folder or a glob.")],
    items: Annotated[str | None, typer.Option(help="The catalogue of items.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The config to write.")] = Path("twotower.toml"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that is there.")] = False,
) -> None:
    """Look at your files and write a config for them.

    Each choice stands there with its reason; read it before you train.
    """
    from twotower.app.starting import starting_config
    from twotower.files import write_text

    if output.exists() and not overwrite:
        raise OutputError(f"{output} exists. Replace it with --overwrite, or choose another with -o.")
    text = starting_config(pairs, items, output)
    write_text(output, text)
    print(text, end="", flush=True)
    print(f"\nwrote {output}; read it, then: twotower train {output} -o runs/first", file=sys.stderr)


@app.command(
    epilog=_examples(
        "twotower train twotower.toml -o runs/first",
        "twotower train twotower.toml -o runs/wide --set model.dimensions=512 --set train.epochs=3",
        "twotower train twotower.toml -o runs/first --resume",
    )
)
def train(
    config: Annotated[Path, typer.Argument(help="A config; `twotower init` writes one.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The run folder; by default a new one under runs/.")] = None,
    settings: Set = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Train a model, measure it beside baselines, write its bundle.

    Ctrl-C finishes the step and saves; --resume goes on from there.
    """
    from twotower.app import reports
    from twotower.runs import train as train_run
    from twotower.runs.progress import watching
    from twotower.runs.run import Stopped

    if resume and output is None:
        raise ConfigError("--resume needs the run to continue: -o RUN")
    if resume and overwrite:
        raise ConfigError("--resume continues a run and --overwrite replaces it: choose one")
    if config.suffix != ".toml" and config.is_file():
        raise ConfigError(
            f"train takes a config and {config} is none. Write one, if that is the log of pairs: twotower init {config} -o twotower.toml"
        )
    folder = output or Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    again = shlex.join(["twotower", "train", str(config), "-o", str(folder), *(word for setting in settings or [] for word in ("--set", setting))])
    try:
        with watching() as progress:
            run = train_run(config=config, settings=settings or [], output=folder, resume=resume, overwrite=overwrite, progress=progress)
    except Stopped as stopped:
        raise Stopped(f"{str(stopped).partition('. ')[0]}. Go on with:\n  {again} --resume") from None
    except KeyboardInterrupt:
        saved = (folder / "checkpoint.safetensors").exists()
        exits.fail(
            f"stopped. {'Go on with' if saved else 'Nothing was trained yet; begin again with'}:\n  {again} {'--resume' if saved else '--overwrite'}",
            exits.STOPPED,
        )
    if json:
        _print_json(run.metrics)
        return
    _show(reports.data(run.metrics["data"]), reports.figures(run.metrics))
    _show(f"\nThe run is in {run.folder}, its bundle in {run.folder / 'bundle'}.")


# --- measuring ----------------------------------------------------------------------------------------------------


@app.command(
    epilog=_examples(
        "twotower evaluate runs/first",
        "twotower evaluate runs/first --pairs newer_clicks.csv",
        "twotower evaluate runs/new --pairs newer_clicks.csv --against runs/old --fail-if-worse",
    )
)
def evaluate(
    model: BundlePath,
    pairs: Annotated[str | None, typer.Option(help="Pairs to measure on; without them, a run's own figures are shown.")] = None,
    against: Annotated[Path | None, typer.Option(help="Another run or bundle to compare with on the same pairs.")] = None,
    fail_if_worse: Annotated[bool, typer.Option("--fail-if-worse", help="Exit 3 if the paired test finds the first worse.")] = False,
    json: Json = False,
) -> None:
    """Measure a model, alone or against another.

    Without --pairs, what was measured on the run's held-out pairs when it was trained is shown.
    """
    from twotower.app import reports
    from twotower.bundle import load
    from twotower.bundle.layout import find_bundle
    from twotower.data.sources import open_source
    from twotower.files import read_json
    from twotower.runs import evaluate as evaluate_pairs
    from twotower.runs import open_run
    from twotower.runs.measuring import compare_on, evaluation_options, facts_of

    if fail_if_worse and against is None:
        raise ConfigError("--fail-if-worse compares: name the other model with --against")
    if pairs is None:
        if against is not None:
            raise ConfigError("--against needs --pairs; to compare two runs on their own test pairs use: twotower compare A B")
        is_bundle = find_bundle(model) == model
        metrics = read_json(model / "model" / "metrics.json") if is_bundle else open_run(model).metrics
        _print_json(metrics) if json else _show(reports.figures(metrics))
        return
    source, retriever = open_source(pairs), load(model)
    options = evaluation_options(retriever)
    if against is None:
        evaluated, asked = evaluate_pairs(retriever, source, options)
        facts = facts_of(retriever, evaluated, asked, options)
        _print_json(facts) if json else _show(reports.figures(facts), *reports.dropped(asked.dropped))
        return
    compared = compare_on([retriever, load(against)], (str(model), str(against)), source, options)
    _print_json(compared) if json else _show(reports.comparison(compared))
    if fail_if_worse and compared.worse(options.select):
        print(f"twotower: {model} is worse than {against} by {options.select}", file=sys.stderr)
        raise typer.Exit(exits.WORSE)


@app.command(epilog=_examples("twotower compare runs/new runs/old"))
def compare(
    a: Annotated[Path, typer.Argument(help="A run.")],
    b: Annotated[Path, typer.Argument(help="Another run that held out the same pairs.")],
    json: Json = False,
) -> None:
    """Compare two runs on the test pairs that both held out."""
    from twotower.app import reports
    from twotower.runs import compare as compare_runs

    compared = compare_runs(a, b)
    _print_json(compared) if json else _show(reports.comparison(compared))


@app.command(epilog=_examples("twotower info runs/first", "twotower info runs/first/bundle --verify"))
def info(
    model: BundlePath, json: Json = False, verify: Annotated[bool, typer.Option("--verify", help="Check every byte of it first.")] = False
) -> None:
    """Say what a bundle is: model, catalogue, features, figures."""
    from twotower import bundle

    if verify:
        bundle.verify(model)
    facts = {**bundle.describe(bundle.open_bundle(model)), "verified": verify}
    if json:
        _print_json(facts)
        return
    from twotower.app import reports

    _show(reports.facts(facts))


# --- look-up ------------------------------------------------------------------------------------------------------


@app.command(
    epilog=_examples(
        'twotower search runs/first "waterproof boots" -k 5',
        "twotower search runs/first country=DE user_id=42",
        "twotower search runs/first --queries users.parquet -k 50 -o found.parquet",
    )
)
def search(
    model: BundlePath,
    query: Annotated[list[str] | None, typer.Argument(help="A question, or columns like country=DE user_id=42.", show_default=False)] = None,
    k: Annotated[int, typer.Option("-k", help="How many items.")] = 10,
    mode: Annotated[str | None, typer.Option(help="vectors, words or hybrid, instead of what validation chose.")] = None,
    queries: Annotated[str | None, typer.Option(help="A file of queries, one a row; the answers go to -o.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="With --queries: the Parquet file to write. After a kill, the same command goes on.")
    ] = None,
    json: Json = False,
) -> None:
    """Find the best items for a question, or for a file of them."""
    if (queries is None) == (not query):
        raise ConfigError('give a question, like: twotower search RUN "waterproof boots"; or a file of them: --queries FILE -o FOUND.parquet')
    if queries is None and output is not None:
        raise ConfigError("-o goes with --queries FILE; one question is answered on the screen, with --json for a program to read")
    if queries is not None and output is None:
        raise ConfigError("--queries needs -o FOUND.parquet for the answers")
    from twotower.bundle import load

    retriever = load(model)
    if queries is not None and output is not None:
        from twotower.app.bulk import search_file
        from twotower.runs.progress import counting

        try:
            with counting("searching") as report:
                wrote = search_file(retriever, queries, output, k, mode, report)
        except KeyboardInterrupt:
            exits.fail("stopped. What is answered is kept; the same command goes on behind it.", exits.STOPPED)
        _wrote(wrote, "answers", output)
        return
    from twotower.app.questions import answers, question, shown_columns

    found = answers(retriever, retriever.search(question(retriever, query or []), k=min(k, len(retriever)), mode=mode))  # type: ignore[arg-type]
    if json:
        _print_json(found)
        return
    from twotower.app import reports

    if not found:
        print("twotower: nothing was found: the model knows nothing of what this query holds", file=sys.stderr)
        return
    _show(reports.found(found, shown_columns(retriever), mode or retriever.bundle.model["search"]["mode"]))


def _wrote(wrote: Wrote, what: str, output: Path) -> None:
    without = f", {wrote.empty:,} of them empty since their rows hold nothing to look for" if wrote.empty else ""
    print(f"wrote {wrote.rows:,} {what} to {output}{without}", file=sys.stderr)


@app.command(epilog=_examples("twotower score runs/first --pairs some.csv", "twotower score runs/first --pairs some.csv -o scores.parquet"))
def score(
    model: BundlePath,
    pairs: Annotated[str, typer.Option(help="A file with the query's columns and the item's id.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The Parquet file to write; without it, lines of JSON are printed.")] = None,
) -> None:
    """Score pairs: the raw similarity of each query with its item."""
    from twotower.app.bulk import score_file
    from twotower.bundle import load
    from twotower.runs.progress import counting

    retriever = load(model)
    with counting("scoring") as report:
        wrote = score_file(retriever, pairs, output, report)
    if output is not None:
        _wrote(wrote, "scores", output)


@app.command(
    epilog=_examples(
        "twotower embed runs/first new_items.jsonl -o vectors.parquet", "twotower embed runs/first questions.csv --side query -o asked.parquet"
    )
)
def embed(
    model: BundlePath,
    rows: Annotated[str, typer.Argument(help="A file with the feature columns of that side.")],
    side: Annotated[str, typer.Option(help="query or item.")] = "item",
    output: Annotated[Path, typer.Option("-o", "--output", help="The Parquet file to write.")] = Path("vectors.parquet"),
) -> None:
    """Write the vectors of queries or items, in the catalogue or not."""
    from twotower.app.bulk import embed_file
    from twotower.bundle import load
    from twotower.runs.progress import counting

    if side not in ("query", "item"):
        raise ConfigError(f'--side is "query" or "item", not "{side}"')
    retriever = load(model)
    with counting("embedding") as report:
        wrote = embed_file(retriever, rows, side, output, report)  # type: ignore[arg-type]
    _wrote(wrote, "vectors", output)


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
