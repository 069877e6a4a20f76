"""What a run is: data prepared, towers trained, evaluated beside baselines, a bundle written; all in one folder.

run/   config.toml  prepared.json  history.jsonl  checkpoint.safetensors  metrics.json  rankings.parquet  bundle/
"""

from twotower.runs.measuring import Comparison, compare, evaluate
from twotower.runs.run import Run, open_run, train

__all__ = ["Comparison", "Run", "compare", "evaluate", "open_run", "train"]
