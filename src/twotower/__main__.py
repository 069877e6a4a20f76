"""`python -m twotower`: the same as the command `twotower`; torchrun starts it by this name."""

from twotower.app.cli import command

command()
