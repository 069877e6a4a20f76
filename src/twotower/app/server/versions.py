"""Which model and which version of its catalogue answers.

A request takes one reference, to a `Served`, when it begins, and everything that it is answered with comes from there; a new version is another
`Served` that takes the place of the first. So no answer is of two versions, and none waits for a switch. A replica only reads: whoever publishes
moves the pointer of a bundle, and `Watch` follows it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from twotower.app.server.problems import Fault, Problem, traced
from twotower.app.server.shown import Shown
from twotower.bundle import Retriever, load
from twotower.bundle.layout import in_use
from twotower.bundle.loading import check_golden
from twotower.errors import ConfigError, TwotowerError

logger = logging.getLogger("twotower.server")

AGAIN = 60.0  # seconds until what could not serve is tried again where nothing else is pointed at: a disk may be back, a file may be mended


@dataclass(frozen=True, eq=False)
class Served:
    """One model with one version of its catalogue, which never change. model: the beginning of its fingerprint. kept: what was made of it once."""

    variant: str
    retriever: Retriever
    model: str
    version: str
    shown: Shown
    kept: dict[str, bytes] = field(default_factory=dict)


def served(variant: str, retriever: Retriever) -> Served:
    """A retriever ready to answer: it reads its golden queries as where it was made, and has searched once. Raises BundleError."""
    check_golden(retriever)
    found = Served(variant, retriever, retriever.bundle.fingerprint[:16], retriever.bundle.version, Shown(retriever.catalogue))
    if retriever.catalogue.worded:
        retriever.catalogue.lexical  # noqa: B018 - weighed when it is first read, which the first caller would wait for
    if len(retriever):
        retriever.similar(retriever.catalogue.ids[0].as_py(), k=1)
    return found


class _Refused(NamedTuple):
    """What could not serve. leads: where the pointers led, None where they cannot be read. until: by the monotonic clock, when it is tried again."""

    leads: tuple[Path, str, str] | None
    why: str
    until: float


class Variants:
    """The models that answer, by their names, each at the version that it has now. Safe to share between threads."""

    def __init__(self, places: Mapping[str, Path], *, threads: int | None = None, index: str = "auto") -> None:
        if not places:
            raise ConfigError("nothing is served; name a bundle")
        self._places = dict(places)
        self._refused: dict[str, _Refused] = {}  # each is said once, and loaded again only after a while: that takes as much as what serves
        self._now = {name: served(name, load(place, threads=threads, index=index)) for name, place in places.items()}

    @property
    def now(self) -> dict[str, Served]:
        """All of them, the one that answers by default first."""
        return self._now

    def chosen(self, variant: str | None, key: str | None) -> Served:
        """The one that is asked for by name, or that the key falls to: the same key always to the same. Raises Problem."""
        now = self._now
        if variant is not None:
            if variant not in now:
                raise Problem(422, "there is no such variant", [Fault("variant", f"the choices are: {', '.join(now)}")])
            return now[variant]
        if key is None or len(now) == 1:
            return next(iter(now.values()))
        # By rendezvous: another variant beside them takes keys from all alike and moves no others (Thaler and Ravishankar 1998).
        return max(now.values(), key=lambda each: blake2b(f"{each.variant}\0{key}".encode(), digest_size=8).digest())

    def renew(self) -> list[tuple[str, bool]]:
        """Take what the pointers name now. For each that has moved: its variant, and whether it answers now; if not, the one before goes on.

        One thread may call this.
        """
        told = []
        for name, before in self._now.items():
            refused, leads = self._refused.get(name), None
            try:
                leads = in_use(self._places[name])
                if refused is not None and refused.leads == leads and time.monotonic() < refused.until:
                    continue
                newest = before.retriever.newest()
                after = before if newest is before.retriever else served(name, newest)
            except Exception as error:  # whatever it is: the one before goes on, and so do the others
                why = str(error) if isinstance(error, (TwotowerError, OSError)) else traced(error)
                if refused is None or (refused.leads, refused.why) != (leads, why):
                    logger.warning("the new version of %s cannot serve, the one before goes on: %s", name, why)
                    told.append((name, False))
                self._refused[name] = _Refused(leads, why, time.monotonic() + AGAIN)
                continue
            self._refused.pop(name, None)
            if after is not before:
                self._now = {**self._now, name: after}
                logger.info("%s answers with model %s, catalogue version %s", name, after.model, after.version)
                told.append((name, True))
        return told


class Watch:
    """Looks for newer versions again and again, in a thread of its own, until it is stopped."""

    def __init__(self, variants: Variants, seconds: float, report: Callable[[str, bool], None]) -> None:
        self._variants, self._seconds, self._report = variants, seconds, report
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Look no more; what is being loaded is waited for so long."""
        self._stop.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                for variant, answers in self._variants.renew():
                    self._report(variant, answers)
            except Exception as error:  # a fault of ours must not end the watch unseen
                logger.error("looking for a newer version failed: %s", traced(error))
