"""RecTools' SASRec: the scores of the best hundred items of every key, without those it matched before; others are out of reach."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import torch
from exchange import answer, array, settings
from pytorch_lightning import Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

BEST = 100


def main() -> None:
    """Fit on the log in its order and answer."""
    asked = settings()
    torch.set_num_threads(asked["threads"])
    seed_everything(asked["seed"])
    keys, items = array("keys"), array("items")
    log = pd.DataFrame({Columns.User: keys, Columns.Item: items, Columns.Weight: 1.0})
    log[Columns.Datetime] = pd.Timestamp("2000-01-01") + pd.to_timedelta(np.arange(len(log)), unit="s")
    dataset = Dataset.construct(log)

    def trainer() -> Trainer:
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "enable_checkpointing": False}
        limit = {"max_epochs": asked["epochs"], "max_time": {"minutes": asked["minutes"]}}
        return Trainer(**limit, accelerator="cpu", deterministic=True, **quiet)

    chosen = {name: asked[name] for name in ("n_blocks", "n_heads", "n_factors", "session_max_len", "dropout_rate", "loss", "batch_size", "lr")}
    model = SASRecModel(**chosen, get_trainer_func=trainer)
    begun = time.perf_counter()
    model.fit(dataset)
    seconds = time.perf_counter() - begun
    found = model.recommend(users=np.unique(keys), dataset=dataset, k=BEST, filter_viewed=True)
    scores = np.full((asked["n_keys"], asked["n_items"]), -np.inf, np.float32)
    scores[found[Columns.User].to_numpy(), found[Columns.Item].to_numpy()] = found[Columns.Score].to_numpy()
    epochs = f"{model.fit_trainer.current_epoch} of {asked['epochs']}"
    answer(("rectools", "torch"), {"seconds": seconds, "epochs": epochs, **chosen}, scores=scores)


main()
