"""What stands out in a run, each with its figure and what to do next.

To add one: a function from a `Case` to a Statement or None, and its name in `SIGNS`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from twotower.app.reports.documents import Statement

if TYPE_CHECKING:
    from twotower.app.reporting import Account

RISE, FALL = 0.01, 0.02  # of a metric, in proportion
LEARNT = 0.5  # of the loss at the best epoch: below, what is learnt later is the training pairs themselves
TEMPERATURES = (0.01, 0.5)
LIFT, HUB, COVERAGE, NEVER = 1.5, 0.2, 0.05, 0.3
FEW = 200  # rankings
MANY = 100  # items, below which lists hold a good part of them anyway


class Case(NamedTuple):
    """What is known of a run."""

    metrics: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]  # one entry a validated epoch
    commonest: Sequence[tuple[str, int]]
    config: Mapping[str, Any]

    @property
    def select(self) -> str:
        """The metric that decides."""
        return str(self.metrics["evaluation"]["select"])


def signs(told: Account) -> list[Statement]:
    """All that stands out."""
    history = [entry for entry in told.history if told.metrics["evaluation"]["select"] in entry]
    case = Case(told.metrics, history, told.commonest, tomllib.loads(told.config))
    return [found for sign in SIGNS if (found := sign(case)) is not None]


def still_rising(case: Case) -> Statement | None:
    """The last of all epochs was the best, by a good deal."""
    epochs, history = case.config["train"]["epochs"], case.history
    if len(history) < 2 or history[-1]["epoch"] < epochs or case.metrics["training"]["best_epoch"] != history[-1]["epoch"]:
        return None
    before, last = history[-2][case.select], history[-1][case.select]
    if last < before * (1 + RISE):
        return None
    title = f"It was still getting better when its epochs ended: {case.select} {before:.3f} -> {last:.3f} in the last."
    return Statement("warning", title, f"Train longer: --set train.epochs={2 * epochs}")


def learnt_by_heart(case: Case) -> Statement | None:
    """After the best epoch the loss went on falling, and the metric fell."""
    best = next((entry for entry in case.history if entry["epoch"] == case.metrics["training"]["best_epoch"]), None)
    if best is None or best is case.history[-1] or not best["loss"]:
        return None
    last = case.history[-1]
    if last["loss"] > LEARNT * best["loss"] or last[case.select] > best[case.select] * (1 - FALL):
        return None
    title = (
        f"It began to learn its training pairs by heart: from epoch {best['epoch']} to {last['epoch']} the loss fell from {best['loss']:.3g} to "
        f"{last['loss']:.3g}, and {case.select} from {best[case.select]:.3f} to {last[case.select]:.3f}."
    )
    return Statement("note", title, "The best epoch is kept. Dropout of words and ids may help, and more data: twotower forecast says which.")


def temperature(case: Case) -> Statement | None:
    """What similarities were divided by in the end is far from what is usual."""
    value = case.metrics["training"].get("temperature")
    if value is None or TEMPERATURES[0] <= value <= TEMPERATURES[1]:
        return None
    where = "below" if value < TEMPERATURES[0] else "above"
    advice = "Only the hardest negatives count then." if where == "below" else "All negatives count alike then, as if nothing could be told apart."
    return Statement("warning", f"The temperature ended at {value:.3g}, {where} what is usual ({TEMPERATURES[0]} to {TEMPERATURES[1]}).", advice)


def popular(case: Case) -> Statement | None:
    """What is shown is more popular than what is chosen."""
    lift = case.metrics.get("lists", {}).get("of", {}).get("model", {}).get("lift")
    if lift is None or lift < LIFT:
        return None
    off = case.config["train"].get("correction") is False
    advice = "The sampling correction is off: try --set train.correction=true" if off else "Look at its rank beside popularity in the table above."
    return Statement("note", f"Its lists hold items {lift:.1f} times as popular as those that people asked for.", advice)


def hub(case: Case) -> Statement | None:
    """One item crowds into the lists of many."""
    lists = case.metrics.get("lists", {})
    if not case.commonest or not lists.get("lists") or case.metrics["data"]["items"] < MANY:
        return None
    name, count = case.commonest[0]
    share = count / lists["lists"]
    if share < HUB:
        return None
    return Statement("warning", f"{name} is in {share:.0%} of all lists.", "If it is not right for so many, look at what it says: twotower check.")


def unseen(case: Case) -> Statement | None:
    """Hardly any of the catalogue is ever shown."""
    coverage = case.metrics.get("lists", {}).get("of", {}).get("model", {}).get("coverage")
    if coverage is None or coverage > COVERAGE or case.metrics["data"]["items"] < MANY:
        return None
    title = f"Only {coverage:.1%} of the catalogue is in any of {case.metrics['lists']['lists']:,} lists."
    return Statement("note", title, "With few questions that is as it must be; with many, a few items crowd out the rest.")


def nameless(case: Case) -> Statement | None:
    """Items that nobody matched are known by nothing but an id."""
    data, features = case.metrics["data"], case.config["item"]["features"]
    share = data["items_without_pairs"] / max(1, data["items"])
    if share < NEVER or any(feature["type"] != "id" for feature in features):
        return None
    title = f"{share:.0%} of the catalogue have no training pair, and an item is known here by its id alone."
    return Statement("warning", title, "They cannot be found. Name what is known of items - titles, categories, vectors - in [item] features.")


def few(case: Case) -> Statement | None:
    """The test part is too small to tell models apart."""
    told, figure = case.metrics["evaluation"], case.metrics["model"][case.select]
    if told["rankings"] >= FEW:
        return None
    title = f"{told['rankings']:,} rankings decide, so {case.select} is known to {(figure['high'] - figure['low']) / 2:.3f} either way."
    return Statement("note", title, "Hold out more, or measure on other pairs: twotower evaluate RUN --pairs FILE")


SIGNS: tuple[Callable[[Case], Statement | None], ...] = (still_rising, learnt_by_heart, nameless, hub, temperature, popular, unseen, few)
