"""Verbs that make a model, and say how to make a better one: demo, init, check, train, tune, forecast."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from twotower.app import exits
from twotower.app.cli.application import Json, Overwrite, Resume, Set, app, examples, loading, print_json, show_parts, tell
from twotower.errors import ConfigError, OutputError


@app.command(
    epilog=examples("twotower demo", "twotower demo --sample goodbooks -o runs/books", "twotower demo -o runs/quick --set train.epochs=1 --no-prompt")
)
def demo(
    sample: Annotated[str, typer.Option(help="Which of the data sets that ship: tldr (search by text) or goodbooks (what to read next).")] = "tldr",
    output: Annotated[Path, typer.Option("-o", "--output", help="The run folder; an earlier demo there is replaced.")] = Path("runs/demo"),
    settings: Set = None,
    json: Json = False,
    prompt: Annotated[bool, typer.Option(help="At a terminal, end in a prompt for questions of your own.")] = True,
) -> None:
    """Train on data that ship with the package, and ask it questions.

    It is compared with baselines on pairs held out, and with word search on questions of strangers.
    """
    with loading():
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
        print_json({"metrics": shown.run.metrics, "strangers": shown.strangers})
        return
    told = shown.sample
    show_parts(f"[bold]{told.name}[/bold]: {told.about} [dim]({told.licence})[/dim]", reports.data(shown.run.metrics["data"]))
    show_parts(reports.figures(shown.run.metrics))
    if shown.strangers:
        show_parts(reports.strangers(shown.strangers, shown.k))
    for answered in shown.answers:
        show_parts(reports.answer(answered))
    asked = f'"{told.strangers[0].query}"' if told.strangers else f"--history {','.join(map(str, told.histories[0]))}"
    show_parts("", reports.plain(f"The run is in {output}. Ask it:"), reports.plain(f"  twotower search {shlex.quote(str(output))} {asked}"))
    if prompt and sys.stdin.isatty() and sys.stdout.isatty():
        ask(shown)


@app.command(
    epilog=examples(
        "twotower init questions.csv", "twotower init clicks.parquet --items products.csv", 'twotower init "logs/*.jsonl.gz" -o shop.toml'
    )
)
def init(
    pairs: Annotated[str, typer.Argument(help="The log of pairs: CSV, TSV, JSONL, Parquet; compressed, a folder or a glob.")],
    items: Annotated[str | None, typer.Option(help="The catalogue of items.")] = None,
    queries: Annotated[str | None, typer.Option(help="A table of what is known of each query, or of each person.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The config to write.")] = Path("twotower.toml"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that is there.")] = False,
) -> None:
    """Look at your files and write a config for them.

    Each choice stands there with its reason; read it before you train.
    """
    with loading():
        from twotower.app.starting import starting_config
        from twotower.files import write_text

    if output.exists() and not overwrite:
        raise OutputError(f"{output} exists. Replace it with --overwrite, or choose another with -o.")
    text = starting_config(pairs, items, output, queries)
    write_text(output, text)
    print(text, end="", flush=True)
    config = shlex.quote(str(output))
    print(f"\nwrote {output}; read it, then: twotower check {config}, and twotower train {config} -o runs/first", file=sys.stderr)


@app.command(
    epilog=examples(
        "twotower check twotower.toml",
        "twotower check twotower.toml -o data.html",
        "twotower check twotower.toml --json",
        "twotower check twotower.toml --set split.by=group",
    )
)
def check(
    config: Annotated[Path, typer.Argument(help="A config; `twotower init` writes one.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write a page instead: report.html or report.md.")] = None,
    settings: Set = None,
    json: Json = False,
) -> None:
    """Examine your data before you train on them.

    Says what is wrong, with counts and examples, what to do about it, and which settings suit. Exit code 3 where training cannot work.
    """
    with loading():
        from twotower.app.checking import check_data
        from twotower.app.reports import suffix_of
        from twotower.app.reports.diagnosis import diagnosis
        from twotower.runs.progress import watching

    if output is not None:
        suffix_of(output)  # said before any work
    _check_is_config(config, "check")
    with watching() as progress:
        found = check_data(config, settings or [], progress=progress.stage)
    tell(diagnosis(found, str(config)), found, output, json)
    if found.stops:
        raise typer.Exit(exits.WORSE)


@app.command(
    epilog=examples(
        "twotower train twotower.toml -o runs/first",
        "twotower train twotower.toml -o runs/wide --set model.dimensions=512 --set train.epochs=3",
        "twotower train twotower.toml -o runs/first --resume",
        "twotower train twotower.toml -o runs/week2 --from runs/week1",
        "twotower train twotower.toml --dry-run",
        "torchrun --standalone --nproc-per-node 2 -m twotower train twotower.toml -o runs/first",
    )
)
def train(
    config: Annotated[Path, typer.Argument(help="A config; `twotower init` writes one.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The run folder; by default a new one under runs/.")] = None,
    settings: Set = None,
    last: Annotated[
        Path | None, typer.Option("--from", metavar="RUN|BUNDLE", help="Go on from the weights of a finished run of the same features and model.")
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write losses and figures for TensorBoard, into the run folder.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would take - memory, time, disk - and train nothing.")] = False,
    json: Json = False,
) -> None:
    """Train a model, measure it beside baselines, write its bundle.

    Ctrl-C finishes the step and saves; --resume goes on from there. With --from, next week's log is learnt on last week's model, in a
    part of the epochs ([train] again): what it knows keeps its vectors, and what is new is added. Several processes or cards train one
    model under torchrun.
    """
    with loading():
        from twotower.app import reports
        from twotower.learning.distributed import is_first, local_count, several, together
        from twotower.runs import train as train_run
        from twotower.runs.progress import watching
        from twotower.runs.run import Stopped

    with together():  # of several processes that would all say the same one does
        _check_orders(config, output, resume, overwrite, tensorboard, dry_run)
    if dry_run:
        _estimate(config, settings or [], output, last, json)
        return
    folder = output or Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    started = ["torchrun", "--standalone", "--nproc-per-node", str(local_count()), "-m"] if several() else []
    begun = [] if last is None else ["--from", str(last)]
    overrides = [word for setting in settings or [] for word in ("--set", setting)]
    board = ["--tensorboard"] if tensorboard else []
    again = shlex.join([*started, "twotower", "train", str(config), "-o", str(folder), *begun, *board, *overrides])
    try:
        with watching() as progress:
            run = train_run(
                config=config,
                settings=settings or [],
                output=folder,
                last=last,
                resume=resume,
                overwrite=overwrite,
                tensorboard=tensorboard,
                progress=progress,
            )
    except Stopped as stopped:
        raise Stopped(f"{str(stopped).partition('. ')[0]}. Go on with:\n  {again} --resume") from None
    except KeyboardInterrupt:
        saved = (folder / "checkpoint.safetensors").exists()
        exits.fail(
            f"stopped. {'Go on with' if saved else 'Nothing was trained yet; begin again with'}:\n  {again} {'--resume' if saved else '--overwrite'}",
            exits.STOPPED,
        )
    if not is_first():
        return
    if json:
        print_json(run.metrics)
        return
    show_parts(reports.data(run.metrics["data"]), reports.figures(run.metrics))
    show_parts("", reports.plain(f"The run is in {run.folder}, its bundle in {run.folder / 'bundle'}."))


@app.command(
    epilog=examples(
        "twotower tune twotower.toml --budget 30m",
        "twotower tune twotower.toml --trials 20 -o runs/tuned",
        "twotower tune twotower.toml -o runs/tuned --resume",
        "twotower report runs/tuned",
    )
)
def tune(
    config: Annotated[Path, typer.Argument(help="A config; `twotower init` writes one.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder of the study.")] = Path("runs/tuned"),
    budget: Annotated[str | None, typer.Option(help="How long it may take in all, like 30m or 2h; by default 30m, or what [tune] says.")] = None,
    trials: Annotated[int | None, typer.Option(min=2, help="How many settings are tried, at most.")] = None,
    settings: Set = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Search for better settings, on validation pairs.

    Your config is trial one. The best few and your config are then trained with other seeds, and only what is surely better takes its place; the
    test pairs are opened once, at the end. Ctrl-C keeps what was tried, --resume goes on. The same command with --resume in another terminal
    helps with trials. Searched are settings that suit your data, or those that [tune] space of the config names.
    """
    with loading():
        from twotower.app.reports.terminal import terminal
        from twotower.app.reports.tuned import tuned
        from twotower.runs import tune as tune_config
        from twotower.runs.progress import watching
        from twotower.runs.run import Stopped

    if resume and overwrite:
        raise ConfigError("--resume continues a study and --overwrite replaces it: choose one")
    _check_is_config(config, "tune")
    said = [*(settings or [])] + [f"tune.budget='{budget}'"] * (budget is not None) + [f"tune.trials={trials}"] * (trials is not None)
    again = _again("tune", config, output, {"--budget": budget, "--trials": trials}, settings)
    try:
        with watching() as progress:
            found = tune_config(config=config, settings=said, output=output, resume=resume, overwrite=overwrite, progress=progress)
    except Stopped as stopped:
        raise Stopped(f"{str(stopped).partition('. ')[0]}. Go on with:\n  {again} --resume") from None
    except KeyboardInterrupt:
        exits.fail(f"stopped. Go on with:\n  {again} --resume", exits.STOPPED)
    if not (output / "tuning.json").exists():
        print(f"helped with trials; whoever began the study in {output} finishes it", file=sys.stderr)
    elif json:
        print_json(found.result)
    else:
        show_parts(terminal(tuned(found.result, str(output))))


