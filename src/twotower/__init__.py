"""Logged pairs -> a two-tower model -> look-up.

    import twotower as tt
    run = tt.train(pairs=clicks, items=catalogue)
    run.retriever.search(["show disk usage of each folder"], k=5)

Names load what they need when first used, so importing the package costs nothing and look-up never imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twotower.bundle import Change, Found, Published, Retriever, compact, load, publish, rollback, versions
    from twotower.client import Client, Unanswered
    from twotower.config import Config
    from twotower.errors import BundleError, ConfigError, DataError, MissingExtra, OutputError, TwotowerError
    from twotower.runs import Drift, Forecasted, Run, Tuned, compare, drift, estimate, evaluate, forecast, open_run, train, tune, why

__version__ = "0.1.0"

_HOMES = {
    "BundleError": "errors",
    "Change": "bundle",
    "Client": "client",
    "Config": "config",
    "ConfigError": "errors",
    "DataError": "errors",
    "Drift": "runs",
    "Forecasted": "runs",
    "Found": "bundle",
    "MissingExtra": "errors",
    "OutputError": "errors",
    "Published": "bundle",
    "Retriever": "bundle",
    "Run": "runs",
    "Tuned": "runs",
    "TwotowerError": "errors",
    "Unanswered": "client",
    "compact": "bundle",
    "compare": "runs",
    "drift": "runs",
    "estimate": "runs",
    "evaluate": "runs",
    "forecast": "runs",
    "load": "bundle",
    "open_run": "runs",
    "publish": "bundle",
    "rollback": "bundle",
    "train": "runs",
    "tune": "runs",
    "versions": "bundle",
    "why": "runs",
}

__all__ = [
    "BundleError",
    "Change",
    "Client",
    "Config",
    "ConfigError",
    "DataError",
    "Drift",
    "Forecasted",
    "Found",
    "MissingExtra",
    "OutputError",
    "Published",
    "Retriever",
    "Run",
    "Tuned",
    "TwotowerError",
    "Unanswered",
    "compact",
    "compare",
    "drift",
    "estimate",
    "evaluate",
    "forecast",
    "load",
    "open_run",
    "publish",
    "rollback",
    "train",
    "tune",
    "versions",
    "why",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'twotower' has no attribute {name!r}")
    return getattr(import_module(f"twotower.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
