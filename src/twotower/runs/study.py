"""A study: settings tried one after another by one or several processes, kept in a journal that outlives them.

Trial one is the config as it is, trial two what the doctor advises. Trials that are behind the median of the others at the same epoch are
stopped (Optuna, Akiba et al. 2019; TPE, Bergstra et al. 2011).
"""

from __future__ import annotations

import math
import os
import platform
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import twotower.runs.spaces as spaces
from twotower import files
from twotower.config import Config
from twotower.data.doctor import Asked, examine
from twotower.data.prepared import Prepared
from twotower.errors import BundleError, ConfigError, DataError
from twotower.learning.options import seconds_of
from twotower.runs.estimates import probe
from twotower.runs.progress import Progress
from twotower.runs.run import Stopped, begun_of
from twotower.runs.signals import interrupts
from twotower.runs.spaces import Space
from twotower.runs.trials import Shop, prepared_for, tried

if TYPE_CHECKING:
    import optuna

STUDY = "twotower"
RUN = 1.3  # trainings that a run at the end takes, with its export and evaluation
BROKEN_OFF = "broken off"  # for want of time
REPEATED = "repeated"  # what was trained before: it would come to the same
IDLE = 20  # trials in a row that train nothing, after which there is nothing left to try
LOOK = 1.0  # seconds between two looks at whether the search is over
FEW = 3  # of the best trials, whose time says what the end will take
BEFORE_PRUNING = 3  # trials, and as many of them at an epoch


