"""Turns whatever ends a command into one message on stderr and an exit code.

0 is success, 1 a fault of ours, 2 the user's mistake, 3 a gate that said no, 130 Ctrl-C.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from typing import NoReturn

import typer

from twotower.errors import Elsewhere, TwotowerError

FAULT, MISTAKE, WORSE, STOPPED = 1, 2, 3, 130
# What a full or forbidden place answers, whichever file it was that could not be written.
PLACES = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


def run(app: typer.Typer, arguments: list[str]) -> None:
    """Run the command of an app that these arguments name, and leave with its exit code."""
    _ready_streams()
    try:
        _run(app, arguments)
        sys.stdout.flush()
    except Elsewhere as ended:
        time.sleep(1.0)  # torchrun ends all once one has ended: let the one that speaks have spoken
        sys.exit(STOPPED if ended.stopped else MISTAKE)
    except TwotowerError as error:
        fail(str(error), STOPPED if type(error).__name__ == "Stopped" else MISTAKE)
    except (KeyboardInterrupt, typer.Abort):
        fail("stopped", STOPPED)
    except BrokenPipeError:
        _forget_stdout()  # whoever read us, like `head`, has enough
    except MemoryError:
        fail("the memory does not suffice. Close what else uses it, or take a smaller [train] batch_size or [machine] memory.", MISTAKE)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in PLACES:
            _forget_stdout()
            fail(f"cannot write {error.filename or 'the output'}: {error.strerror}", MISTAKE)
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            fail(f"a path is too long for this system: {str(error.filename)[:200]} ...", MISTAKE)
        if hasattr(error, "format_message"):  # what click says of a wrong command line
            verb = getattr(getattr(error, "ctx", None), "command_path", "twotower")
            fail(f"{error.format_message().strip().rstrip('.')}. Try: {verb} --help", MISTAKE)
        import traceback

        traceback.print_exc()
        fail(f"this is a fault of twotower, not yours: {type(error).__name__}. Please report it with the lines above.", FAULT)


def _ready_streams() -> None:
    """Streams that take any text, and are there."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by whoever started us, as `>&-` does
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A terminal shows ? for what it cannot draw; files and pipes are UTF-8 whatever the locale.
            stream.reconfigure(errors="replace") if stream.isatty() else stream.reconfigure(encoding="utf-8", errors="replace")


def _run(app: typer.Typer, arguments: list[str]) -> None:
    """Run one verb; leaves by itself where the verb has an exit code to give."""
    # Not `app()`: that swallows exit codes or errors, according to its version.
    try:
        with typer.main.get_command(app).make_context("twotower", arguments) as context:
            context.command.invoke(context)
    except typer.Exit as stop:
        sys.stdout.flush()
        sys.exit(stop.exit_code)


def fail(message: str, code: int) -> NoReturn:
    """Say what was wrong and leave."""
    print(f"twotower: {message}", file=sys.stderr)
    sys.exit(code)


def _forget_stdout() -> None:
    """Send what is left in the buffer of stdout nowhere, so that the interpreter's last flush does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
