"""TensorFlow Recommenders' retrieval task over two embeddings, compiled by Keras, as its documentation does it."""

from __future__ import annotations

import time
from typing import Any

import tensorflow as tf
import tensorflow_recommenders as tfrs
from exchange import answer, array, settings

OPTIMIZERS = {"adagrad": (tf.keras.optimizers.Adagrad, 0.1), "adam": (tf.keras.optimizers.Adam, 0.001)}


class Towers(tfrs.Model):
    """Two embeddings and the task."""

    def __init__(self, keys: int, items: int, dimensions: int) -> None:
        super().__init__()
        self.users = tf.keras.layers.Embedding(keys, dimensions)
        self.places = tf.keras.layers.Embedding(items, dimensions)
        self.task = tfrs.tasks.Retrieval()

    def compute_loss(self, features: Any, training: bool = False) -> Any:
        return self.task(self.users(features["user"]), self.places(features["item"]), compute_metrics=False)


class Clock(tf.keras.callbacks.Callback):
    """When the steps after the first ones began and ended."""

    def __init__(self, warm: int) -> None:
        super().__init__()
        self.warm, self.begun, self.seconds = warm, 0.0, 0.0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch + 1 == self.warm:
            self.begun = time.perf_counter()
        self.seconds = time.perf_counter() - self.begun


def main() -> None:
    """Train for some steps and tell the seconds of those after the first ones."""
    asked = settings()
    tf.config.threading.set_intra_op_parallelism_threads(asked["threads"])
    tf.config.threading.set_inter_op_parallelism_threads(asked["threads"])
    tf.random.set_seed(0)
    log = tf.data.Dataset.from_tensor_slices({"user": array("keys"), "item": array("items")})
    steps = asked["warm"] + asked["steps"]
    batches = log.shuffle(100_000, seed=0).repeat().batch(asked["batch_size"], drop_remainder=True).take(steps).cache()
    for _ in batches:  # what is read and shuffled is no part of a step
        pass
    model, clock = Towers(asked["n_keys"], asked["n_items"], asked["dimensions"]), Clock(asked["warm"])
    make, rate = OPTIMIZERS[asked["optimizer"]]
    model.compile(optimizer=make(rate))
    model.fit(batches, epochs=1, verbose=0, callbacks=[clock])
    answer(
        ("tensorflow-recommenders", "tensorflow"),
        {"seconds": clock.seconds, "pairs": asked["batch_size"] * asked["steps"], "optimizer": asked["optimizer"]},
    )


main()
