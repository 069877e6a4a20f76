"""What a run is: data prepared, towers trained, evaluated beside baselines, a bundle written; all in one folder.

run/   config.toml  prepared.json  findings.json  history.jsonl  checkpoint.safetensors  metrics.json  rankings.parquet  bundle/
"""

from twotower.runs.comparing import Comparison, compare
from twotower.runs.drifting import Drift, drift
from twotower.runs.explanation import why
from twotower.runs.forecasting import Forecasted, forecast
from twotower.runs.measuring import evaluate
from twotower.runs.run import Run, estimate, open_run, train
from twotower.runs.tuning import Tuned, tune

__all__ = [
    "Comparison",
    "Drift",
    "Forecasted",
    "Run",
    "Tuned",
    "compare",
    "drift",
    "estimate",
    "evaluate",
    "forecast",
    "open_run",
    "train",
    "tune",
    "why",
]
