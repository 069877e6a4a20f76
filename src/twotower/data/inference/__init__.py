"""Guesses a schema from a look at the data, and says why: what `init` writes and what `train` uses when told nothing.

names: what the name of a column says; looks: what its first rows show; readings: as which feature it is read; links: which column of the
log names the rows of a table; roles: times, labels, weights, parts; sides: the features; guesses: the whole. To have a column read in
another way, add to the chain in `readings.read`.
"""

from twotower.data.inference.guesses import Guess, infer

__all__ = ["Guess", "infer"]
