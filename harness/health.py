"""Judge codes without looking at recall: how much of the bytes they use, what decoding does, and what looks broken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from packbench.items import Array, Items, Ragged, blocks, rows_apart
from packbench.method import COLD, Arrays, Chain, Codec, Method

ROWS = 1024  # rows looked at, evenly spaced
FEWEST = 256  # fewer rows say nothing of how bytes are used
COLUMNS = 512  # bytes of a row counted at a time
PAIRS = 2_000  # random pairs of items whose scores are compared

# What honest codes keep clear of.
LEAST_USE = 0.4  # share of the stored bits that carry information
MOST_WRAPPED = 0.015  # share of coordinates that come back at the opposite end of their range
MOST_SPREAD = 0.5  # standard deviation over mean of decoded length by true length


def health_of(method: Method, codes: Arrays, shared: Arrays, items: Items) -> dict[str, float]:
    """Return figures about codes; those that a method's codes do not admit are left out.

    `use` is the entropy of the bytes of integer codes, position by position, as a share of their bits, and `values`
    how many values a position takes (median). `distinct` is how many values integers wider than a byte take, one to a
    coordinate, and `levels` how many the method's bits allow. Where codes can be decoded: `norm_ratio` is the median
    length of decoded vectors by that of the true ones and `norm_spread` its deviation over its mean; `score_slope` and
    `score_correlation` compare inner products of decoded with true items, both centred, with the true ones; `wrapped`
    is the share of coordinates that lie more than a deviation on one side of the mean and come back as far on the
    other; `clipped` is the share that lie beyond all that is decoded.
    """
    n = len(items)
    rows = np.unique(np.linspace(0, n - 1, min(n, ROWS)).astype(np.int64)) if n else np.arange(0)
    follow = {name: rows_apart(array, rows) for name, array in codes.items() if array.ndim and len(array) == n}
    # Numbers stored as they are have bytes that say little, and promise nothing else.
    coded = [array for name, array in follow.items()
             if not name.startswith(COLD) and array.dtype.kind in "iu" and array.size]  # fmt: skip
    found: dict[str, float] = {}
    # Arrays that do not follow the items, such as streams, leave but their offsets to look at.
    if len(follow) != len(codes) or len(rows) < 2:
        return found
    if len(rows) >= FEWEST and coded:
        found |= _use(coded)
    if isinstance(items, Ragged):
        return found
    inner, seen, stored, fitted = method, cast(Items, items[rows]), cast(Arrays, follow), shared
    while isinstance(inner, Chain):
        inner, seen, stored, fitted = inner.inside(seen, stored, fitted)
    found |= _levels(inner, [array for array in coded if array.shape[1:] == np.asarray(seen).shape[1:]])
    if isinstance(inner, Codec):
        found |= _decoded(np.asarray(seen, np.float32), np.asarray(inner.decode(stored, fitted), np.float32))
    return found


def red_flags(health: Mapping[str, Any]) -> list[str]:
    """Return what looks broken, in words, from the figures of a result alone; recall is not among them."""
    flags = []
    if health.get("use", 1.0) < LEAST_USE:
        flags.append(f"codes carry {8 * health['use']:.1f} of the 8 bits in each byte")
    if "levels" in health and health["distinct"] > health["levels"]:
        flags.append(f"codes take {health['distinct']:.0f} values where their bits allow {health['levels']:.0f}")
    if health.get("wrapped", 0.0) > MOST_WRAPPED:
        flags.append(f"{health['wrapped']:.1%} of coordinates come back at the opposite end of their range")
    if health.get("norm_spread", 0.0) > MOST_SPREAD:
        flags.append(f"lengths of decoded vectors vary by {health['norm_spread']:.0%} against the true ones")
    if health.get("reordered", 1.0) == 0:
        flags.append("the second stage changes no answer of the first")
    if "failed" in health:
        flags.append(f"could not be looked into: {health['failed']}")
    return flags


def _use(coded: list[Array]) -> dict[str, float]:
    entropies, values = [], []
    for array in coded:
        as_bytes = np.ascontiguousarray(array).reshape(len(array), -1).view(np.uint8)
        for part in blocks(as_bytes.shape[1], COLUMNS):
            columns = as_bytes[:, part]
            places = columns + 256 * np.arange(columns.shape[1])
            counts = np.bincount(places.ravel(), minlength=256 * columns.shape[1]).reshape(-1, 256)
            shares = counts / len(columns)
            logarithms = np.log2(shares, where=shares > 0, out=np.zeros_like(shares))
            entropies.append(-(shares * logarithms).sum(axis=1))
            values.append((counts > 0).sum(axis=1))
    return {"use": float(np.concatenate(entropies).mean() / 8), "values": float(np.median(np.concatenate(values)))}


def _levels(method: Method, coded: list[Array]) -> dict[str, float]:
    bits = getattr(method, "bits", None)
    wide = [array for array in coded if array.dtype.itemsize > 1]
    if not isinstance(bits, int) or not wide:
        return {}
    return {"distinct": float(max(len(np.unique(array)) for array in wide)), "levels": 2.0**bits}


def _decoded(true: Array, decoded: Array) -> dict[str, float]:
    lengths = np.linalg.norm(true, axis=1)
    ratios = np.linalg.norm(decoded, axis=1)[lengths > 0] / lengths[lengths > 0]
    beyond = (true > decoded.max(axis=0)) | (true < decoded.min(axis=0))
    mean, deviation = true.mean(axis=0), true.std(axis=0)
    deviation[deviation == 0] = np.inf
    was, centred = true - mean, decoded - mean
    wrapped = (np.abs(was) > deviation) & (np.abs(centred) > deviation) & ((was > 0) != (centred > 0))
    centred += mean - decoded.mean(axis=0)
    left, right = np.random.default_rng(0).integers(0, len(true), (2, PAIRS))
    first = was[left]
    scores, kept = np.einsum("ij,ij->i", first, was[right]), np.einsum("ij,ij->i", first, centred[right])
    (alone, together), (_, own) = np.cov(scores, kept)
    return {
        "norm_ratio": float(np.median(ratios)) if len(ratios) else 0.0,
        "norm_spread": float(ratios.std() / ratios.mean()) if len(ratios) and ratios.mean() > 0 else 0.0,
        "score_slope": float(together / alone) if alone > 0 else 0.0,
        "score_correlation": float(together / np.sqrt(alone * own)) if alone > 0 and own > 0 else 0.0,
        "wrapped": float(wrapped.mean()),
        "clipped": float(beyond.mean()),
    }
