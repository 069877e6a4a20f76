"""Factorisations: implicit's ALS and BPR, LightFM's WARP. Vectors of every key and item."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
from exchange import answer, array, settings
from scipy import sparse

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as implicit asks for: its own threads do the work


def als(matrix: sparse.csr_matrix, asked: dict[str, Any]) -> tuple[float, np.ndarray, np.ndarray]:
    """Alternating least squares (Hu et al. 2008)."""
    from implicit.als import AlternatingLeastSquares

    keys = ("factors", "alpha", "regularization", "iterations")
    model = AlternatingLeastSquares(**{key: asked[key] for key in keys}, num_threads=asked["threads"], random_state=0)
    return fitted(model, matrix)


def bpr(matrix: sparse.csr_matrix, asked: dict[str, Any]) -> tuple[float, np.ndarray, np.ndarray]:
    """Bayesian personalised ranking (Rendle et al. 2009)."""
    from implicit.bpr import BayesianPersonalizedRanking

    keys = ("factors", "learning_rate", "regularization", "iterations")
    model = BayesianPersonalizedRanking(**{key: asked[key] for key in keys}, num_threads=asked["threads"], random_state=0)
    return fitted(model, matrix)


def fitted(model: Any, matrix: sparse.csr_matrix) -> tuple[float, np.ndarray, np.ndarray]:
    """A model of implicit, fitted: seconds, users, items."""
    begun = time.perf_counter()
    model.fit(matrix, show_progress=False)
    return time.perf_counter() - begun, np.asarray(model.user_factors), np.asarray(model.item_factors)


def warp(matrix: sparse.csr_matrix, asked: dict[str, Any]) -> tuple[float, np.ndarray, np.ndarray]:
    """Weighted approximate-rank pairwise loss (Weston et al. 2011)."""
    from lightfm import LightFM

    model = LightFM(no_components=asked["factors"], loss="warp", learning_rate=asked["learning_rate"], random_state=0)
    begun = time.perf_counter()
    model.fit(matrix.tocoo(), epochs=asked["iterations"], num_threads=asked["threads"])
    seconds = time.perf_counter() - begun
    users, items = model.get_user_representations()[1], model.get_item_representations()
    # The bias of an item is a dimension in which every user is 1; that of a user moves no ranking.
    return seconds, np.hstack([users, np.ones((len(users), 1))]), np.hstack([items[1], items[0][:, None]])


MODELS = {"als": (als, "implicit"), "bpr": (bpr, "implicit"), "warp": (warp, "lightfm-next")}


def main() -> None:
    """Fit and answer."""
    asked = settings()
    keys, items = array("keys"), array("items")
    matrix = sparse.coo_matrix((np.ones(len(keys), np.float32), (keys, items)), (asked["n_keys"], asked["n_items"])).tocsr()
    matrix.data[:] = 1
    fit, package = MODELS[asked["model"]]
    seconds, users, places = fit(matrix, asked)
    told = {name: value for name, value in asked.items() if name not in ("model", "threads", "n_keys", "n_items")}
    answer((package,), {"seconds": seconds, **told}, queries=users.astype(np.float32), items=places.astype(np.float32))


main()
