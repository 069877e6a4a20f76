"""The command line: each verb calls one function of the package and prints what it returns.

stdout carries the result only; progress goes to stderr. To add a verb: a function in the module of its group, with its examples, and
its import here. Help lists the verbs in the order of these imports.
"""

import atexit
import os
import sys
import threading

from twotower.app import exits
from twotower.app.cli.application import app
from twotower.app.cli.growing import compact, index, refresh, rollback, versions
from twotower.app.cli.making import check, demo, forecast, init, train, tune
from twotower.app.cli.measuring import compare, drift, evaluate, info, report
from twotower.app.cli.searching import embed, score, search

# isort: split
from twotower.app.cli.exporting import export
from twotower.app.cli.serving import publish, serve

__all__ = [
    "app",
    "check",
    "compact",
    "compare",
    "demo",
    "drift",
    "embed",
    "evaluate",
    "export",
    "forecast",
    "index",
    "info",
    "init",
    "main",
    "publish",
    "refresh",
    "report",
    "rollback",
    "score",
    "search",
    "serve",
    "train",
    "tune",
    "versions",
]


def main() -> None:
    """Run the verb of the command line."""
    exits.run(app, sys.argv[1:] or ["--help"])


def command() -> None:
    """What the shell runs: `main`, and the end at once after an error, or where a thread is left.

    A thread that is still at work when the interpreter goes down, of a reader or of a server, aborts the process, and the exit code would be lost.
    """
    code = 0
    try:
        main()
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            raise
        code = end.code or 0
    if code or any(thread.daemon for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        atexit._run_exitfuncs()  # what is set aside in temporary folders is removed there
        os._exit(code)
