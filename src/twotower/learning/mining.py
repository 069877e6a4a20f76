"""Hard negatives: items that the towers rank high for a view and that are not known to match it (ANCE, Xiong et al. 2021).

They are mined for whole epochs at a time, by the towers as they are then. What is found is a table that is saved with the state, so
that what a batch holds is a function of the seed, the epoch, its number and this table.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from twotower.data.batches import BatchDraft, draft, places
from twotower.data.columns import Array, Ragged, lengths_of, offsets_of, ragged, ragged_rows, take_ragged
from twotower.data.encoder import Encoder
from twotower.data.features import Pretrained
from twotower.data.histories import Histories
from twotower.errors import ConfigError
from twotower.learning.evaluation import SCORES_AT_ONCE, Cases
from twotower.learning.material import Material, Mined
from twotower.learning.options import TrainOptions
from twotower.learning.views import blocks, encoded
from twotower.model.layers import Table
from twotower.model.options import CONTENT
from twotower.model.towers import TwoTower

ROUNDING = 1e-5  # of a cosine


class Judge(NamedTuple):
    """A teacher whose word decides what may be a negative."""

    items: Array  # float32 [items, d]  nan where it does not know the item
    queries: Callable[[Array, Ragged | None], Array]  # query rows [n] and item rows of their histories -> float32 [n, d]


class Mining(NamedTuple):
    """What one search for negatives came to."""

    epoch: int  # the one before which it was done
    views: int  # that were mined for
    of_views: int  # so many there are
    found: int  # negatives
    seconds: float


class Views(NamedTuple):
    """The views to mine for, as training shows them."""

    cases: Cases  # relevant: their matches, as often as they have them
    pair_rows: Ragged  # [v]


def due(options: TrainOptions, first: int, epoch: int, mined: Mined | None) -> bool:
    """Whether to mine before this epoch; first: the epoch before which it is done first."""
    past = epoch - first
    return bool(options.mined) and past >= 0 and past % options.mine_every == 0 and (mined is None or mined.epoch != epoch)


def first_epoch(model: TwoTower, encoder: Encoder, options: TrainOptions) -> int:
    """The epoch before which is mined first.

    Towers that read words by one table, pretrained vectors on both sides, or ids that start from a factorisation, rank sensibly from the
    start. Of anything else they know nothing yet, and what they would rank high is drawn by lot. Raises ConfigError where no epoch is left.
    """
    if options.mine_from is not None:
        return options.mine_from
    sides = [encoder.features[side] for side in ("query", "item")]
    pretrained = all(any(isinstance(feature, Pretrained) for feature in features) for features in sides)
    shared = {module for module in model.query.modules() if isinstance(module, Table)} & {m for m in model.item.modules() if isinstance(m, Table)}
    worded = all(any(feature.type == "text" for feature in features) for features in sides)
    if pretrained or (worded and shared) or options.warm_start == "factors":
        return 0
    if options.epochs == 1:
        raise ConfigError(
            f"[train] mined = {options.mined}: towers that begin with nothing learnt mine from their second epoch on, and there is one. "
            "Set epochs to 2 or more, or mine_from = 0 to mine by the towers as they begin, or leave mined out."
        )
    return 1


def content(model: TwoTower, material: Material, encoder: Encoder, options: TrainOptions) -> Array | None:
    """Unit vectors float32 [items, d] of what items hold, or None where none is asked for or they hold nothing but names and measures.

    Before the first step an item tower shows just that: names and measures begin at zero beside words and vectors, and the cosine of two
    texts estimates that of their tf-idf vectors.
    """
    if not (options.mined and options.mine_duplicates and any(feature.type in CONTENT for feature in encoder.features["item"])):
        return None
    return _unit(model.encode("item", material.columns["item"]).numpy())


def _unit(vectors: Array) -> Array:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), np.float32)


def views_of(material: Material, epoch: int) -> Views:
    """Every view of the training log once; where what a batch asks for decides what its histories show, those of the coming epoch."""
    seen = material.epochs.histories
    if seen is not None and seen.order is None:
        drafts = list(material.epochs.drafts(epoch))
    else:
        drafts = [draft(material.epochs.log, np.arange(len(material.epochs.log.query_rows)), seen)]
    return _views(drafts, seen)


def _views(drafts: list[BatchDraft], seen: Histories | None) -> Views:
    offsets = offsets_of(np.concatenate([np.diff(part.offsets) for part in drafts]))
    item_rows, pair_rows = (np.concatenate([getattr(part, name) for part in drafts]) for name in ("item_rows", "pair_rows"))
    query_rows, query_keys = (np.concatenate([getattr(part, name) for part in drafts]) for name in ("query_rows", "query_keys"))
    history = (None, None) if seen is None else tuple(np.concatenate([getattr(p, name) for p in drafts]) for name in ("history_keys", "cuts"))
    return Views(Cases(query_rows, query_keys, Ragged(item_rows, offsets), None, *history), Ragged(pair_rows, offsets))


def mine(
    model: TwoTower,
    material: Material,
    encoder: Encoder,
    options: TrainOptions,
    epoch: int,
    known_content: Array | None = None,
    judge: Judge | None = None,
) -> tuple[Mined, Mining]:
    """Negatives for the views of the epochs from this one on.

    Every item that a training pair names is scored, in blocks of views. Of those that the filters leave, some are drawn: `mined` for each
    epoch until the next time.
    """
    begun = time.perf_counter()
    every = views_of(material, epoch)
    n = len(every.cases.query_rows)
    generator = np.random.default_rng([options.seed, epoch, 1 << 20])
    which = np.arange(n) if n <= options.mine_views else np.sort(generator.permutation(n)[: options.mine_views])
    asked, pairs = every.cases.take(which), take_ragged(every.pair_rows, which)
    found = _search(model, material, encoder, options, asked, known_content, judge, generator)
    lists = np.full(len(material.epochs.log.query_rows), -1)
    lists[pairs.values] = ragged_rows(pairs)
    return Mined(epoch, lists, found), Mining(epoch, len(which), n, len(found.values), time.perf_counter() - begun)


def _search(
    model: TwoTower,
    material: Material,
    encoder: Encoder,
    options: TrainOptions,
    asked: Cases,
    known_content: Array | None,
    judge: Judge | None,
    generator: np.random.Generator,
) -> Ragged:
    """The item rows of the negatives of each case."""
    items = model.encode("item", material.columns["item"]).numpy()
    seen = material.epochs.histories
    parts = blocks(encoder, material.columns["query"], asked, seen, material.reading, items)
    queries = encoded(asked, model.dimensions, parts, lambda columns: model.encode("query", columns).numpy())
    trained = material.sampler.trained
    candidates = torch.as_tensor(items[trained]).to(model.device)
    lists, size = [], max(1, SCORES_AT_ONCE // max(1, len(trained)))
    for start in range(0, len(queries), size):
        block = asked.take(np.arange(start, min(start + size, len(queries))))
        known = take_ragged(material.known, block.query_keys)
        ranked, scores = _ranked(torch.as_tensor(queries[start : start + size]).to(model.device), candidates, trained, known, options)
        allowed = np.isfinite(scores) & _below(scores, _own(queries[start : start + size], items, block.relevant), options)
        if known_content is not None:
            allowed &= ~_duplicates(known_content, ranked, allowed, known, options.mine_duplicates)
        if judge is not None:
            allowed &= _judged(judge, block, seen, ranked, options)
        lists.append(_drawn(ranked, allowed, options.mined * options.mine_every, generator))
    return Ragged(np.concatenate([one.values for one in lists]), offsets_of(np.concatenate([lengths_of(one) for one in lists])))


def _ranked(queries: Tensor, candidates: Tensor, trained: Array, known: Ragged, options: TrainOptions) -> tuple[Array, Array]:
    """Item rows and scores [b, r] of the ranks that are asked for, known matches having none; -inf past the end."""
    first, last = options.mine_ranks
    scores = queries @ candidates.T
    cells = torch.as_tensor(np.stack([ragged_rows(known), places(trained, known.values)])).to(scores.device)
    scores[cells[0], cells[1]] = -torch.inf
    values, found = (part[:, first - 1 :].cpu().numpy() for part in scores.topk(min(last, len(trained)), dim=1))
    return trained[found], values


def _own(queries: Array, items: Array, relevant: Ragged) -> Array:
    """The mean score [b] of the matches of each view."""
    rows = ragged_rows(relevant)
    scores = np.einsum("pd,pd->p", queries[rows], items[relevant.values])
    return np.asarray(np.bincount(rows, weights=scores, minlength=len(queries)) / np.maximum(lengths_of(relevant), 1))


def _below(scores: Array, own: Array, options: TrainOptions) -> Array:
    """Which scores [b, r] are low enough beside those of the matches [b], and by themselves."""
    allowed = np.ones(scores.shape, bool)
    if options.mine_margin is not None:
        allowed &= scores <= (own - options.mine_margin)[:, None]
    if options.mine_relative_margin is not None:
        allowed &= scores <= (own - options.mine_relative_margin * np.abs(own))[:, None]
    if options.mine_highest is not None:
        allowed &= scores <= options.mine_highest
    return allowed


def _duplicates(vectors: Array, ranked: Array, allowed: Array, known: Ragged, cosine: float) -> Array:
    """Which of the ranked items [b, r] hold nearly the same as a known match of the view [b]; asked of those that are allowed so far."""
    found = np.zeros(ranked.shape, bool)
    for view in np.flatnonzero(allowed.any(axis=1)):
        matches = vectors[known.values[known.offsets[view] : known.offsets[view + 1]]]
        found[view] = (vectors[ranked[view]] @ matches.T).max(axis=1, initial=-1.0) >= cosine - ROUNDING
    return found


def _judged(judge: Judge, block: Cases, seen: Histories | None, ranked: Array, options: TrainOptions) -> Array:
    """Which of the ranked items [b, r] the teacher scores below the matches by the margin; none that it does not know."""
    history = None
    if seen is not None and block.history_keys is not None and block.cuts is not None:
        history = seen.of(block.history_keys, block.cuts, block.relevant)
    queries = judge.queries(block.query_rows, history)
    own = _own(queries, judge.items, block.relevant)
    scores = np.stack([judge.items[row] @ query for row, query in zip(ranked, queries, strict=True)])
    return np.asarray(scores < (own - options.mine_teacher_margin)[:, None])


def _drawn(ranked: Array, allowed: Array, most: int, generator: np.random.Generator) -> Ragged:
    """At most so many of the allowed items of each view, in rising order."""
    chance = np.where(allowed, generator.random(ranked.shape), np.inf)
    order = np.argsort(chance, axis=1)[:, :most]
    kept = np.isfinite(np.take_along_axis(chance, order, axis=1))
    return ragged([np.sort(row[here]) for row, here in zip(np.take_along_axis(ranked, order, axis=1), kept, strict=True)])
