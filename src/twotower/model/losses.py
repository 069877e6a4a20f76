"""Losses: pure functions of logits, with no model inside.

To add one: a function of the same form and its entry in `LOSSES`, with what it reads. Each takes the logits [b, c] of some views and
all candidates and returns one loss per positive pair [p]; a step takes sum(weight x loss) / sum(weight). Each sees its views alone, so
that `model/blockwise.py` can compute any of them some views at a time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus

from twotower.model.options import LossOptions
from twotower.model.relations import Relation


def softmax(logits: Tensor, related: Relation, options: LossOptions) -> Tensor:
    """Softmax cross-entropy, or InfoNCE (van den Oord et al. 2018): -log of the positive's share among itself and the negatives.

    The known matches of a view's key are no negatives. positives says what the other positives of a view are:
    `apart`, nothing, each is scored against the negatives alone; `among`, in the sum below the line too (the outer form of Khosla et al.
    2020); `together`, all of them above the line and below it (MIL-NCE, Miech et al. 2020), so that one good match is enough.
    smoothing: this share of the target goes to the negatives, evenly (Szegedy et al. 2016).
    correction: subtract the log of the probability that a candidate is in the batch, which makes the sum over candidates an estimate
    of the sum over the catalogue (Bengio and Senecal 2008; Yi et al. 2019). correct_positive: subtract it from the positive's own logit
    too, as Yi et al. do; importance sampling does not, since the positive is there for certain.
    """
    own, negatives = own_of(logits, related, options), negatives_of(logits, related, options)
    others = torch.logsumexp(negatives, dim=1)
    if options.positives == "together":
        losses = softplus(others - _log_sum(own, related))[related.views]
    elif options.positives == "among":
        losses = torch.logaddexp(others, _log_sum(own, related))[related.views] - own
    else:
        # -log(e^own / (e^own + e^others)); a view all of whose candidates are masked has others = -inf and loss 0.
        losses = softplus(others[related.views] - own)
    if options.smoothing:
        there = torch.isfinite(negatives)
        mean = negatives.masked_fill(~there, 0.0).sum(1) / there.sum(1).clamp(min=1)
        # Moving a share of the target from the positive to the negatives adds what separates them.
        losses = losses + options.smoothing * torch.where(there.any(1)[related.views], own - mean[related.views], 0.0)
    return losses


def bilateral(logits: Tensor, related: Relation, options: LossOptions) -> Tensor:
    """Bilateral softmax (Wu et al. 2024): a soft maximum over the positives of a view too, of a temperature of its own.

    positive_temperature is a multiple of the temperature of the negatives: above 1 it trusts no single positive, which helps where
    clicks are noisy. With one positive a view it is the softmax loss without the positive below the line.
    """
    own, others = own_of(logits, related, options), torch.logsumexp(negatives_of(logits, related, options), dim=1)
    multiple = options.positive_temperature
    pairs = torch.zeros_like(others).index_add(0, related.views, torch.ones_like(own))
    share = multiple * (_log_sum(own / multiple, related) - pairs.log())
    return torch.where(torch.isfinite(others), others - share, 0.0 * share)[related.views]


def sigmoid(logits: Tensor, related: Relation, options: LossOptions) -> Tensor:
    """Each pair judged by itself (SigLIP, Zhai et al. 2023): -log s(own + bias) - sum of log s(-negative - bias) over the negatives.

    The bias is minus the log of the number of negatives, which balances the two parts from the start; SigLIP learns it.
    correction: a negative counts one over the probability that it is in the batch.
    """
    own = logits[related.views, related.positions]
    negatives, weights = weighted(logits, related, options)
    total = weights.sum(1)
    bias = -total.clamp(min=1.0).log()
    against = (weights * softplus(negatives + bias.unsqueeze(1))).sum(1)
    return softplus(-own - bias[related.views]) + against[related.views]


def pointwise(logits: Tensor, related: Relation, options: LossOptions) -> Tensor:
    """Logistic regression on labels: matches towards 1, the explicit non-matches of the log towards 0, and nothing else."""
    own = logits[related.views, related.positions]
    against = torch.zeros(len(logits), device=logits.device, dtype=logits.dtype)
    against = against.index_add(0, related.own[:, 0], softplus(logits[related.own[:, 0], related.own[:, 1]]))
    pairs = torch.zeros_like(against).index_add(0, related.views, torch.ones_like(own))
    return softplus(-own) + (against / pairs.clamp(min=1))[related.views]


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
    against = (weights * torch.relu(negatives - options.margin)).sum(1) / weights.sum(1).clamp(min=1e-12)
    return 1 - own + options.negative_weight * against[related.views]


# --- what they share ----------------------------------------------------------------------------------------------


def own_of(logits: Tensor, related: Relation, options: LossOptions) -> Tensor:
    """The logit [p] of each positive, corrected where that is asked for."""
    own = logits[related.views, related.positions]
    return own - related.log_prob[related.positions] if options.correction and options.correct_positive else own


def negatives_of(logits: Tensor, related: Relation, options: LossOptions) -> Tensor:
    """The logits [b, c], corrected where that is asked for; minus infinity where a candidate is no negative of the view."""
    corrected = logits - related.log_prob if options.correction else logits.clone()
    return related.negatives_(corrected, own_negatives(logits, related, options.correction))


def weighted(logits: Tensor, related: Relation, options: LossOptions) -> tuple[Tensor, Tensor]:
    """The logits [b, c], 0 where a candidate is no negative, and what each counts: 0 there, else 1, or one over its probability."""
    nothing = torch.zeros_like(logits)
    own = own_negatives(nothing, related, options.correction)
    weights = related.negatives_(nothing - related.log_prob if options.correction else nothing, own).exp()
    return torch.where(weights > 0, logits, 0.0), weights


def own_negatives(logits: Tensor, related: Relation, correction: bool = False) -> Tensor:
    """The logits [r] of the views' own negatives. What is there for them alone is there for certain: nothing corrects it."""
    cells = logits[related.own[:, 0], related.own[:, 1]]
    if not correction:
        return cells
    chance = related.log_prob if related.alone is None else related.log_prob.masked_fill(related.alone, 0.0)
    return cells - chance[related.own[:, 1]]


def _log_sum(own: Tensor, related: Relation) -> Tensor:
    """The log [b] of the sum of e^own over the positives of each view."""
    most = torch.full((len(related.mask_rows),), -torch.inf, device=own.device, dtype=own.dtype)
    most = most.scatter_reduce(0, related.views, own.detach(), "amax")
    return most + torch.zeros_like(most).index_add(0, related.views, (own - most[related.views]).exp()).log()


def _pairwise(logits: Tensor, related: Relation, options: LossOptions, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """The mean [p] over the negatives of a loss of (negative - own)."""
    own = logits[related.views, related.positions]
    negatives, weights = weighted(logits, related, options)
    shares = weights / weights.sum(1, keepdim=True).clamp(min=1e-12)
    return (shares[related.views] * loss(negatives[related.views] - own.unsqueeze(1))).sum(1)


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
