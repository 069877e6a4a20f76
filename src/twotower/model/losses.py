"""Losses: pure functions of logits, with no model inside.

To add one: a function of the same form and its entry in `LOSSES`, with what it reads. Each takes the logits [b, c] of some views and
all candidates and returns one loss per positive pair [p]; a step takes sum(weight x loss) / sum(weight). Each sees its views alone, so
that `model/blockwise.py` can compute any of them some views at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from twotower.model.options import LossOptions
from twotower.model.relations import Relation

NOTHING = -1e30  # a logit that weighs nothing, and unlike -inf has a gradient


def softmax(logits: Tensor, related: Relation, options: LossOptions) -> Tensor:
    """Softmax cross-entropy, or InfoNCE (van den Oord et al. 2018): -log of the positive's share among itself and the negatives.

    The known matches of a view's key are no negatives. positives says what the other positives of a view are:
    `apart`, nothing, each is scored against the negatives alone; `graded`, those of a lower grade are negatives of it; `among`, all are in
    the sum below the line (the outer form of Khosla et al. 2020); `together`, all of them above the line and below it (MIL-NCE, Miech et
    al. 2020), so that one good match is enough.
    smoothing: this share of the target goes to the negatives, evenly (Szegedy et al. 2016).
    correction: subtract the log of the probability that a candidate is in the batch, which makes the sum over candidates an estimate
    of the sum over the catalogue (Bengio and Senecal 2008; Yi et al. 2019). correct_positive: subtract it from the positive's own logit
    too, as Yi et al. do; importance sampling does not, since the positive is there for certain.
    """
    return softmax_of(own_of(logits, related, options), summed(negatives_of(logits, related, options)), related, options)


def softmax_of(own: Tensor, others: Summed, related: Relation, options: LossOptions) -> Tensor:
    """`softmax` of the logits [p] of the positives and the sums [b] of the negatives."""
    if options.positives == "together":
        losses = softplus(others.total - _log_sum(own, related))[related.views]
    elif options.positives == "among":
        losses = torch.logaddexp(others.total, _log_sum(own, related))[related.views] - own
    elif options.positives == "graded":
        losses = softplus(torch.logaddexp(others.total[related.views], _log_sum_below(own, related)) - own)
    else:
        # -log(e^own / (e^own + e^others)); a view all of whose candidates are masked has others = -inf and loss 0.
        losses = softplus(others.total[related.views] - own)
    return losses + _smoothed(own, others, related, options)


def bilateral(logits: Tensor, related: Relation, options: LossOptions) -> Tensor:
    """Bilateral softmax (Wu et al. 2024): a soft maximum over the positives of a view too, of a temperature of its own.

    positive_temperature is a multiple of the temperature of the negatives: above 1 it trusts no single positive, which helps where
    clicks are noisy. With one positive a view it is the softmax loss without the positive below the line. smoothing as for `softmax`.
    """
    return bilateral_of(own_of(logits, related, options), summed(negatives_of(logits, related, options)), related, options)


def bilateral_of(own: Tensor, others: Summed, related: Relation, options: LossOptions) -> Tensor:
    """`bilateral` of the logits [p] of the positives and the sums [b] of the negatives."""
    multiple = options.positive_temperature
    pairs = torch.zeros_like(others.total).index_add(0, related.views, torch.ones_like(own))
    share = multiple * (_log_sum(own / multiple, related) - pairs.log())
    losses = torch.where(torch.isfinite(others.total), others.total - share, 0.0 * share)[related.views]
    return losses + _smoothed(share[related.views], others, related, options)


def sigmoid(logits: Tensor, related: Relation, options: LossOptions) -> Tensor:
    """Each pair judged by itself (SigLIP, Zhai et al. 2023): -log s(own + bias) - sum of log s(-negative - bias) over the negatives.

    The bias is minus the log of the number of negatives, which balances the two parts from the start; SigLIP learns it.
    smoothing: the target of a match is so much below 1, and that of a negative so much above 0. correction: a negative counts one over
    the probability that it is in the batch.
    """
    own = logits[related.views, related.positions]
    negatives, weights = weighted(logits, related, options)
    bias = -over(there(negatives), weights).clamp(min=1.0).log()
    judged = negatives + bias.unsqueeze(1)
    against = over(softplus(judged), weights)
    if options.smoothing:
        against = against - options.smoothing * over(torch.where(torch.isfinite(judged), judged, 0.0), weights)
    return _matched(own + bias[related.views], options) + against[related.views]


def pointwise(logits: Tensor, related: Relation, options: LossOptions) -> Tensor:
    """Logistic regression on labels: matches towards 1, the explicit non-matches of the log towards 0, and nothing else.

    smoothing as for `sigmoid`.
    """
    own = logits[related.views, related.positions]
    cells = logits[related.own[:, 0], related.own[:, 1]]
    against = torch.zeros(len(logits), device=logits.device, dtype=logits.dtype)
    against = against.index_add(0, related.own[:, 0], softplus(cells) - options.smoothing * cells)
    pairs = torch.zeros_like(against).index_add(0, related.views, torch.ones_like(own))
    return _matched(own, options) + (against / pairs.clamp(min=1))[related.views]


def bpr(logits: Tensor, related: Relation, options: LossOptions) -> Tensor:
    """-log s(own - negative), its mean over the negatives: BPR (Rendle et al. 2009), the pairwise logistic loss (Burges et al. 2005).

    correction: the mean is one over the catalogue, each negative weighing one over the probability that it is in the batch.
    """
    return _pairwise(logits, related, options, softplus)


def bpr_max(logits: Tensor, related: Relation, options: LossOptions) -> Tensor:
    """BPR against the hardest: -log of the mean of s(own - negative), weighted by the softmax of the negatives (Hidasi and Karatzoglou 2018)."""
    own = logits[related.views, related.positions]
    shares = torch.log_softmax(negatives_of(logits, related, options), dim=1)[related.views]
    negatives = logits[related.views]
    there = torch.isfinite(shares)
    chances = torch.where(there, shares, 0.0) - softplus(negatives - own.unsqueeze(1))
    found = -torch.logsumexp(chances.masked_fill(~there, -torch.inf), dim=1)
    return torch.where(there.any(1), found, 0.0)


def hinge(logits: Tensor, related: Relation, options: LossOptions) -> Tensor:
    """max(0, margin - own + negative), its mean over the negatives, of similarities (Weston and Watkins 1999). correction as for `bpr`."""
    return _pairwise(logits, related, options, lambda difference: torch.relu(difference + options.margin))


def triplet(logits: Tensor, related: Relation, options: LossOptions) -> Tensor:
    """max(0, margin - own + negative) for the hardest negative of the batch, of similarities (Schroff et al. 2015; Faghri et al. 2018)."""
    own = logits[related.views, related.positions]
    negatives = related.negatives_(logits.clone(), own_negatives(logits, related))
    return torch.relu(negatives.amax(1)[related.views] - own + options.margin)


def cosine_contrastive(logits: Tensor, related: Relation, options: LossOptions) -> Tensor:
    """1 - own + negative_weight x the mean of max(0, negative - margin) over the negatives (SimpleX, Mao et al. 2021). correction as for `bpr`."""
    own = logits[related.views, related.positions]
    negatives, weights = weighted(logits, related, options)
    against = over(torch.relu(negatives - options.margin), weights) / over(there(negatives), weights).clamp(min=1e-12)
    return 1 - own + options.negative_weight * against[related.views]


# --- what they share ----------------------------------------------------------------------------------------------


def own_of(logits: Tensor, related: Relation, options: LossOptions) -> Tensor:
    """The logit [p] of each positive, corrected where that is asked for."""
    own = logits[related.views, related.positions]
    return own - related.log_prob[related.positions] if options.correction and options.correct_positive else own


def negatives_of(logits: Tensor, related: Relation, options: LossOptions) -> Tensor:
    """The logits [b, c], corrected where that is asked for; minus infinity where a candidate is no negative of the view."""
    corrected = logits - related.log_prob if options.correction else logits.clone()
    return related.negatives_(corrected, own_negatives(logits, related))


class Summed(NamedTuple):
    """What some losses know of the negatives of each view."""

    total: Tensor  # [b]  the log of the sum of e^n, -inf where there is none
    mean: Tensor  # [b]  the mean of n, 0 where there is none


def summed(negatives: Tensor) -> Summed:
    """The sums over negatives [b, c], -inf where a candidate is none."""
    counted = there(negatives)
    mean = torch.where(counted > 0, negatives, 0.0).sum(1) / counted.sum(1).clamp(min=1)
    return Summed(torch.logsumexp(negatives, dim=1), mean)


def there(negatives: Tensor) -> Tensor:
    """1 where a candidate is a negative [b, c], 0 where it is none."""
    return (negatives > -torch.inf).to(negatives.dtype)


def weighted(logits: Tensor, related: Relation, options: LossOptions) -> tuple[Tensor, Tensor]:
    """The logits [b, c], -inf where a candidate is no negative, and what each counts: 1, or one over its probability.

    That is one number for a candidate [c]; or for each cell [b, c], where views have negatives of their own, which count 1 to them.
    """
    negatives = related.negatives_(logits.clone(), own_negatives(logits, related))
    if not options.correction:
        return negatives, torch.ones_like(related.log_prob, dtype=logits.dtype)
    chance = related.log_prob if related.alone is None else related.log_prob.masked_fill(related.alone, 0.0)
    counts = chance.neg().exp().to(logits.dtype)
    if len(related.own):
        counts = counts.expand_as(logits).clone()
        counts[related.own[:, 0], related.own[:, 1]] = 1.0
    return negatives, counts


def over(values: Tensor, counts: Tensor) -> Tensor:
    """The sum [b] of values [b, c] by what each counts, [c] or [b, c]."""
    return values @ counts if counts.ndim == 1 else (values * counts).sum(1)


def own_negatives(logits: Tensor, related: Relation) -> Tensor:
    """The logits [r] of the views' own negatives. They are there for certain, whether others met them too, and nothing corrects them."""
    return logits[related.own[:, 0], related.own[:, 1]]


