"""Searches for settings: a study of trials, finalists with other seeds, and the test opened once.

tuned/   config.toml  study.json  study.journal  finals/  tuning.json  best.toml  best/  yours/  prepared/

The best of many trials is better than it looks. So the best few and the config are trained with seeds that no trial had, and a finalist takes
its place only where it is surely better, query by query.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import twotower.runs.spaces as spaces
from twotower import config as configs
from twotower import files
from twotower.config import Config
from twotower.data.columns import Array
from twotower.data.schema import Side
from twotower.errors import BundleError, ConfigError, DataError, MissingExtra, OutputError
from twotower.learning import distributed
from twotower.learning.statistics import holm, paired_test
from twotower.runs.comparing import compare
from twotower.runs.progress import Progress, telling
from twotower.runs.resumption import FREE, same_config
from twotower.runs.run import Run, Stopped, open_run, train
from twotower.runs.settings import check_bodies, settle
from twotower.runs.signals import interrupts
from twotower.runs.study import BROKEN_OFF, REPEATED, RUN, Study, own_of
from twotower.runs.trials import Shop, Tried, tried

if TYPE_CHECKING:
    import optuna

    from twotower.model.bodies import Custom

OURS = {"config.toml", "study.json", "study.journal", "finals", "tuning.json", "best.toml", "best", "yours", "report.html"}
CACHE = "prepared"
LEAST_FOR_IMPORTANCE = 5  # finished trials


@dataclass(frozen=True)
class Tuned:
    """A finished search."""

    folder: Path

    @cached_property
    def result(self) -> dict[str, Any]:
        """The content of `tuning.json`."""
        return dict(files.read_json(self.folder / "tuning.json"))

    @cached_property
    def best(self) -> Run:
        """The run of the best config."""
        return open_run(self.folder / "best")

    def __repr__(self) -> str:
        return f"<Tuned {self.folder}: {len(self.result['trials'])} trials, {'other settings' if self.result['changed'] else 'the config as it is'}>"


def tune(
    pairs: Any = None,
    items: Any = None,
    *,
    queries: Any = None,
    validation: Any = None,
    test: Any = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
    settings: Sequence[str] = (),
    bodies: Mapping[Side, Custom] | None = None,
    output: str | Path = "runs/tuned",
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Tuned:
    """Search for better settings than those of a config, by its validation pairs; train the best; open the test pairs once.

    Data, config, settings and bodies are those of `train`; `[tune]` of the config says how long, how often and for what. output: the folder
    of the study. resume: go on with the study that is there; where another process works on it, help it with trials. Raises ConfigError for a
    budget in which nothing can be compared, a space that cannot be meant or a study of another config; Stopped where it was asked to stop.
    """
    if find_spec("optuna") is None:
        raise MissingExtra("tuning", "tune")
    if distributed.several():
        raise ConfigError("torchrun shares one model, and tuning tries many. Start it without; to share the work, start it again with --resume.")
    given = {"pairs": pairs, "items": items, "queries": queries, "validation": validation, "test": test}
    chosen, sources, _ = settle(given, config, settings)
    check_bodies(chosen, bodies)
    spaces.declared(chosen.tune.space, chosen)
    folder = Path(output)
    with telling(progress) as told:
        shop = Shop(sources, folder / CACHE, bodies, None, told)
        alone = False
        try:
            with files.held(folder):
                alone = True
                if resume:
                    _same_study(folder, chosen)
                    _still_open(folder)
                else:
                    files.claim_folder(folder, overwrite=overwrite, ours=OURS | {CACHE}, room=200 << 20)
                return _lead(Study(folder, chosen, shop), given, resume)
        except OutputError:
            if alone or not resume or not (folder / "study.json").exists():
                raise
        _same_study(folder, chosen)
        Study(folder, chosen, shop).help()
        return Tuned(folder)


def _same_study(folder: Path, chosen: Config) -> None:
    """Raise unless a study was begun with this config and for these settings; for how long may change."""
    same_config(folder, chosen, FREE - {"search"})  # finalists are measured as they would be searched
    begun = configs.read(folder / "config.toml").tune
    if spaces.declared(begun.space, chosen) != spaces.declared(chosen.tune.space, chosen):
        raise ConfigError(
            f"the study in {folder} was begun with another [tune] space. Resume with {folder / 'config.toml'}, or start anew with --overwrite."
        )


def _still_open(folder: Path) -> None:
    if (folder / "tuning.json").exists():
        raise BundleError(f"the study in {folder} is finished; read it with: twotower report {folder}")


class Final(NamedTuple):
    """What one finalist came to, over all seeds."""

    number: int  # of its trial
    values: Array  # of each validation ranking
    keys: Array
    each: tuple[float, ...] = ()  # by seed


def _lead(study: Study, given: Mapping[str, Any], resume: bool) -> Tuned:
    """All of it: the search, the finalists, the runs at the end."""
    with interrupts() as event:
        study.asked = event.is_set
        if resume:
            files.mend_lines(study.folder / "study.journal")
            study.reopen()
        else:
            _begin(study)
        kept = study.storage(os.getpid() if resume else 0)
        study.begin(kept)
        study.search(kept)
        study.check_asked()
        kept.set_user_attr("closed", True)
        finals, seeds = _finals(study, kept)
    study.check_asked()
    return _close(study, kept, finals, seeds, given)


def _begin(study: Study) -> None:
    """Settle what is searched for; what is refused costs no earlier study, and leaves nothing of a new one."""
    cached = study.shop.cache.exists()
    try:
        told = study.open()
    except Exception:
        if not cached:
            files.remove_folder(study.shop.cache)
        raise
    files.empty_folder(study.folder, OURS)
    files.write_text(study.folder / "config.toml", configs.to_toml(study.chosen))
    files.write_json(study.folder / "study.json", told)


def _finals(study: Study, kept: optuna.Study) -> tuple[list[Final], int]:
    """The config and the best trials, each with seeds of its own; and how many seeds all of them had."""
    import optuna

    whole = kept.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
    first = own_of(whole)
    if first is None:
        return [], 0
    better = sorted((t for t in whole if float(t.value or 0) > float(first.value or 0)), key=lambda trial: -float(trial.value or 0))
    finalists, seeds = study.ending(study.until - time.monotonic())
    once = {trial.number: trial for trial in (first, *better[:finalists])}
    if len(once) == 1:
        return [], 0
    rounds: list[dict[int, Tried]] = []
    for seed in range(1, seeds + 1):
        own: dict[int, Tried] = {}
        for number, trial in once.items():
            study.shop.progress.stage(f"finalist {'your config' if number == first.number else f'trial {number + 1}'}, seed {seed} of {seeds}")
            try:
                found = _final(study, trial, seed)
            except DataError:
                continue  # with another seed it cannot be trained, which does not speak for it
            study.check_asked()
            if found is None:
                return _means(rounds)  # no time: a seed counts only where all have it
            own[number] = found
        if first.number not in own:
            return [], 0
        once = {number: trial for number, trial in once.items() if number in own}
        rounds.append(own)
    return _means(rounds)


def _means(rounds: Sequence[Mapping[int, Tried]]) -> tuple[list[Final], int]:
    """What those came to that had every seed, the config first; and how many seeds these are."""
    numbers = rounds[-1] if rounds else {}
    return [_mean(number, [own[number] for own in rounds]) for number in numbers], len(rounds)


def _final(study: Study, trial: optuna.trial.FrozenTrial, seed: int) -> Tried | None:
    """A finalist with another seed, which is kept; None where there was no time for it."""
    place = study.folder / "finals" / f"{trial.number}-{seed}.safetensors"
    if place.exists():
        kept = files.read_tensors(place)
        return Tried(float(kept["values"].mean()), 0, 0.0, True, kept["values"], kept["keys"])
    chosen = study.config_of(trial)
    chosen = replace(chosen, train=replace(chosen.train, seed=study.chosen.train.seed + seed))
    found = tried(study.shop, chosen, stop=lambda: study.asked() or time.monotonic() + RUN * study.seconds > study.until, each=True)
    if not found.finished or found.values is None or found.keys is None:
        return None
    files.make_folder(place.parent)
    files.write_tensors(place, {"values": np.ascontiguousarray(found.values), "keys": np.ascontiguousarray(found.keys)})
    return found


def _close(study: Study, kept: optuna.Study, finals: Sequence[Final], seeds: int, given: Mapping[str, Any]) -> Tuned:
    """Decide, train the best and the config as it was, and write what there is to say."""
    trials = {trial.number: trial for trial in kept.get_trials(deepcopy=False) if trial.state.is_finished()}
    told = judged(finals)
    winner = next((row["trial"] for row in told if row["better"]), None)
    best = study.chosen if winner is None else study.config_of(trials[winner])
    files.write_text(study.folder / "best.toml", configs.to_toml(best))
    runs = {"best": best} | ({} if winner is None else {"yours": study.chosen})
    for name, config in runs.items():
        _run(study, name, config, given)
    own = spaces.own_values(study.chosen, study.space)
    picked = {} if winner is None else {**dict.fromkeys(own), **study.picked(trials[winner])}  # None: left out, since nothing reads it there
    result = {
        "metric": study.chosen.evaluate.select,
        "budget": study.chosen.tune.budget,
        "space": spaces.stored(study.space),
        "yours": own,
        "trials": [_row(study, trial) for trial in trials.values()],
        "importances": importances(kept),
        "finals": told,
        "seeds": seeds,
        "winner": winner,
        "changed": {name: value for name, value in picked.items() if value != own.get(name)},
        "test": None if winner is None else _on_test(study.folder),
        "figures": {name: open_run(study.folder / name).metrics["model"] for name in runs},
    }
    files.write_json(study.folder / "tuning.json", result)
    return Tuned(study.folder)


def _run(study: Study, name: str, config: Config, given: Mapping[str, Any]) -> None:
    """A run of a config in the folder of the study, where it is not there yet."""
    place = study.folder / name
    study.shop.progress.stage(f"a run in {place}")
    if (place / "metrics.json").exists():
        return
    try:
        resume = (place / "config.toml").exists()
        train(**given, config=config, bodies=study.shop.bodies, output=place, resume=resume, progress=study.shop.progress)
    except Stopped:
        raise study.stopped() from None


def _row(study: Study, trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    """What there is to say of a trial."""
    seen = list(trial.intermediate_values.values())
    state, said = trial.state.name.lower(), trial.user_attrs.get("said", "")
    return {
        "trial": trial.number,
        "state": said if said in (BROKEN_OFF, REPEATED) else {"complete": "finished", "pruned": "behind", "fail": "failed"}.get(state, state),
        "value": trial.value if state == "complete" else max(seen, default=None),
        "epoch": trial.user_attrs.get("epoch"),
        "seconds": trial.user_attrs.get("seconds"),
        "said": said,
        "own": bool(trial.user_attrs.get("own")),
        "settings": study.picked(trial),
    }


def _mean(number: int, seeds: Sequence[Tried]) -> Final:
    """What a finalist came to on each ranking, over its seeds."""
    keys = seeds[0].keys
    assert keys is not None
    values = [one.values for one in seeds if one.values is not None]
    return Final(number, np.mean(values, axis=0), keys, tuple(float(one.mean()) for one in values))


def judged(finals: Sequence[Final]) -> list[dict[str, Any]]:
    """How much better each finalist is than the config, paired by validation ranking, all tests corrected together (Holm); the best first.

    Better is who is so beyond what luck gives one time in twenty, and with every seed: the tests draw rankings anew, not trainings.
    """
    if len(finals) < 2:
        return []
    own, others = finals[0], finals[1:]
    tests = [paired_test(other.values, own.values, groups=own.keys, generator=np.random.default_rng(0)) for other in others]
    corrected = holm(np.array([float(test.p_value) for test in tests]))
    rows = [
        {
            "trial": other.number,
            "value": float(other.values.mean()),
            "yours": float(own.values.mean()),
            "difference": float(test.difference),
            "low": float(test.low),
            "high": float(test.high),
            "p_value": float(p_value),
            "better": bool(test.difference > 0 and p_value < 0.05 and all(a > b for a, b in zip(other.each, own.each, strict=True))),
        }
        for other, test, p_value in zip(others, tests, corrected, strict=True)
    ]
    return sorted(rows, key=lambda row: -row["value"])


def importances(study: optuna.Study) -> dict[str, float]:
    """How much each setting explains of what trials came to, by PED-ANOVA (Watanabe et al. 2023); nothing with few trials."""
    import optuna

    whole = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
    if len(whole) < LEAST_FOR_IMPORTANCE:
        return {}
    always = set.intersection(*(set(trial.params) for trial in whole))  # what only some trials read cannot be weighed against the rest
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            by = optuna.importance.PedAnovaImportanceEvaluator()
            found = optuna.importance.get_param_importances(study, evaluator=by, params=sorted(always))
        except (ValueError, RuntimeError):
            return {}  # it has nothing to say where all trials came to the same
    return {name: float(share) for name, share in found.items()}


def _on_test(folder: Path) -> dict[str, Any]:
    """How much better the best run is than that of the config, on the test pairs, by metric."""
    compared = compare(folder / "best", folder / "yours")
    return {
        name: {"best": compared.figures[name][0], "yours": compared.figures[name][1], **{part: float(getattr(test, part)) for part in test._fields}}
        for name, test in compared.tests.items()
    }
