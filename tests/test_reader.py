"""Reading ahead changes nothing but the time, and never outlives whoever reads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from twotower.learning.reader import DEPTH, ahead


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("reader")]


@pytest.mark.parametrize("n", [0, 1, DEPTH, DEPTH + 1, 50])
def test_all_is_given_in_its_order(n):
    assert list(ahead(iter(range(n)))) == list(range(n))
    assert not readers()


def test_it_is_made_while_the_last_one_is_worked_on_and_never_far_ahead():
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(100):
            made.append(threading.get_ident())
            yield number

    given = ahead(numbers())
    next(given)
    for _ in range(200):
        if len(made) == DEPTH + 1:
            break
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(made) == DEPTH + 1
    assert threading.get_ident() not in made
    given.close()
    assert not readers()


def test_an_error_in_reading_is_raised_where_it_is_read():
    def broken() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError("while reading")

    given = ahead(broken())
    assert next(given) == 1
    with pytest.raises(ZeroDivisionError, match="while reading"):
        next(given)
    assert not readers()