def _log_sum(own: Tensor, related: Relation) -> Tensor:
    """The log [b] of the sum of e^own over the positives of each view."""
    most = torch.full((len(related.mask_rows),), -torch.inf, device=own.device, dtype=own.dtype)
    most = most.scatter_reduce(0, related.views, own.detach(), "amax")
    return most + torch.zeros_like(most).index_add(0, related.views, (own - most[related.views]).exp()).log()


def _log_sum_below(own: Tensor, related: Relation) -> Tensor:
    """The log [p] of the sum of e^own over the positives of the same view with a lower grade; as good as -inf where there is none."""
    order = torch.argsort(related.grades, stable=True)
    order = order[torch.argsort(related.views[order], stable=True)]
    views, grades = related.views[order], related.grades[order]
    column = torch.arange(len(order), device=own.device) - torch.searchsorted(views, views)
    padded = own.new_full((len(related.mask_rows), 1 + int(column.max()) if len(order) else 1), NOTHING)
    sums = torch.logcumsumexp(padded.index_put((views, column), own[order]), dim=1)
    # How many of a view have a lower grade: where the first pair of its grade stands.
    new = torch.ones_like(views, dtype=torch.bool)
    new[1:] = (views[1:] != views[:-1]) | (grades[1:] != grades[:-1])
    first = column[new][new.cumsum(0) - 1]
    below = torch.where(first > 0, sums[views, (first - 1).clamp(min=0)], NOTHING)
    return torch.empty_like(own).index_put((order,), below)


