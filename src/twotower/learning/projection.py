"""Vectors laid out in a plane, so that what is near in the space is near on paper: t-SNE (van der Maaten & Hinton 2008)."""

from __future__ import annotations

import numpy as np

from twotower.data.columns import Array

PERPLEXITY = 20.0  # about how many neighbours each point holds on to
ITERATIONS = 300
EXAGGERATED, EXAGGERATION = 75, 12.0  # the first iterations, in which neighbours are drawn together that much harder
BLOCK = 128  # rows at once
MOMENTUM = (0.5, 0.8)  # while exaggerated, and after


def plane(vectors: Array, seed: int = 0, iterations: int = ITERATIONS) -> Array:
    """Places float32 [n, 2] for vectors [n, d], around 0; near means near, what is far apart says nothing.

    It starts from the two main directions of the vectors, so that the same vectors give the same places (Kobak & Berens 2019). All pairs
    push each other apart, which takes n * n numbers: meant for a thousand or two.
    """
    vectors = np.asarray(vectors, np.float32)
    n = len(vectors)
    generator = np.random.default_rng(seed)
    places = _main_directions(vectors, generator)
    if n < 4:
        return places
    wanted = _neighbourhoods(vectors, min(PERPLEXITY, (n - 1) / 3))  # [n, n]
    rate, step, gains = n / EXAGGERATION, np.zeros_like(places), np.ones_like(places)
    wanted *= EXAGGERATION
    for iteration in range(iterations):
        early = iteration < EXAGGERATED
        if iteration == EXAGGERATED:
            wanted /= EXAGGERATION
        slope = _slope(wanted, places)
        gains = np.where(np.sign(slope) == np.sign(step), gains * 0.8, gains + 0.2).clip(0.01)
        step = MOMENTUM[0 if early else 1] * step - rate * gains * slope
        places = places + step
        places -= places.mean(axis=0)
    return np.asarray(places, np.float32)


def kept(near: Array, places: Array) -> float:
    """How faithful a plane is: of the nearest ones [n, k] of each point in the space, the share that are among its k nearest there."""
    there = nearest(-_squared(np.asarray(places, np.float32)), near.shape[1])
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(near, there, strict=True)]))


def nearest(likeness: Array, k: int) -> Array:
    """The k most alike of each point but itself, in no order: int64 [n, k] of a likeness [n, n], which is written into."""
    np.fill_diagonal(likeness, -np.inf)
    return np.argpartition(-likeness, k - 1, axis=1)[:, :k]


def _main_directions(vectors: Array, generator: np.random.Generator) -> Array:
    """Where the descent starts: the first two principal components, tiny, with a little noise where there is only one."""
    centred = vectors - vectors.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)
    found = directions[:, ::-1][:, :2]  # [d, 2], or [d, 1]
    found = found * np.sign(found[np.abs(found).argmax(axis=0), range(found.shape[1])])  # a direction's sign is free
    places = np.zeros((len(vectors), 2), np.float32)
    places[:, : found.shape[1]] = centred @ found
    spread = max(float(places[:, 0].std()), 1e-12)
    noise = generator.standard_normal(places.shape).astype(np.float32)
    return np.asarray(1e-4 * (places / spread + 1e-3 * noise), np.float32)


def _neighbourhoods(vectors: Array, perplexity: float) -> Array:
    """How much each pair belongs together, float32 [n, n], of sum 1: normal around each point, as wide as its perplexity asks."""
    n, k = len(vectors), min(len(vectors) - 1, int(3 * perplexity) + 1)
    squared = _squared(vectors)
    near = nearest(-squared, k)
    gaps = np.take_along_axis(squared, near, axis=1).astype(np.float64)  # [n, k]
    gaps -= gaps.min(axis=1, keepdims=True)
    low, high, width = np.zeros((n, 1)), np.full((n, 1), np.inf), np.full((n, 1), 1 / max(float(gaps.mean()), 1e-12))
    for _ in range(50):
        weights = np.exp(-gaps * width)
        total = weights.sum(axis=1, keepdims=True)
        entropy = np.log(total) + width * (gaps * weights).sum(axis=1, keepdims=True) / total
        wide = entropy > np.log(perplexity)
        low, high = np.where(wide, width, low), np.where(wide, high, width)
        width = np.where(np.isinf(high), np.minimum(width * 2, 1e12), (low + high) / 2)
    found = np.zeros((n, n), np.float32)
    np.put_along_axis(found, near, (weights / total).astype(np.float32), axis=1)
    found += found.T.copy()
    return np.asarray(found / found.sum())


def _slope(wanted: Array, places: Array) -> Array:
    """The gradient [n, 2] of the divergence of the plane's neighbourhoods, of Student's t with one degree of freedom, from those wanted.

    By blocks of rows that a processor's cache holds, which takes half the time.
    """
    n, total = len(places), 0.0
    around = np.concatenate([places, np.ones((n, 1), np.float32)], axis=1)  # [n, 3]
    lengths = np.einsum("nd,nd->n", places, places) + 1
    right = np.ascontiguousarray(np.concatenate([-2 * places, np.ones((n, 1), np.float32), lengths[:, None]], axis=1).T)  # [4, n]
    left = np.concatenate([places, (lengths - 1)[:, None], np.ones((n, 1), np.float32)], axis=1)  # [n, 4]
    pulled, pushed = np.empty_like(around), np.empty_like(around)
    for start in range(0, n, BLOCK):
        rows = slice(start, start + BLOCK)
        closeness = left[rows] @ right  # [block, n], 1 + the squared distance
        np.maximum(closeness, 1, out=closeness)
        np.reciprocal(closeness, out=closeness)
        pulled[rows] = (wanted[rows] * closeness) @ around
        total += float(closeness.sum())
        np.square(closeness, out=closeness)
        pushed[rows] = closeness @ around
    # A point neither pulls nor pushes itself: of its own terms, all 1 times its place, nothing is left below but in the total.
    force = pulled - pushed / np.float32(max(total - n, 1e-12))
    return np.asarray(4 * (force[:, 2:] * places - force[:, :2]))


def _squared(points: Array) -> Array:
    """The squared distance of each pair: float32 [n, n]."""
    lengths = np.einsum("nd,nd->n", points, points)
    squared = points @ (-2 * points.T)
    squared += lengths[:, None]
    squared += lengths[None, :]
    return np.asarray(np.maximum(squared, 0, out=squared))