class Study:
    """One process at work on the study of a folder."""

    def __init__(self, folder: Path, chosen: Config, shop: Shop) -> None:
        self.folder, self.chosen, self.shop = folder, chosen, shop
        self.budget = seconds_of(chosen.tune.budget)
        self.until = time.monotonic() + self.budget  # begins anew once the data are prepared, which is done but once
        self.space: Space = {}
        self.seconds = math.inf  # of one training, as far as is known
        self.asked: Callable[[], bool] = lambda: False
        self.looked, self.over = 0.0, False

    def open(self) -> dict[str, Any]:
        """Prepare the data, see what a training takes, and settle what is searched for: the content of `study.json`."""
        shop, chosen = self.shop, self.chosen
        shop.progress.stage("preparing the data")
        prepared = prepared_for(shop, chosen)
        queries = self._probe(prepared)
        if (1 + RUN) * self.seconds > self.budget:
            raise ConfigError(
                f"one training takes about {spoken(self.seconds)}, and in a budget of {chosen.tune.budget} not even your config could be measured. "
                f"Give --budget {short(8 * self.seconds)} or more, or fewer [train] epochs."
            )
        shop.progress.stage("examining the data")
        asked = Asked(chosen.train.batch_size, chosen.train.correction, chosen.model.temperature)
        found = examine(shop.sources.pairs, shop.sources.items, chosen.schema, chosen.split, prepared, asked, fast=True)
        if found.stops:
            raise DataError(found.message())
        advised = {s.option: s.value for s in found.settings if s.changes and s.option.partition(".")[0] in ("train", "model")}
        self.space = spaces.declared(chosen.tune.space, chosen) or spaces.ready(chosen, prepared, advised)
        if not self.space:
            raise ConfigError("there is nothing to search for with this config. Say what, in [tune] space.")
        self.shop = shop._replace(queries=queries)
        return {"space": spaces.stored(self.space), "queries": queries, "advised": advised, "prepared": prepared.folder.name}

    def reopen(self) -> None:
        """The same of a study that is there. Raises BundleError where there is none, or where the data are no longer what they were."""
        if not (self.folder / "study.json").exists():
            raise BundleError(f"{self.folder} holds no study to go on with. Begin one, without --resume.")
        told = files.read_json(self.folder / "study.json")
        self.space, self.shop = spaces.restored(told["space"]), self.shop._replace(queries=told["queries"])
        self.shop.progress.stage("preparing the data")
        prepared = prepared_for(self.shop, self.chosen)
        if prepared.folder.name != told["prepared"]:
            raise BundleError(f"the data of {self.folder} have changed since it was begun, so it cannot be continued. Start anew with --overwrite.")
        self._probe(prepared)

    def _probe(self, prepared: Prepared) -> int:
        """See what a training takes; returns how many queries its validations rank."""
        self.until = time.monotonic() + self.budget
        self.shop.progress.stage("trying some steps")
        model, data, state = begun_of(prepared, self.chosen, self.shop.bodies, Progress())
        took = probe(prepared, model, data, state, self.chosen.train)
        self.seconds = took.epochs * took.epoch_seconds + took.catalogue_seconds
        return len(data.validation.query_rows)

    def storage(self, seed: int) -> optuna.Study:
        """What is known of all trials; seed: of what this process draws."""
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        place = str(self.folder / "study.journal")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # several of its samplers' options are said to be experimental
            return optuna.create_study(
                storage=JournalStorage(JournalFileBackend(place, lock_obj=JournalFileOpenLock(place))),
                sampler=optuna.samplers.TPESampler(
                    n_startup_trials=6, multivariate=True, group=True, constant_liar=True, seed=(self.chosen.train.seed + seed) % (1 << 31)
                ),
                pruner=optuna.pruners.MedianPruner(n_startup_trials=BEFORE_PRUNING, n_min_trials=BEFORE_PRUNING),
                study_name=STUDY,
                direction="maximize",
                load_if_exists=True,
            )

    def begin(self, study: optuna.Study) -> None:
        """Give up the trials of processes that are no more, count the time that was spent, and put the first settings in line."""
        import optuna

        for trial in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
            host, _, process = str(trial.user_attrs.get("process", "")).rpartition(" ")
            # Of this process there is none yet: its number was another's before.
            if host in ("", platform.node()) and (process == str(os.getpid()) or not _is_alive(process)):
                study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        self.until -= _spent(study)
        study.set_user_attr("until", time.time() + self.until - time.monotonic())
        own, trials = spaces.own_values(self.chosen, self.space), study.get_trials(deepcopy=False)
        waiting = [trial for trial in trials if trial.state == optuna.trial.TrialState.WAITING]
        if own_of(trials) is None and not any(trial.system_attrs.get("fixed_params") == _labelled(own) for trial in waiting):
            study.enqueue_trial(_labelled(own))  # again, where a kill broke it off
        told = files.read_json(self.folder / "study.json")["advised"]
        advised = {name: value for name, value in told.items() if name in self.space and self.space[name].holds(value)}
        if not trials and own | advised != own:
            study.enqueue_trial(_labelled(own | advised))

    def ending(self, most: float) -> tuple[int, int]:
        """(finalists, seeds) for which there is time in so many seconds, the two runs at the end included; at least one of each."""
        for finalists in range(self.chosen.tune.finalists, 0, -1):
            for seeds in range(self.chosen.tune.seeds, 0, -1):
                if self.takes(finalists, seeds) <= most:
                    return finalists, seeds
        return 1, 1

    def takes(self, finalists: int, seeds: int) -> float:
        """The seconds of so many of them."""
        return ((1 + finalists) * seeds + 2 * RUN) * self.seconds

    def reserve(self) -> float:
        """The seconds that what follows the search will take: at most half of the budget, where that is enough."""
        return self.takes(*self.ending(self.budget / 2))

    def help(self) -> None:
        """Trials alone, until whoever leads has enough of them."""
        with interrupts() as event:
            self.asked = event.is_set
            self.reopen()
            self.shop.progress.stage(f"helping with trials in {self.folder}")
            study = self.storage(os.getpid())
            self.until = time.monotonic() + study.user_attrs.get("until", time.time()) - time.time()
            self.search(study)
        self.check_asked()

    def search(self, study: optuna.Study) -> None:
        """Trials, as long as there is time for one more and for what follows."""
        import optuna

        idle = 0
        while not self.asked() and not study.user_attrs.get("closed") and idle < IDLE:
            done = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
            whole = [trial for trial in done if trial.state == optuna.trial.TrialState.COMPLETE]
            if whole:
                # What follows trains the best, and these may be slower than most.
                best = sorted(whole, key=lambda trial: -float(trial.value or 0))[:FEW]
                self.seconds = max(float(np.mean([trial.user_attrs["seconds"] for trial in some])) for some in (whole, best))
            late = time.monotonic() + self.reserve() + self.seconds / 2 > self.until
            if late and (own_of(whole) is not None or time.monotonic() > self.until):
                return
            if self.chosen.tune.trials is not None and _tried(study) >= self.chosen.tune.trials:
                return
            idle = 0 if self._one(study, study.ask()) else idle + 1

    def _is_over(self, study: optuna.Study) -> bool:
        """Whether whoever leads has ended the search; asked of the journal now and then."""
        if not self.over and time.monotonic() - self.looked > LOOK:
            self.looked, self.over = time.monotonic(), bool(study.user_attrs.get("closed"))
        return self.over

    def _one(self, study: optuna.Study, trial: optuna.Trial) -> bool:
        """One trial, told of when it is over; False where nothing was trained."""
        import optuna

        picked, own = spaces.suggested(trial, self.space, self.chosen), spaces.own_values(self.chosen, self.space)
        mine = picked == own  # measured to its end, whatever the others do: it is what they are held against
        trial.set_user_attr("process", f"{platform.node()} {os.getpid()}")
        trial.set_user_attr("own", mine)
        named = described(picked, own)
        left = max(0.0, self.until - time.monotonic())
        self.shop.progress.stage(f"trial {trial.number + 1}, {spoken(left)} left")
        behind = False

        def look(epoch: int, value: float) -> None:
            nonlocal behind
            trial.report(value, epoch)
            behind = behind or (not mine and trial.should_prune())

        def stop() -> bool:
            late = not mine and time.monotonic() + self.reserve() > self.until
            return behind or late or self.asked() or self._is_over(study)

        def tell(said: str, *told: Any, **state: Any) -> None:
            trial.set_user_attr("said", said)
            study.tell(trial, *told, **state)
            value = f"{told[0]:.4f}" if told else "-"
            self.shop.progress.note(f"trial {trial.number + 1}  {self.chosen.evaluate.select} {value}  {said}  {named}")

        known = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
        if any(self.picked(other) == picked for other in study.get_trials(deepcopy=False, states=known)):
            trial.set_user_attr("said", REPEATED)
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return False
        try:
            found = tried(self.shop, spaces.changed(self.chosen, picked), stop=stop, look=look)
        except (ConfigError, DataError) as error:
            if mine:
                raise
            tell(str(error).splitlines()[0], state=optuna.trial.TrialState.FAIL)
            return False
        trial.set_user_attr("seconds", found.seconds)
        trial.set_user_attr("epoch", found.epoch)
        if found.finished:
            tell(f"{found.seconds:.0f} s", found.value)
        elif self.asked() or not behind:
            tell(BROKEN_OFF, state=optuna.trial.TrialState.FAIL)
        else:
            tell(f"behind after {found.seconds:.0f} s", state=optuna.trial.TrialState.PRUNED)
        return True

    def config_of(self, trial: optuna.trial.FrozenTrial) -> Config:
        """The config that a trial tried."""
        return spaces.changed(self.chosen, self.picked(trial))

    def picked(self, trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
        """The settings that a trial tried."""
        found: dict[str, Any] = {}
        for name, value in trial.params.items():
            within = self.space[name]
            found[name] = next(each for each in within.values if spaces.label(each) == value) if isinstance(within, spaces.Choices) else value
        return found

    def check_asked(self) -> None:
        """Raise Stopped where this process was asked to stop."""
        if self.asked():
            raise self.stopped()

    def stopped(self) -> Stopped:
        """What is said then."""
        return Stopped(f"stopped; the trials that were finished are kept in {self.folder}. Go on with --resume and the same config.")


def own_of(trials: Sequence[optuna.trial.FrozenTrial]) -> optuna.trial.FrozenTrial | None:
    """The first trial of the config as it is that was finished."""
    return next((trial for trial in trials if trial.user_attrs.get("own") and trial.state.name == "COMPLETE"), None)


def _tried(study: optuna.Study) -> int:
    """How many settings were taken up: not those that wait or were known, nor those broken off, by us or with their process."""

    def counts(trial: optuna.trial.FrozenTrial) -> bool:
        said, state = trial.user_attrs.get("said"), trial.state.name
        return state != "WAITING" and said not in (REPEATED, BROKEN_OFF) and (state != "FAIL" or said is not None)

    return sum(map(counts, study.get_trials(deepcopy=False)))


def _labelled(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: spaces.label(value) for name, value in settings.items()}


def _spent(study: optuna.Study) -> float:
    """The seconds in which any process was at a trial that it brought to an end."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.datetime_start and "seconds" in trial.user_attrs]
    starts = [trial.datetime_start.timestamp() for trial in trials if trial.datetime_start]
    total, reached = 0.0, 0.0
    for begun, trial in sorted(zip(starts, trials, strict=True), key=lambda one: one[0]):
        ended = begun + float(trial.user_attrs["seconds"])
        total += max(0.0, ended - max(begun, reached))
        reached = max(reached, ended)
    return total


def described(picked: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """The settings that differ from the config's own, in a line."""
    named = [f"{name.rpartition('.')[2] if name.count('.') == 1 else name}={said(value)}" for name, value in picked.items() if value != own.get(name)]
    return " ".join(named) or "your config"


def said(value: Any) -> str:
    """A value in few digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def spoken(seconds: float) -> str:
    """A span of time in words."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def short(seconds: float) -> str:
    """A span of time as a budget is written, rounded up."""
    if seconds < 60:
        return f"{math.ceil(seconds)}s"
    return f"{math.ceil(seconds / 60)}m"


def _is_alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