@app.command(
    epilog=examples(
        "twotower forecast twotower.toml --budget 20m",
        "twotower forecast twotower.toml --target 0.6 -o runs/forecast",
        "twotower forecast twotower.toml -o runs/forecast --resume",
        "twotower forecast --like text --items 50000",
        "twotower report runs/forecast",
    )
)
def forecast(
    config: Annotated[Path | None, typer.Argument(help="A config; `twotower init` writes one.", show_default=False)] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The folder of the forecast; by default runs/forecast.")] = None,
    budget: Annotated[str | None, typer.Option(help="How long it may take, like 20m or 2h; by default 20m.")] = None,
    target: Annotated[float | None, typer.Option(help="A value of the selecting metric: how much data would it take?")] = None,
    like: Annotated[str | None, typer.Option(help="Instead, before there are data: what logs of a kind needed, text or interactions.")] = None,
    items: Annotated[int | None, typer.Option(help="With --like: how many items there will be.")] = None,
    settings: Set = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Say whether more data would help, and what else would.

    Trains on parts of your data, fits the curve that they lie on, and says what 2, 5 and 10 times as much would bring, with intervals: more
    queries, or more pairs of each. Beside it stands what a wider model, dropout, a warm start or a pretrained encoder bring now. All of it on
    validation pairs, by vectors.
    """
    with loading():
        from twotower.app.reports.forecasted import forecasted, likened
        from twotower.app.reports.terminal import terminal
        from twotower.learning.growth import like as known
        from twotower.runs import forecast as forecast_config
        from twotower.runs.progress import watching
        from twotower.runs.run import Stopped

    if like is not None:
        if config is not None or items is None:
            raise ConfigError("--like is for before there are data: twotower forecast --like text --items 50000")
        if output or budget or target is not None or settings or resume or overwrite:
            raise ConfigError("--like trains nothing, so beside it stands only --items, or --json: twotower forecast --like text --items 50000")
        found_like = known(like, items)
        print_json(found_like) if json else show_parts(terminal(likened(found_like, like, items)))
        return
    if config is None or items is not None:
        raise ConfigError("forecast takes a config, or --like and --items: twotower forecast twotower.toml, or --like text --items 50000")
    if resume and overwrite:
        raise ConfigError("--resume continues a forecast and --overwrite replaces it: choose one")
    _check_is_config(config, "forecast")
    folder = output or Path("runs/forecast")
    again = _again("forecast", config, folder, {"--budget": budget, "--target": target}, settings)
    try:
        with watching() as progress:
            found = forecast_config(
                config=config,
                settings=settings or [],
                budget=budget or "20m",
                target=target,
                output=folder,
                resume=resume,
                overwrite=overwrite,
                progress=progress,
            )
    except Stopped as stopped:
        raise Stopped(f"{str(stopped).partition('. ')[0]}. Go on with:\n  {again} --resume") from None
    except KeyboardInterrupt:
        exits.fail(f"stopped. Go on with:\n  {again} --resume", exits.STOPPED)
    if json:
        print_json(found.result)
    else:
        show_parts(terminal(forecasted(found.result, str(folder))))


def _again(verb: str, config: Path, output: Path, options: Mapping[str, object], settings: list[str] | None) -> str:
    """The command that was given, by which what was stopped goes on."""
    given = [word for name, value in options.items() if value is not None for word in (name, str(value))]
    return shlex.join(["twotower", verb, str(config), "-o", str(output), *given, *(word for one in settings or [] for word in ("--set", one))])


def _check_is_config(path: Path, verb: str) -> None:
    """Raise ConfigError for a file of data where a config is needed."""
    if path.suffix != ".toml" and path.is_file():
        again = shlex.join(["twotower", "init", str(path), "-o", "twotower.toml"])
        raise ConfigError(f"{verb} takes a config and {path} is none. Write one, if that is the log of pairs: {again}")


def _check_orders(config: Path, output: Path | None, resume: bool, overwrite: bool, tensorboard: bool, dry_run: bool) -> None:
    """Raise ConfigError for what cannot be meant together."""
    from twotower.learning.distributed import several

    if resume and output is None:
        raise ConfigError("--resume needs the run to continue: -o RUN")
    if resume and overwrite:
        raise ConfigError("--resume continues a run and --overwrite replaces it: choose one")
    _check_is_config(config, "train")
    if dry_run and several():
        raise ConfigError("--dry-run tries what one process takes: ask without torchrun")
    if dry_run and (resume or overwrite or tensorboard):
        raise ConfigError("--dry-run writes no run, so it goes with none of --resume, --overwrite and --tensorboard")
    if several() and output is None:
        raise ConfigError("several processes train one model in one run folder: name it with -o RUN")


def _estimate(config: Path, settings: list[str], output: Path | None, last: Path | None, json: bool) -> None:
    from twotower.app import reports
    from twotower.runs import estimate
    from twotower.runs.progress import watching

    with watching() as progress:
        told = estimate(config, settings, output=output, last=last, progress=progress)
    if json:
        print_json(told)
    else:
        show_parts(reports.estimate(told))
