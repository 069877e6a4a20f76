"""Verbs that say how good a model is, still is, and what it is: evaluate, drift, compare, report, info."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from twotower.app import exits
from twotower.app.cli.application import BundlePath, Json, app, examples, loading, print_json, show_parts, tell
from twotower.errors import ConfigError


@app.command(
    epilog=examples(
        "twotower evaluate runs/first",
        "twotower evaluate runs/first --slices",
        "twotower evaluate runs/first --features",
        "twotower evaluate runs/first --index hnsw",
        "twotower evaluate runs/first --pairs newer_clicks.csv",
        "twotower evaluate runs/new --pairs newer_clicks.csv --against runs/old --fail-if-worse",
    )
)
def evaluate(
    model: BundlePath,
    pairs: Annotated[str | None, typer.Option(help="Pairs to measure on; without them, a run's own figures are shown.")] = None,
    against: Annotated[Path | None, typer.Option(help="Another run or bundle to compare with on the same pairs.")] = None,
    fail_if_worse: Annotated[bool, typer.Option("--fail-if-worse", help="Exit 3 if the paired test finds the first worse.")] = False,
    slices: Annotated[bool, typer.Option("--slices", help="Also where it does well and where not: rare items, new keys, short queries ...")] = False,
    features: Annotated[bool, typer.Option("--features", help="Instead: what each feature of a run is worth, on its validation pairs.")] = False,
    index: Annotated[
        str | None, typer.Option(help="Instead: what an approximate index (hnsw, ivf, int8, pq) loses against exact search, and saves.")
    ] = None,
    json: Json = False,
) -> None:
    """Measure a model, alone or against another.

    Without --pairs, what was measured on the run's held-out pairs when it was trained is shown.
    """
    with loading():
        from twotower.app import reports
        from twotower.bundle import load
        from twotower.bundle.layout import find_bundle
        from twotower.data.sources import open_source
        from twotower.files import read_json
        from twotower.runs import evaluate as evaluate_pairs
        from twotower.runs import open_run
        from twotower.runs.comparing import compare_on
        from twotower.runs.measuring import evaluation_options, facts_of

    if fail_if_worse and against is None:
        raise ConfigError("--fail-if-worse compares: name the other model with --against")
    if features or index is not None:
        if pairs is not None or against is not None or slices or (features and index is not None):
            raise ConfigError("--features and --index are each of a run and its own validation pairs: ask for one of them, and nothing beside it")
        _features(model, json) if index is None else _index(model, index, json)
        return
    if slices and against is not None:
        raise ConfigError("--slices is of one model: ask without --against")
    if pairs is None:
        if against is not None:
            raise ConfigError("--against needs --pairs; to compare two runs on their own test pairs use: twotower compare A B")
        bundle = find_bundle(model)
        metrics = open_run(model).metrics if bundle == model / "bundle" else read_json(bundle / "model" / "metrics.json")
        if slices and "slices" not in metrics:
            raise ConfigError(f"{model} was trained by a version that knew no slices; measure it on pairs: twotower evaluate {model} --pairs FILE")
        print_json(metrics) if json else show_parts(reports.figures(metrics), *([reports.slices(metrics)] if slices else []))
        return
    source, retriever = open_source(pairs), load(model)
    options = evaluation_options(retriever)
    if against is None:
        evaluated, asked = evaluate_pairs(retriever, source, options)
        facts = facts_of(retriever, evaluated, asked, options)
        if asked.strangers:
            print(f"twotower: {asked.strangers}", file=sys.stderr)
        parts = [reports.figures(facts), *([reports.slices(facts)] if slices else []), *reports.dropped(asked.dropped)]
        print_json(facts) if json else show_parts(*parts)
        return
    compared = compare_on([retriever, load(against)], (str(model), str(against)), source, options)
    print_json(compared) if json else show_parts(reports.comparison(compared))
    if fail_if_worse and compared.worse(options.select):
        print(f"twotower: {model} is worse than {against} by {options.select}", file=sys.stderr)
        raise typer.Exit(exits.WORSE)


def _features(model: Path, json: bool) -> None:
    """Print what each feature of a run is worth."""
    with loading():
        from twotower.app import reports
        from twotower.runs import open_run
        from twotower.runs.progress import watching
        from twotower.runs.worth import worth

    with watching() as progress:
        found = worth(open_run(model), progress.stage)
    print_json(found) if json else show_parts(reports.features(found))


def _index(model: Path, index: str, json: bool) -> None:
    """Print what an approximate index of a run loses and saves."""
    with loading():
        from twotower.app import reports
        from twotower.runs import open_run
        from twotower.runs.approximation import approximation
        from twotower.runs.progress import watching

    with watching() as progress:
        found = approximation(open_run(model), index, progress.stage)
    print_json(found) if json else show_parts(reports.approximate(found))


@app.command(
    epilog=examples(
        "twotower drift production --pairs last_week.csv",
        "twotower drift production --pairs last_week.csv --tolerance 0.1 --json",
        "twotower drift production --pairs last_week.csv -o drift.html",
    )
)
def drift(
    model: BundlePath,
    pairs: Annotated[str, typer.Option(help="Newer pairs, with the columns that the model reads.", show_default=False)],
    tolerance: Annotated[float, typer.Option(help="How far the selecting metric may fall, as a part of what it was at launch.")] = 0.05,
    unknown: Annotated[float, typer.Option(help="How much the share of pairs may grow of whose query or item the model knows nothing.")] = 0.1,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write a page instead: drift.html or drift.md.")] = None,
    json: Json = False,
) -> None:
    """Say whether the data have moved so far that training again pays. Exit 3 if it does.

    Needs the bundle alone: the metric on newer pairs against that of launch, what the model does not know, and what has moved.
    """
    with loading():
        from twotower.app.reports import suffix_of
        from twotower.app.reports.drifted import drifted
        from twotower.runs import drift as look

        if output is not None:
            suffix_of(output)
    told = look(model, pairs, tolerance=tolerance, unknown=unknown)
    tell(drifted(told), told, output, json)
    if told.pays:
        raise typer.Exit(exits.WORSE)


@app.command(epilog=examples("twotower compare runs/new runs/old"))
def compare(
    a: Annotated[Path, typer.Argument(help="A run.")],
    b: Annotated[Path, typer.Argument(help="Another run that held out the same pairs.")],
    json: Json = False,
) -> None:
    """Compare two runs on the test pairs that both held out."""
    with loading():
        from twotower.app import reports
        from twotower.runs import compare as compare_runs

    compared = compare_runs(a, b)
    print_json(compared) if json else show_parts(reports.comparison(compared))


@app.command(
    epilog=examples(
        "twotower report runs/first",
        "twotower report runs/first -o first.html",
        "twotower report runs/first -o first.md",
        "twotower report runs/first --against runs/second",
        "twotower report runs/first --forecast runs/forecast",
        "twotower report runs/tuned",
    )
)
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN|STUDY|FORECAST", help="A finished run, study of `tune` or forecast.", show_default=False)],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The page: report.html or report.md; by default in the run folder.")] = None,
    against: Annotated[list[Path] | None, typer.Option(help="Another run to stand beside it; may be given several times.")] = None,
    forecast: Annotated[Path | None, typer.Option(help="A forecast from the same data, to be told in the report of the run.")] = None,
) -> None:
    """Write what a run, a study or a forecast came to as one page.

    Figures beside baselines, slices, curves, the best and the worst test questions, a map of the items, the config. The page needs nothing else.
    """
    with loading():
        from twotower.app.reporting import account_of
        from twotower.app.reports import render, suffix_of
        from twotower.app.reports.account import account
        from twotower.app.reports.forecasted import forecasted
        from twotower.app.reports.tuned import tuned
        from twotower.files import read_json, write_text
        from twotower.runs.progress import watching

    place = output or run / "report.html"
    suffix_of(place)  # said before any work
    with watching() as progress:
        others = {"tuning.json": tuned, "forecast.json": forecasted}
        found = next((name for name in others if (run / name).exists()), None)
        if found is not None and (against or forecast):
            raise ConfigError(f"{run} is no run, and runs alone are told with others, or with a forecast: leave out --against and --forecast")
        if found is None:
            document = account(account_of(run, progress.stage, against or [], forecast))
        else:
            document = others[found](read_json(run / found), str(run))
        write_text(place, render(document, place))
    print(f"{document.verdict}\nwrote {place}", file=sys.stderr)


@app.command(epilog=examples("twotower info runs/first", "twotower info runs/first/bundle --verify"))
def info(
    model: BundlePath, json: Json = False, verify: Annotated[bool, typer.Option("--verify", help="Check every byte of it first.")] = False
) -> None:
    """Say what a bundle is: model, catalogue, features, figures."""
    from twotower import bundle

    if verify:
        bundle.verify(model)
    facts = {**bundle.describe(bundle.open_bundle(model, alone=True)), "verified": verify}
    if json:
        print_json(facts)
        return
    from twotower.app import reports

    show_parts(reports.facts(facts))
