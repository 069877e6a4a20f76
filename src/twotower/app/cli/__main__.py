"""`python -m twotower.app.cli`: the same as the command `twotower`."""

from twotower.app.cli import command

command()