def _matched(own: Tensor, options: LossOptions) -> Tensor:
    """-log s(own), with a share of the target on the other side."""
    return softplus(-own) + options.smoothing * own


def _smoothed(own: Tensor, others: Summed, related: Relation, options: LossOptions) -> Tensor | float:
    """What moving a share of the target from the positives to the negatives adds: what separates them. Nothing where there are none."""
    if not options.smoothing:
        return 0.0
    some = torch.isfinite(others.total)[related.views]
    return options.smoothing * torch.where(some, own - others.mean[related.views], 0.0)


def _pairwise(logits: Tensor, related: Relation, options: LossOptions, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """The mean [p] over the negatives of a loss of (negative - own) that is 0 at minus infinity."""
    own = logits[related.views, related.positions]
    negatives, weights = weighted(logits, related, options)
    total = over(there(negatives), weights).clamp(min=1e-12)
    of_pairs = weights if weights.ndim == 1 else weights[related.views]
    return over(loss(negatives[related.views] - own.unsqueeze(1)), of_pairs) / total[related.views]


LOSSES: dict[str, Callable[[Tensor, Relation, LossOptions], Tensor]] = {
    "softmax": softmax,
    "bilateral": bilateral,
    "sigmoid": sigmoid,
    "pointwise": pointwise,
    "bpr": bpr,
    "bpr_max": bpr_max,
    "hinge": hinge,
    "triplet": triplet,
    "cosine_contrastive": cosine_contrastive,
}

# Those that know of the negatives no more than `Summed`: `model/blockwise.py` needs no more of their gradient.
SUMMED: dict[str, Callable[[Tensor, Summed, Relation, LossOptions], Tensor]] = {"softmax": softmax_of, "bilateral": bilateral_of}
